"""How far apart plane and twin may be, and whether they are. Owns the bars."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from typing import Annotated, Literal

from msgspec import Struct
from msgspec.structs import asdict, replace

from loki_rl.options import Help, NotNegative
from loki_rl.reports.statistics import Interval

Answer = Literal["within", "outside", "inconclusive"]
Bar = NotNegative | None


class Bars(Struct, frozen=True, kw_only=True):
    """Largest differences, in the units of the figures; of what has none the difference is only told."""

    violations: Annotated[Bar, Help("Bar of violations [points].", "--bar-violations")] = None
    overload: Annotated[
        Bar, Help("Bar of violations where demand exceeds what the best models can serve [points].", "--bar-overload")
    ] = None
    accuracy: Annotated[Bar, Help("Bar of accuracy [points].", "--bar-accuracy")] = None
    servers: Annotated[Bar, Help("Bar of the mean servers in use.", "--bar-servers")] = None
    p50: Annotated[Bar, Help("Bar of the median latency [% of the twin's].", "--bar-p50")] = None
    p95: Annotated[Bar, Help("Bar of the 95th percentile of latency [% of the twin's].", "--bar-p95")] = None
    p99: Annotated[Bar, Help("Bar of the 99th percentile of latency [% of the twin's].", "--bar-p99")] = None

    def of(self, figure: str, overloaded: bool) -> float | None:
        """The bar of a figure, if it has one."""
        found: float | None = getattr(self, "overload" if figure == "violations" and overloaded else figure, None)
        return found

    def override(self, asked: Bars) -> Bars:
        """These bars, but for those that were asked for."""
        return replace(self, **{name: bar for name, bar in asdict(asked).items() if bar is not None})


# Real models take turns on cores with whatever else the host does.
EMULATED = Bars(violations=0.5, overload=2.0, accuracy=0.2, servers=0.3, p99=10.0)
REAL = Bars(violations=3.0, overload=3.0, p50=10.0, p99=25.0)


def verdict(difference: Interval, bar: float) -> Answer:
    """Within or outside where the whole interval is; where it reaches over the bar, or there is none, nobody can tell."""
    if not (isfinite(difference.low) and isfinite(difference.high)):
        return "inconclusive"
    if -bar <= difference.low and difference.high <= bar:
        return "within"
    return "outside" if difference.low > bar or difference.high < -bar else "inconclusive"


def together(answers: Iterable[Answer]) -> Answer:
    """Of all figures: outside if one is, else inconclusive if one is."""
    known = set(answers)
    return "outside" if "outside" in known else "inconclusive" if "inconclusive" in known else "within"
