"""What each fault did to clients, and how soon the plane noticed it and served as before."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import inf, isinf

from msgspec import Struct

from loki_rl.serving.chaos.schedule import Fault, Kind
from loki_rl.serving.chaos.watch import Sign
from loki_rl.serving.load.open_loop import Record

# The share in time is that of requests due within so long [s], looked at so often [s]; it is back when no more than this is
# missing of what it was before the first fault.
SHARE_S, STEP_S, MISSING = 1.0, 0.1, 0.05
# Signs later than this belong to something else [s].
NOTICED_S = 15.0
# By what the plane shows that it has noticed. What ends before anybody has to do anything shows by nothing.
SIGNS: dict[Kind, frozenset[str]] = {
    "kill": frozenset({"gone"}),
    "stop": frozenset({"gone"}),
    "hang": frozenset({"gone"}),
    "poison": frozenset({"gone"}),
    "slow": frozenset({"gone", "drift"}),
    "corrupt": frozenset({"failure"}),
    "missing": frozenset({"failure"}),
    "disk": frozenset({"gone"}),
    "withhold": frozenset({"gone", "silent", "unready"}),
}


class Struck(Struct):
    """A fault that was carried out, and when [s]."""

    fault: Fault
    at: float


class Cost(Struct):
    """Of one fault [s since it]; noticed_s: infinite if nothing showed. back_s: until the share in time is back, 0 if it
    never went, infinite if it did not come back. affected: requests not answered well and in time, up to the next fault."""

    kind: Kind
    noticed_s: float
    back_s: float
    affected: int


def costs(
    records: Sequence[Record], struck: Sequence[Struck], signs: Sequence[Sign], slo_s: float, workers: Sequence[str]
) -> tuple[float, list[Cost]]:
    """The share in time before the first fault, and of each fault what it cost. records: by the time they were due."""
    shares = Shares(records, slo_s)
    usual = shares.between(-inf, struck[0].at - slo_s) if struck else 1.0
    ends = [later.at for _, later in pairwise(struck)] + [inf]
    return usual, [
        Cost(
            one.fault.kind,
            _noticed(one, signs, workers) - one.at,
            shares.back(one.at, min(until, shares.end), usual - MISSING) - one.at,
            shares.bad(one.at - slo_s, until - slo_s),
        )
        for one, until in zip(struck, ends, strict=True)
    ]


def _noticed(one: Struck, signs: Sequence[Sign], workers: Sequence[str]) -> float:
    """When the first sign came of what this kind of fault shows by, and of whom it struck, if that is known."""
    whom = set(one.fault.target.split()) or set(workers)
    wanted = SIGNS[one.fault.kind]
    mine = (
        sign.at
        for sign in signs
        if one.at <= sign.at < one.at + NOTICED_S and sign.what in wanted and (not sign.whom or sign.whom in whom)
    )
    return next(mine, inf)


class Shares:
    """Of the requests due in a time, how many were answered well and in time. end: when the last one was due [s]."""

    def __init__(self, records: Sequence[Record], slo_s: float) -> None:
        self._due = [record.due for record in records]
        self._good = [0, *accumulate(record.ok(slo_s) for record in records)]
        self.end = self._due[-1] if self._due else -inf

    def bad(self, begin: float, end: float) -> int:
        first, last = self._span(begin, end)
        return last - first - (self._good[last] - self._good[first])

    def between(self, begin: float, end: float) -> float:
        first, last = self._span(begin, end)
        return (self._good[last] - self._good[first]) / (last - first) if last > first else 1.0

    def back(self, begin: float, until: float, least: float) -> float:
        """From when on the share is at least that again, if it falls below between these times; else `begin`."""
        at, fell = begin, False
        while at + SHARE_S <= until or fell:
            low = self.between(at, at + SHARE_S) < least
            if fell and not low:
                return at
            if at + SHARE_S > self.end:
                return inf if fell else begin
            fell |= low
            at += STEP_S
        return begin

    def _span(self, begin: float, end: float) -> tuple[int, int]:
        return bisect_left(self._due, begin), bisect_left(self._due, end)


class Row(Struct):
    """All faults of a kind. noticed: how many; times [s] are median and worst, of those that were noticed or that cost
    anything, 0 where none did. not_back: faults after which the share did not come back before the end."""

    kind: Kind
    count: int
    noticed: int
    noticed_s: tuple[float, float]
    cost: int
    back_s: tuple[float, float]
    not_back: int
    affected: int


def row(kind: Kind, found: Sequence[Cost]) -> Row:
    noticed = sorted(one.noticed_s for one in found if not isinf(one.noticed_s))
    back = sorted(one.back_s for one in found if 0 < one.back_s < inf)
    return Row(
        kind=kind,
        count=len(found),
        noticed=len(noticed),
        noticed_s=_spread(noticed),
        cost=sum(one.back_s > 0 for one in found),
        back_s=_spread(back),
        not_back=sum(isinf(one.back_s) for one in found),
        affected=sum(one.affected for one in found),
    )


def _spread(times: Sequence[float]) -> tuple[float, float]:
    return (times[len(times) // 2], times[-1]) if times else (0.0, 0.0)
