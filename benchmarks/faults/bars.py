"""What was measured beside what is right: one line each."""

from __future__ import annotations

from msgspec import Struct


class Bar(Struct):
    """limit: most that is right, in the unit of `measured`. measured: None where nothing was."""

    what: str
    measured: float | None
    limit: float
    unit: str = ""
    digits: int = 2

    @property
    def met(self) -> bool:
        return self.measured is not None and self.measured <= self.limit

    def __str__(self) -> str:
        found = "nothing" if self.measured is None else f"{self.measured:.{self.digits}f}{self.unit}"
        return f"BAR {self.what:66} {found:>10}  <= {self.limit:g}{self.unit:4} {'met' if self.met else 'MISSED'}"


def show(bars: list[Bar]) -> None:
    for bar in bars:
        print(bar, flush=True)
