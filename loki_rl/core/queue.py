"""The queue of one task, earliest deadline first, and the forming of batches. Owns what is dropped, kept for a faster
variant, or run; knows no worker and no message."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from math import inf

from loki_rl.core.messages import Item

Entry = tuple[float, int, float, Item]  # soft deadline less the item's boost, order of arrival, hard deadline, item
Allows = Callable[[Item], bool]
Lane = list[Entry]


class DeadlineQueue:
    """Items ordered by soft deadline (when this task should end), each with its hard one (when nothing helps any more).

    Deadlines are stamped on entry and never move. An item is wanted by a variant if a batch of it would end by the limit:
    the hard deadline, or the soft one while the task is overloaded (DESIGN section 4: with the hard rule alone an
    overloaded first task hands over requests without slack, and later tasks run batches of one).

    Items stand in lanes by the variants that made them (`arrange`), so that a variant can be given those that the plan
    means for it; whoever asks for no lane gets the earliest of all.

    known: every item that waits or is in a worker's hands, as it was stamped. waiting: how many wait. newest_soft: of the
    item that came last. beside: a queue of the same task; an item that one of them knows is known to all.
    """

    def __init__(self, beside: DeadlineQueue | None = None) -> None:
        self.lanes: list[Lane] = [[]]
        self.known: dict[int, Entry] = {} if beside is None else beside.known
        self.orders: Iterator[int] = count(1) if beside is None else beside.orders
        self.waiting = 0
        self.newest_soft = 0.0
        self._lane_of: Mapping[int, int] = {}

    def __len__(self) -> int:
        return self.waiting

    def arrange(self, lane_of: Mapping[int, int], lanes: int) -> None:
        """From now on items of these prefixes stand in these lanes (others in lane 0), also those that wait already."""
        entries = [entry for lane in self.lanes for entry in lane]
        self._lane_of = lane_of
        self.lanes = [[] for _ in range(lanes)]
        for entry in entries:
            self._lane(entry).append(entry)
        for lane in self.lanes:
            heapq.heapify(lane)

    def push(self, items: Sequence[Item], split: float, after_s: float) -> list[Item]:
        """Take items in: this task should end them after this share of their time, and must so long [s] before its end.
        Repeats of known ones are ignored; returns the others."""
        known, orders, lanes, lane_of, push = self.known, self.orders, self.lanes, self._lane_of, heapq.heappush
        fresh: list[Item] = []
        soft = self.newest_soft
        for item in items:
            id = item.id
            if id not in known:
                soft = item.t0 + (item.deadline - item.t0) * split
                place = soft if item.terms is None else soft - item.terms.boost
                entry = known[id] = (place, next(orders), item.deadline - after_s, item)
                push(lanes[lane_of.get(item.prefix, 0)] if lane_of else lanes[0], entry)
                fresh.append(item)
        # Not the latest of all: one request with a very long deadline would hide every overload that follows.
        self.newest_soft = soft
        self.waiting += len(fresh)
        return fresh

    def put_back(self, items: list[Item]) -> None:
        """Items that a worker did not finish wait again, each in its old place."""
        self._return([self.known[item.id] for item in items])

    def forget(self, items: list[Item]) -> None:
        """These items have ended."""
        for item in items:
            del self.known[item.id]

    def form(
        self,
        cap: int,
        service_s: tuple[float, ...],
        now: float,
        rescue_s: Callable[[], float],
        soft_rule: bool,
        allows: Allows | None = None,
        lanes: Sequence[int] | None = None,
    ) -> tuple[list[Item], list[Item]]:
        """The next batch for a variant with these service times [s], of at most cap items, and the items dropped.

        The batch is not shrunk to save its head: an item that would be late in it is left for a variant that takes
        rescue_s() [s], if that one can still make it (infinite: no other variant), else dropped (Nexus' early drop,
        SOSP'19). allows: whether the variant may serve an item that has terms; one that it may not is left too. lanes: the
        only ones to look at (None: all).
        """
        heaps = self._chosen(lanes)
        finish = now + service_s[min(cap, sum(map(len, heaps)))]
        batch: list[Item] = []
        dropped: list[Item] = []
        left: list[Entry] = []
        pop, heap = heapq.heappop, heaps[0]
        several = len(heaps) > 1
        while len(batch) < cap:
            if several:
                heap = _earliest(heaps)
            if not heap:
                break
            entry = pop(heap)
            place, _, hard, item = entry
            limit = place if soft_rule else hard
            if item.terms is not None:
                if allows is not None and not allows(item):
                    left.append(entry)
                    continue
                limit = place + item.terms.boost if soft_rule else hard
            if finish <= limit:
                batch.append(item)
            elif now + rescue_s() <= limit:
                left.append(entry)
            else:
                dropped.append(item)
        self.waiting -= len(batch) + len(dropped) + len(left)
        if left:
            self._return(left)
        if dropped:
            self.forget(dropped)
        return batch, dropped

    def take(self, cap: int, allows: Allows | None = None, lanes: Sequence[int] | None = None) -> list[Item]:
        """The next batch with no regard to lateness."""
        heaps = self._chosen(lanes)
        batch: list[Item] = []
        left: list[Entry] = []
        while len(batch) < cap and (heap := _earliest(heaps)):
            entry = heapq.heappop(heap)
            if entry[3].terms is None or allows is None or allows(entry[3]):
                batch.append(entry[3])
            else:
                left.append(entry)
        self.waiting -= len(batch) + len(left)
        self._return(left)
        return batch

    def take_all(self) -> list[Item]:
        """Everything that waits, in its order."""
        entries = sorted(entry for lane in self.lanes for entry in lane)
        self.lanes = [[] for _ in self.lanes]
        self.waiting = 0
        return [entry[3] for entry in entries]

    def take_late(self, finish: float, soft_rule: bool) -> list[Item]:
        """Remove the items at the heads that would be late in a batch that ends at `finish` [s]."""
        late: list[Item] = []
        for lane in self.lanes:
            while lane and finish > self.limit(lane[0], soft_rule):
                late.append(heapq.heappop(lane)[3])
        self.waiting -= len(late)
        return late

    @staticmethod
    def limit(entry: Entry, soft_rule: bool) -> float:
        """When an item must have ended here to be of use [s]; an item's boost moves its place, not this."""
        place, _, hard, item = entry
        return hard if not soft_rule else place if item.terms is None else place + item.terms.boost

    def filled(self) -> list[int]:
        """Lanes in which something waits."""
        return [number for number, lane in enumerate(self.lanes) if lane]

    def next_hard(self) -> float:
        """The hard deadline [s] of the first item in a lane, the nearest of them; infinite while nothing waits."""
        nearest = inf
        for lane in self.lanes:
            if lane and lane[0][2] < nearest:
                nearest = lane[0][2]
        return nearest

    def expire(self, now: float) -> list[Item]:
        """Remove the items at the heads whose hard deadline has passed."""
        dropped: list[Item] = []
        for lane in self.lanes:
            while lane and lane[0][2] <= now:
                dropped.append(heapq.heappop(lane)[3])
        self.waiting -= len(dropped)
        self.forget(dropped)
        return dropped

    def remove(self, roots: set[int], root_bits: int) -> list[Item]:
        """Take out every item of these requests."""
        gone: list[Item] = []
        for number, lane in enumerate(self.lanes):
            here = [entry[3] for entry in lane if entry[3].id >> root_bits in roots]
            if here:
                gone += here
                self.lanes[number] = [entry for entry in lane if entry[3].id >> root_bits not in roots]
                heapq.heapify(self.lanes[number])
        self.waiting -= len(gone)
        self.forget(gone)
        return gone

    def _lane(self, entry: Entry) -> Lane:
        return self.lanes[self._lane_of.get(entry[3].prefix, 0)]

    def _chosen(self, lanes: Sequence[int] | None) -> list[Lane]:
        return self.lanes if lanes is None else [self.lanes[number] for number in lanes]

    def _return(self, entries: list[Entry]) -> None:
        self.waiting += len(entries)
        for entry in entries:
            heapq.heappush(self._lane(entry), entry)


def _earliest(heaps: list[Lane]) -> Lane:
    """The lane whose head comes first; an empty one if nothing waits."""
    first = heaps[0]
    if len(heaps) > 1:
        for heap in heaps:
            if heap and (not first or heap[0] < first[0]):
                first = heap
    return first
