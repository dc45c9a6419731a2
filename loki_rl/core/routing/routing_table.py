"""Routing tables as the Loki paper makes them (HPDC'24, MostAccurateFirst): which server of a task gets which share of what
comes by each path."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, pairwise
from math import prod

from msgspec import Struct

from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Plan

Rates = dict[int, float]  # variant path so far (Pipeline.extend, 0 at an entry task) -> items per second that come by it


class Backend(Struct, frozen=True):
    """A server of a task. number: its own; capacity [items/s]: at the batch it runs with."""

    number: int
    variant: int
    capacity: float


class Choice(Struct, frozen=True):
    """Seats for what comes by one path: bounds of their cumulative shares, the last one is 1."""

    seats: tuple[Backend, ...]
    bounds: tuple[float, ...]

    def pick(self, u: float) -> Backend:
        """The seat of a uniform number in [0, 1)."""
        return self.seats[min(bisect_right(self.bounds, u), len(self.seats) - 1)]


class RoutingTable:
    """Of one task, for the servers it has now. Equal plans and servers give equal tables."""

    def __init__(self, pipeline: Pipeline, task: int, plan: Plan | None, seats: Iterable[Backend]) -> None:
        ranked = most_accurate_first(pipeline, task, seats)
        self._paths: dict[int, Choice] = {}
        if plan is not None and ranked:
            shares = fill(ranked, coming(pipeline, task, plan), _accuracy(pipeline, task))
            self._paths = {path: _choice(ranked, given) for path, given in shares.items()}
        # For a path that the plan does not have: by what the seats can do.
        self._others = _choice(ranked, [seat.capacity for seat in ranked])

    def pick(self, path: int, u: float, able: Callable[[Backend], bool] | None = None) -> Backend | None:
        """Where an item goes that came by a path; able: only such seats count. None if there is no seat for it."""
        choice = self._paths.get(path, self._others)
        for one in (choice, self._others):
            seats = one.seats if able is None else tuple(seat for seat in one.seats if able(seat))
            if seats:
                return (one if len(seats) == len(one.seats) else _among(one, seats)).pick(u)
        return None


def most_accurate_first(pipeline: Pipeline, task: int, seats: Iterable[Backend]) -> list[Backend]:
    """Seats by accuracy of their variants, then by number."""
    variants = pipeline.tasks[task].variants
    return sorted(seats, key=lambda seat: (-variants[seat.variant].accuracy, seat.variant, seat.number))


def coming(pipeline: Pipeline, task: int, plan: Plan) -> Rates:
    """What comes to a task by each path: the plan's demand poured through the servers of the plan above it."""
    line = pipeline.lines[task]
    rates: Rates = {0: plan.demand_rps * pipeline.tasks[line[0]].entry}
    for above, below in pairwise(line):
        ranked = most_accurate_first(pipeline, above, _planned(pipeline, above, plan))
        child = pipeline.children[above].index(below)
        rates = _through(pipeline, above, child, ranked, rates)
    return rates


def fill(ranked: Sequence[Backend], rates: Rates, accuracy: Callable[[int], float]) -> dict[int, list[float]]:
    """Path -> items per second for each seat. The most accurate paths first, each fills the seats in their order, from where
    the one before stopped; what is left when all are full is spread evenly over all."""
    room = [seat.capacity for seat in ranked]
    given: dict[int, list[float]] = {}
    for path in sorted(rates, key=lambda path: (-accuracy(path), path)):
        mine, left = [0.0] * len(ranked), rates[path]
        for place, free in enumerate(room):
            mine[place] = min(free, left)
            room[place] -= mine[place]
            left -= mine[place]
        given[path] = [amount + left / len(ranked) for amount in mine] if ranked else []
    return given


def _planned(pipeline: Pipeline, task: int, plan: Plan) -> list[Backend]:
    name, found = pipeline.tasks[task].name, list[Backend]()
    for place in plan.placements:
        if place.task == name:
            variant = pipeline.variant_index[task][place.variant]
            rate = place.batch / pipeline.service_s[task][variant][place.batch]
            found += [Backend(len(found) + copy, variant, rate) for copy in range(place.replicas)]
    return found


def _through(pipeline: Pipeline, task: int, child: int, ranked: Sequence[Backend], rates: Rates) -> Rates:
    """Of what comes to a task, what its servers make for the child at this place."""
    below: Rates = {}
    for path, given in fill(ranked, rates, _accuracy(pipeline, task)).items():
        for seat, amount in zip(ranked, given, strict=True):
            if amount > 0:
                longer = pipeline.extend(path, seat.variant)
                below[longer] = below.get(longer, 0.0) + amount * pipeline.fanouts[task][seat.variant][child]
    return below


def _accuracy(pipeline: Pipeline, task: int) -> Callable[[int], float]:
    """Of a path to a task: the product of its variants'."""
    line = pipeline.lines[task]

    def of(path: int) -> float:
        return prod(pipeline.tasks[t].variants[v].accuracy for t, v in zip(line, pipeline.unpack(path), strict=False))

    return of


def _choice(ranked: Sequence[Backend], given: Sequence[float]) -> Choice:
    pairs = [(seat, amount) for seat, amount in zip(ranked, given, strict=True) if amount > 0]
    total = sum(amount for _, amount in pairs)
    return Choice(tuple(seat for seat, _ in pairs), tuple(accumulate(amount / total for _, amount in pairs)))


def _among(choice: Choice, seats: tuple[Backend, ...]) -> Choice:
    """The same shares, of some seats only."""
    widths = [high - low for low, high in zip((0.0, *choice.bounds), choice.bounds, strict=False)]
    return _choice(seats, [width for seat, width in zip(choice.seats, widths, strict=True) if seat in seats])
