"""The mode that cannot serve all: the most by weight at the accuracy floors, then most accurately. How many servers must
stay idle follows from what is served, which is the answer."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import count as numbers
from typing import Any

from msgspec import Struct

from loki_rl.control.allocator.greedy import round_up
from loki_rl.control.allocator.search import SLACK, Found, Search
from loki_rl.control.formulation.accuracy import TIE
from loki_rl.control.formulation.problem import ANY, LONG_S, Problem, Span
from loki_rl.control.solver.solve import Solved

# A demand that can be served up to this share counts as served. What is missing adds to the gap.
NEARLY_ALL = 1 - 2e-7
# How far the bound of all divisions of the cluster may be above what was found, and after how many questions it may be more.
CLOSE = 2e-7
MOST_BOXES = 200

Rates = tuple[float, ...]
# (part, type): least and most servers.
Holdings = dict[tuple[int, int], tuple[int, int]]


class _Fleet(Struct, frozen=True):
    """Servers of one pipeline and the demand [1/s] of which they serve a share; with as many, no more than bound_rps [1/s]
    can be served."""

    counts: list[int]
    demand_rps: float
    share: float
    bound_rps: float
    status: str


class _Box(Struct, frozen=True):
    """Ways to divide the cluster, and the most that can be served of each part [1/s] in any of them."""

    holdings: Holdings
    most: Rates


def shed(search: Search) -> Found | None:
    """Serve the most by weight at the accuracy floors, then most accurately; None if nothing can be served."""
    shedding = _Shedding(search)
    if not shedding.possible:
        return None
    fleets, bound = shedding.best()
    served = sum(fleet.share for fleet in fleets)
    if served < TIE and not search.doubt:
        return None
    networks, demands = search.networks, tuple(fleet.demand_rps for fleet in fleets)
    counts = _most_accurate(search, fleets)
    return Found("shed", "most served", networks, counts, served, bound, fleets[0].status, demands)


def _most_accurate(search: Search, fleets: list[_Fleet]) -> list[int]:
    """Among the fleets that serve as much of each part, one of the most accurate."""
    counts = [count for fleet in fleets for count in fleet.counts]
    if not search.has_time():
        return counts
    kept, demands = search.kept(search.networks), tuple(fleet.demand_rps for fleet in fleets)
    served: list[Span] = [(fleet.share * (1 - SLACK),) * 2 for fleet in fleets]
    limits: dict[str, Any] = {"served": served, "floors": search.floors, "start": counts}
    solved = search.ask(kept, "most accurate", demands, **limits)
    return kept.counts if solved.found else counts


class _Shedding:
    """Branch and bound over ways to divide the cluster among the parts.

    A demand needs more idle servers per request the smaller it is; with servers of its own, what can be served of it is a
    fixed point from above (`alone`). A box is bounded by one question to all parts with the needs of the most that each may
    serve there. Where the division that answers it serves less, a part either has no more servers than it has there, so it
    is served no more, or more of some type. A single part has everything: its fixed point is the answer.
    """

    def __init__(self, search: Search) -> None:
        self.search, self.parts = search, range(len(search.parts))
        self.wholes = tuple(1.0 if search.unlimited else demand for demand in search.demands)
        self.kept = [search.kept((network,)) for network in search.networks]
        self.known: dict[tuple[int, tuple[int, ...]], _Fleet] = {}
        self.most, self.wanted = zip(*map(self._relaxed, self.parts), strict=True)
        self.asked = 0

    @property
    def possible(self) -> bool:
        """Whether something can be served of every part, if it had the cluster to itself."""
        return all(most >= TIE for most in self.most)

    def _relaxed(self, part: int) -> tuple[float, list[float]]:
        """More [1/s] than can be served, and by which servers: they can be split and none stays idle. It takes its time, for
        without it there is no plan."""
        limits: dict[str, Any] = {"served": [(0.0, None)], "floors": [self.search.floors[part]], "time_limit_s": LONG_S}
        kept = self.kept[part]
        solved = self.search.ask(kept, "most served", (1.0,), weights=(1.0,), integer=False, reserving=False, **limits)
        # Flows are shares of what could be served at all: with an absurd demand they would drown in tolerances.
        limit = self.search.demand_limits[part]
        return (min(solved.objective, limit) if solved.found else 0.0), kept.values

    def alone(self, part: int, servers: tuple[int, ...]) -> _Fleet:
        """The most of a part with servers of its own, whose idle ones are those that this needs."""
        if (part, servers) not in self.known:
            self.known[part, servers] = self._fixed_point(part, servers)
        return self.known[part, servers]

    def _fixed_point(self, part: int, servers: tuple[int, ...]) -> _Fleet:
        demand, reserving = self.most[part], self.search.settings[part].reserving
        counts = round_up(self.kept[part].configurations, self.wanted[part], servers)
        fleet = _Fleet(counts, demand, 0.0, demand, self.search.doubt)
        while True:
            solved = self._ask(part, demand, servers, fleet.counts)
            if not solved.found:
                return fleet
            fleet = _Fleet(self.kept[part].counts, demand, solved.objective, demand * solved.bound, solved.status)
            if not (reserving and NEARLY_ALL > solved.objective > TIE and self.search.has_time()):
                return fleet
            demand *= solved.objective

    def _ask(self, part: int, demand: float, servers: tuple[int, ...], start: list[int]) -> Solved:
        limits: dict[str, Any] = {"served": [ANY], "floors": [self.search.floors[part]], "start": start}
        return self.search.ask(self.kept[part], "most served", (demand,), servers=servers, weights=(1.0,), **limits)

    def best(self) -> tuple[list[_Fleet], float]:
        """The best fleets found and a bound for all, by weight."""
        fleets = [self.alone(part, self.search.servers) for part in self.parts]
        most = tuple(fleet.bound_rps for fleet in fleets)
        if self._fit(fleets):
            return fleets, self._worth(most)
        return self._divided(_Box({}, most))

    def _fit(self, fleets: list[_Fleet]) -> bool:
        used = [0] * len(self.search.servers)
        for kept, fleet in zip(self.kept, fleets, strict=True):
            for (_, configuration), count in zip(kept.configurations, fleet.counts, strict=True):
                used[configuration.pool] += count
        return all(a <= b for a, b in zip(used, self.search.servers, strict=True))

    def _worth(self, rates: Rates) -> float:
        return self.search.weighed([rate / whole for rate, whole in zip(rates, self.wholes, strict=True)])

    def _divided(self, root: _Box) -> tuple[list[_Fleet], float]:
        """Best first. Every answer is a division of the cluster, whose own fixed points are known exactly."""
        joint = self.search.kept(self.search.networks)
        ticket, start = numbers(), self._first(joint, root)
        boxes = [(-self._worth(root.most), next(ticket), root)]
        best, value, bound = list[_Fleet](), -1.0, 0.0
        while boxes and -boxes[0][0] > value * (1 + CLOSE):
            above, _, box = heappop(boxes)
            if best and self._enough():
                return best, max(bound, -above)
            solved, limit = self._inside(joint, box, start)
            if solved.outcome == "infeasible":
                continue
            start, limit = joint.counts if solved.found else start, min(-above, limit)
            division = self._division(joint, start)
            if solved.found and (self._settled(joint) or not self.search.has_time()):
                fleets, part, loss = self._answered(joint, box, solved.status), 0, 0.0
            else:
                fleets = [self.alone(part, division[part]) for part in self.parts]
                part, loss = self._worst(joint, box, fleets) if solved.found else (0, 0.0)
            if self._value(fleets) > value:
                best, value = fleets, self._value(fleets)
            if loss <= CLOSE * limit:
                bound = max(bound, limit)
                continue
            for child in self._children(box, part, division[part], fleets[part].bound_rps):
                heappush(boxes, (-limit, next(ticket), child))
        return best, max(bound, value, *(-above for above, _, _ in boxes[:1]))

    def _first(self, joint: Problem, root: _Box) -> list[int]:
        """A fleet near the relaxation."""
        limits: dict[str, Any] = {"served": [ANY] * len(self.parts), "floors": self.search.floors, "time_limit_s": LONG_S}
        self.search.ask(joint, "most served", root.most, integer=False, **limits)
        return round_up(joint.configurations, joint.values, self.search.servers)

    def _enough(self) -> bool:
        if self.asked >= MOST_BOXES:
            self.search.doubt = self.search.doubt or "Limit of divisions"
        return self.asked >= MOST_BOXES or not self.search.has_time()

    def _inside(self, joint: Problem, box: _Box, start: list[int]) -> tuple[Solved, float]:
        """The most by weight inside a box, and its bound."""
        self.asked += 1
        shares = zip(self.search.weights, box.most, self.wholes, strict=True)
        worth = [weight * most / whole for weight, most, whole in shares]
        scale = max(worth)
        if scale <= 0:
            return Solved("infeasible", "Infeasible", 0.0, 0.0, 0.0, {}), 0.0
        demands = tuple(most or 1.0 for most in box.most)
        served: list[Span] = [ANY if most else (0.0, 0.0) for most in box.most]
        limits: dict[str, Any] = {"served": served, "floors": self.search.floors, "holdings": box.holdings, "start": start}
        weights = tuple(one / scale for one in worth)
        solved = self.search.ask(joint, "most served", demands, weights=weights, **limits)
        return solved, scale * solved.bound if solved.found else self._worth(box.most)

    def _settled(self, joint: Problem) -> bool:
        """Whether every part is served to the most of the box, if at all: its idle servers are as many as it needs."""
        reserving = any(setting.reserving for setting in self.search.settings)
        return not reserving or all(share <= TIE or share >= NEARLY_ALL for share in joint.served)

    def _answered(self, joint: Problem, box: _Box, status: str) -> list[_Fleet]:
        """Each part's servers as they are in the answer for all."""
        parts = zip(joint.split(joint.counts), joint.served, box.most, strict=True)
        return [_Fleet(list(counts), most or 1.0, share, most, status) for counts, share, most in parts]

    def _division(self, joint: Problem, counts: list[int]) -> list[tuple[int, ...]]:
        """Of each part how many servers it has of each type."""
        used = [[0] * joint.types for _ in self.parts]
        for (part, configuration), count in zip(joint.configurations, counts, strict=True):
            used[part][configuration.pool] += count
        return [tuple(mine) for mine in used]

    def _value(self, fleets: list[_Fleet]) -> float:
        return self._worth(tuple(fleet.share * fleet.demand_rps for fleet in fleets))

    def _worst(self, joint: Problem, box: _Box, fleets: list[_Fleet]) -> tuple[int, float]:
        """The part of which a box promises too much by the greatest worth, and this worth."""
        promised = zip(joint.served, box.most, fleets, self.search.weights, self.wholes, strict=True)
        losses = [
            (share * most - fleet.share * fleet.demand_rps) * weight / whole
            for share, most, fleet, weight, whole in promised
        ]
        worst = max(self.parts, key=losses.__getitem__)
        return worst, losses[worst]

    def _children(self, box: _Box, part: int, servers: tuple[int, ...], bound_rps: float) -> Iterator[_Box]:
        """No more servers than these, or more of one of the types that it can use."""
        held = dict(box.holdings)
        for pool in sorted({configuration.pool for _, configuration in self.kept[part].configurations}):
            count = servers[pool]
            least, most = held.get((part, pool), (0, self.search.servers[pool]))
            if count < most:
                yield _Box(held | {(part, pool): (count + 1, most)}, box.most)
            held[part, pool] = (least, count)
        yield _Box(held, (*box.most[:part], min(bound_rps, box.most[part]), *box.most[part + 1 :]))
