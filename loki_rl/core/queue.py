"""The queue of one task, earliest deadline first, and the forming of batches. Owns what is dropped, kept for a faster
variant, or run; knows no worker and no message."""

from __future__ import annotations

import heapq

from loki_rl.core.messages import Item

Entry = tuple[float, int, float, Item]  # soft deadline, order of arrival, hard deadline, item


class DeadlineQueue:
    """Items ordered by soft deadline (when this task should end), each with its hard one (when nothing helps any more).

    Deadlines are stamped on entry and never move. An item is wanted by a variant if a batch of it would end by the limit:
    the hard deadline, or the soft one while the task is overloaded (DESIGN section 4: with the hard rule alone an
    overloaded first task hands over requests without slack, and later tasks run batches of one).
    """

    def __init__(self) -> None:
        self.heap: list[Entry] = []
        self.live: set[int] = set()
        self.order = 0
        self.newest_soft = 0.0

    def __len__(self) -> int:
        return len(self.heap)

    def push(self, item: Item, soft: float, hard: float) -> None:
        """Take an item in; a repeat of one that waits here is ignored."""
        if item.id in self.live:
            return
        self.live.add(item.id)
        self.order += 1
        if soft > self.newest_soft:
            self.newest_soft = soft
        heapq.heappush(self.heap, (soft, self.order, hard, item))

    def form(
        self, cap: int, service_s: tuple[float, ...], now: float, rescue_s: float | None, soft_rule: bool
    ) -> tuple[list[Item], list[Item]]:
        """The next batch for a variant with these service times [s], of at most cap items, and the items dropped.

        The batch is not shrunk to save its head: an item that would be late in it is left for a variant that takes
        rescue_s [s], if that one can still make it (None: no other variant), else dropped (Nexus' early drop, SOSP'19).
        """
        finish = now + service_s[min(cap, len(self.heap))]
        batch: list[Item] = []
        dropped: list[Item] = []
        left: list[Entry] = []
        while self.heap and len(batch) < cap:
            entry = heapq.heappop(self.heap)
            limit = entry[0] if soft_rule else entry[2]
            if finish <= limit:
                batch.append(entry[3])
            elif rescue_s is not None and now + rescue_s <= limit:
                left.append(entry)
            else:
                dropped.append(entry[3])
        for entry in left:
            heapq.heappush(self.heap, entry)
        self.live.difference_update([item.id for item in batch])
        self.live.difference_update([item.id for item in dropped])
        return batch, dropped

    def take(self, cap: int) -> list[Item]:
        """The next batch with no regard to lateness."""
        batch = [heapq.heappop(self.heap)[3] for _ in range(min(cap, len(self.heap)))]
        self.live.difference_update([item.id for item in batch])
        return batch

    def expire(self, now: float) -> list[Item]:
        """Remove the items at the head whose hard deadline has passed."""
        dropped: list[Item] = []
        while self.heap and self.heap[0][2] <= now:
            dropped.append(heapq.heappop(self.heap)[3])
        self.live.difference_update([item.id for item in dropped])
        return dropped

    def remove(self, roots: set[int], root_bits: int) -> list[Item]:
        """Take out every item of these requests."""
        gone = [entry[3] for entry in self.heap if entry[3].id >> root_bits in roots]
        if gone:
            ids = {item.id for item in gone}
            self.heap = [entry for entry in self.heap if entry[3].id not in ids]
            heapq.heapify(self.heap)
            self.live -= ids
        return gone
