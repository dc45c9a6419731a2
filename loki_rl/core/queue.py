"""The queue of one task, earliest deadline first, and the forming of batches. Owns what is dropped, kept for a faster
variant, or run; knows no worker and no message."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from itertools import count

from loki_rl.core.messages import Item

Entry = tuple[float, int, float, Item]  # soft deadline less the item's boost, order of arrival, hard deadline, item
Allows = Callable[[Item], bool]


class DeadlineQueue:
    """Items ordered by soft deadline (when this task should end), each with its hard one (when nothing helps any more).

    Deadlines are stamped on entry and never move. An item is wanted by a variant if a batch of it would end by the limit:
    the hard deadline, or the soft one while the task is overloaded (DESIGN section 4: with the hard rule alone an
    overloaded first task hands over requests without slack, and later tasks run batches of one).

    known: every item that waits or is in a worker's hands, as it was stamped. newest_soft: of the item that came last.
    beside: a queue of the same task; an item that one of them knows is known to all.
    """

    def __init__(self, beside: DeadlineQueue | None = None) -> None:
        self.heap: list[Entry] = []
        self.known: dict[int, Entry] = {} if beside is None else beside.known
        self.orders: Iterator[int] = count(1) if beside is None else beside.orders
        self.newest_soft = 0.0

    def __len__(self) -> int:
        return len(self.heap)

    def push(self, item: Item, soft: float, hard: float) -> None:
        """Take an item in; a repeat of one that is known is ignored."""
        if item.id in self.known:
            return
        # Not the latest of all: one request with a very long deadline would hide every overload that follows.
        self.newest_soft = soft
        place = soft if item.terms is None else soft - item.terms.boost
        entry = self.known[item.id] = (place, next(self.orders), hard, item)
        heapq.heappush(self.heap, entry)

    def put_back(self, items: list[Item]) -> None:
        """Items that a worker did not finish wait again, each in its old place."""
        for item in items:
            heapq.heappush(self.heap, self.known[item.id])

    def forget(self, items: list[Item]) -> None:
        """These items have ended."""
        for item in items:
            del self.known[item.id]

    def form(
        self,
        cap: int,
        service_s: tuple[float, ...],
        now: float,
        rescue_s: float | None,
        soft_rule: bool,
        allows: Allows | None = None,
    ) -> tuple[list[Item], list[Item]]:
        """The next batch for a variant with these service times [s], of at most cap items, and the items dropped.

        The batch is not shrunk to save its head: an item that would be late in it is left for a variant that takes
        rescue_s [s], if that one can still make it (None: no other variant), else dropped (Nexus' early drop, SOSP'19).
        allows: whether the variant may serve an item that has terms; one that it may not is left too.
        """
        finish = now + service_s[min(cap, len(self.heap))]
        batch: list[Item] = []
        dropped: list[Item] = []
        left: list[Entry] = []
        while self.heap and len(batch) < cap:
            entry = heapq.heappop(self.heap)
            place, _, hard, item = entry
            limit = place if soft_rule else hard
            if item.terms is not None:
                if allows is not None and not allows(item):
                    left.append(entry)
                    continue
                limit = place + item.terms.boost if soft_rule else hard
            if finish <= limit:
                batch.append(item)
            elif rescue_s is not None and now + rescue_s <= limit:
                left.append(entry)
            else:
                dropped.append(item)
        for entry in left:
            heapq.heappush(self.heap, entry)
        self.forget(dropped)
        return batch, dropped

    def take(self, cap: int, allows: Allows | None = None) -> list[Item]:
        """The next batch with no regard to lateness."""
        batch: list[Item] = []
        left: list[Entry] = []
        while self.heap and len(batch) < cap:
            entry = heapq.heappop(self.heap)
            if entry[3].terms is None or allows is None or allows(entry[3]):
                batch.append(entry[3])
            else:
                left.append(entry)
        for entry in left:
            heapq.heappush(self.heap, entry)
        return batch

    def take_late(self, finish: float, soft_rule: bool) -> list[Item]:
        """Remove the items at the head that would be late in a batch that ends at `finish` [s]."""
        late: list[Item] = []
        while self.heap and finish > self.limit(self.heap[0], soft_rule):
            late.append(heapq.heappop(self.heap)[3])
        return late

    @staticmethod
    def limit(entry: Entry, soft_rule: bool) -> float:
        """When an item must have ended here to be of use [s]; an item's boost moves its place, not this."""
        place, _, hard, item = entry
        return hard if not soft_rule else place if item.terms is None else place + item.terms.boost

    def expire(self, now: float) -> list[Item]:
        """Remove the items at the head whose hard deadline has passed."""
        dropped: list[Item] = []
        while self.heap and self.heap[0][2] <= now:
            dropped.append(heapq.heappop(self.heap)[3])
        self.forget(dropped)
        return dropped

    def remove(self, roots: set[int], root_bits: int) -> list[Item]:
        """Take out every item of these requests."""
        gone = [entry[3] for entry in self.heap if entry[3].id >> root_bits in roots]
        if gone:
            ids = {item.id for item in gone}
            self.heap = [entry for entry in self.heap if entry[3].id not in ids]
            heapq.heapify(self.heap)
            self.forget(gone)
        return gone
