"""What was measured beside what is right: one line each."""

from __future__ import annotations

from msgspec import Struct


class Check(Struct):
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
        return f"CHECK {self.what:66} {found:>10}  <= {self.limit:g}{self.unit:4} {'met' if self.met else 'MISSED'}"


def show(checks: list[Check]) -> None:
    for check in checks:
        print(check, flush=True)
