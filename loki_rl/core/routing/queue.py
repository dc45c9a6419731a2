"""The queue of one task, earliest deadline first, and the forming of batches. Owns what is dropped, kept for a faster
variant, or run; knows no worker and no message."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from math import inf
from typing import NamedTuple

from loki_rl.core.pipeline import root_of
from loki_rl.core.requests.items import Family, size

Allows = Callable[[Family], bool]
NUMBER_BITS = 31  # of the order: the place of an item among its siblings, which is below what an id holds


class Entry(NamedTuple):
    """Siblings that wait. place: their soft deadline less the boost [s]; order: of arrival; hard: their hard deadline [s];
    came: when [s]."""

    place: float
    order: int
    hard: float
    family: Family
    came: float


Lane = list[Entry]


class DeadlineQueue:
    """Items ordered by soft deadline (when this task should end), each with its hard one (when nothing helps any more).

    Deadlines are stamped on entry and never move. An item is wanted by a variant if a batch of it would end by the limit:
    the hard deadline, or the soft one while the task is overloaded (with the hard rule alone an
    overloaded first task hands over requests without slack, and later tasks run batches of one).

    Siblings have the same deadlines and came together, so they stand in one entry; a batch that has room for some of them
    only takes the first ones, and the entry keeps the others.

    Items stand in lanes by the variants that made them (`arrange`), so that a variant can be given those that the plan
    means for it; whoever asks for no lane gets the earliest of all.

    shift, parent_shift: of the task (Pipeline.shifts, Pipeline.parent_shifts). known: parent -> its items that wait or are
    in a worker's hands. sizes: lane -> items in it; waiting: of all. newest_soft: of the item that came last. beside: a
    queue of the same task; an item that one of them knows is known to all.
    """

    def __init__(self, shift: int, parent_shift: int, beside: DeadlineQueue | None = None) -> None:
        self.shift = shift
        self.parent_shift = parent_shift
        self.lanes: list[Lane] = [[]]
        self.sizes = [0]
        self.known: dict[int, int] = {} if beside is None else beside.known
        self.orders: Iterator[int] = count(1) if beside is None else beside.orders
        self.waiting = 0
        self.newest_soft = 0.0
        self._lane_of: Mapping[int, int] = {}

    def __len__(self) -> int:
        return self.waiting

    def validate(self) -> None:
        """Raise AssertionError if the counts are not those of what waits, or a lane is out of order."""
        sizes = [size([entry.family for entry in lane]) for lane in self.lanes]
        assert sizes == self.sizes, "a lane lost count of those that wait"
        assert sum(sizes) == self.waiting, "the queue lost count of those that wait"
        assert all(lane[(at - 1) // 2] < lane[at] for lane in self.lanes for at in range(1, len(lane))), "not a heap"

    def arrange(self, lane_of: Mapping[int, int], lanes: int) -> None:
        """From now on items of these prefixes stand in these lanes (others in lane 0), also those that wait already."""
        entries = self.take_all()
        self._lane_of = lane_of
        self.lanes = [[] for _ in range(lanes)]
        self.sizes = [0] * lanes
        self.put_back(entries)

    def push(self, families: Sequence[Family], split: float, after_s: float, now: float) -> list[Family]:
        """Take items in: this task should end them after this share of their time, and must so long [s] before its end.
        Families of which any item is known are repeats and ignored; returns the others."""
        known, orders, lanes, lane_of, push = self.known, self.orders, self.lanes, self._lane_of, heapq.heappush
        up, sizes = self.parent_shift, self.sizes
        fresh: list[Family] = []
        soft, came = self.newest_soft, 0
        for family in families:
            parent = family.id >> up
            if parent not in known:
                members = known[parent] = family.count
                soft = family.t0 + (family.deadline - family.t0) * split
                place = soft if family.terms is None else soft - family.terms.boost
                lane = lane_of.get(family.prefix, 0) if lane_of else 0
                push(lanes[lane], Entry(place, next(orders) << NUMBER_BITS, family.deadline - after_s, family, now))
                sizes[lane] += members
                came += members
                fresh.append(family)
        # Not the latest of all: one request with a very long deadline would hide every overload that follows.
        self.newest_soft = soft
        self.waiting += came
        return fresh

    def put_back(self, entries: Sequence[Entry]) -> None:
        """Items that a worker did not finish wait again, each in its old place."""
        for entry in entries:
            family = entry.family
            lane = self._lane_of.get(family.prefix, 0)
            heapq.heappush(self.lanes[lane], entry)
            self.sizes[lane] += family.count
            self.waiting += family.count

    def forget(self, entries: Sequence[Entry]) -> None:
        """These items have ended."""
        known, up = self.known, self.parent_shift
        for entry in entries:
            family = entry.family
            parent = family.id >> up
            left = known[parent] - family.count
            if left:
                known[parent] = left
            else:
                del known[parent]

    def form(
        self,
        cap: int,
        service_s: tuple[float, ...],
        now: float,
        rescue_s: Callable[[], float],
        soft_rule: bool,
        allows: Allows | None = None,
        lanes: Sequence[int] | None = None,
    ) -> tuple[list[Entry], list[Entry]]:
        """The next batch for a variant with these service times [s], of at most cap items, and the items dropped.

        The batch is not shrunk to save its head: an item that would be late in it is left for a variant that takes
        rescue_s() [s], if that one can still make it (infinite: no other variant), else dropped (Nexus' early drop,
        SOSP'19). allows: whether the variant may serve an item that has terms; one that it may not is left too. lanes: the
        only ones to look at (None: all).
        """
        chosen = range(len(self.lanes)) if lanes is None else lanes
        several, lane = len(chosen) > 1, chosen[0]
        waiting = sum([self.sizes[lane] for lane in chosen]) if several else self.sizes[lane]
        finish = now + service_s[min(cap, waiting)]
        batch: list[Entry] = []
        dropped: list[Entry] = []
        left: list[Entry] = []
        while cap:
            if several:
                lane = self._earliest(chosen)
            if not self.lanes[lane]:
                break
            place, _, hard, family, _ = self.lanes[lane][0]
            limit = place if soft_rule else hard
            if family.terms is not None:
                if allows is not None and not allows(family):
                    left.append(self._pop(lane, family.count))
                    continue
                limit = place + family.terms.boost if soft_rule else hard
            if finish <= limit:
                count = min(cap, family.count)
                batch.append(self._pop(lane, count))
                cap -= count
            elif now + rescue_s() <= limit:
                left.append(self._pop(lane, family.count))
            else:
                dropped.append(self._pop(lane, family.count))
        if left:
            self.put_back(left)
        if dropped:
            self.forget(dropped)
        return batch, dropped

    def take(self, cap: int, allows: Allows | None = None, lanes: Sequence[int] | None = None) -> list[Entry]:
        """The next batch with no regard to lateness."""
        chosen = range(len(self.lanes)) if lanes is None else lanes
        batch: list[Entry] = []
        left: list[Entry] = []
        while cap and self.lanes[lane := self._earliest(chosen)]:
            family = self.lanes[lane][0].family
            if family.terms is None or allows is None or allows(family):
                count = min(cap, family.count)
                batch.append(self._pop(lane, count))
                cap -= count
            else:
                left.append(self._pop(lane, family.count))
        self.put_back(left)
        return batch

    def take_all(self) -> list[Entry]:
        """Everything that waits, in its order."""
        entries = sorted(entry for lane in self.lanes for entry in lane)
        self.lanes = [[] for _ in self.lanes]
        self.sizes = [0] * len(self.lanes)
        self.waiting = 0
        return entries

    def take_late(self, finish: float, soft_rule: bool) -> list[Entry]:
        """Remove the items at the heads that would be late in a batch that ends at `finish` [s]."""
        late: list[Entry] = []
        for number, lane in enumerate(self.lanes):
            while lane and finish > self.limit(lane[0], soft_rule):
                late.append(self._pop(number, lane[0].family.count))
        return late

    @staticmethod
    def limit(entry: Entry, soft_rule: bool) -> float:
        """When items must have ended here to be of use [s]; a boost moves their place, not this."""
        if not soft_rule:
            return entry.hard
        return entry.place if entry.family.terms is None else entry.place + entry.family.terms.boost

    def filled(self) -> list[int]:
        """Lanes in which something waits."""
        return [number for number, lane in enumerate(self.lanes) if lane]

    def next_hard(self) -> float:
        """The hard deadline [s] of the first item in a lane, the nearest of them; infinite while nothing waits."""
        nearest = inf
        for lane in self.lanes:
            if lane and lane[0].hard < nearest:
                nearest = lane[0].hard
        return nearest

    def expire(self, now: float) -> list[Entry]:
        """Remove the items at the heads whose hard deadline has passed."""
        dropped: list[Entry] = []
        for number, lane in enumerate(self.lanes):
            while lane and lane[0].hard <= now:
                dropped.append(self._pop(number, lane[0].family.count))
        self.forget(dropped)
        return dropped

    def remove(self, roots: set[int]) -> list[Entry]:
        """Take out every item of these requests."""
        gone: list[Entry] = []
        for number, lane in enumerate(self.lanes):
            here = [entry for entry in lane if root_of(entry.family.id) in roots]
            if here:
                gone += here
                self.lanes[number] = [entry for entry in lane if root_of(entry.family.id) not in roots]
                heapq.heapify(self.lanes[number])
                self.sizes[number] = size([entry.family for entry in self.lanes[number]])
        self.waiting = sum(self.sizes)
        self.forget(gone)
        return gone

    def cut(self, entry: Entry, count: int) -> tuple[Entry, Entry]:
        """The first so many of an entry's items, and the others, which stand right behind them."""
        place, order, hard, first, came = entry
        head = Family(first.id, first.t0, first.deadline, first.prefix, first.terms, count)
        rest = Family(
            first.id + (count << self.shift), first.t0, first.deadline, first.prefix, first.terms, first.count - count
        )
        return Entry(place, order, hard, head, came), Entry(place, order + count, hard, rest, came)

    def _pop(self, lane: int, count: int) -> Entry:
        """So many of the items that a lane's first entry holds, all or fewer."""
        heap = self.lanes[lane]
        if heap[0].family.count == count:
            entry = heapq.heappop(heap)
        else:
            entry, heap[0] = self.cut(heap[0], count)  # nothing stands between siblings, so the heap stays one
        self.sizes[lane] -= count
        self.waiting -= count
        return entry

    def _earliest(self, lanes: Sequence[int]) -> int:
        """The lane whose head comes first; an empty one if nothing waits."""
        first = lanes[0]
        for number in lanes:
            lane, best = self.lanes[number], self.lanes[first]
            if lane and (not best or lane[0] < best[0]):
                first = number
        return first
