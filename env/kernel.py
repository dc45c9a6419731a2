"""Virtual time: events in total order."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

A = TypeVar("A")
E = TypeVar("E")


class Kernel(Generic[A, E]):
    """Events of type E for receivers of type A, ordered by (time [s], order of scheduling).

    heap: events at any time. line: those that come in the order in which they were scheduled, since all take the same time;
    for them a queue does what a heap does at a higher price.
    """

    def __init__(self, start: float) -> None:
        self.now = start
        self.heap: list[tuple[float, int, A, E]] = []
        self.line: deque[tuple[float, int, A, E]] = deque()
        self.pushed = 0

    def push(self, time: float, to: A, event: E) -> None:
        """Schedule an event; one in the past happens now."""
        self.pushed += 1
        heapq.heappush(self.heap, (time if time > self.now else self.now, self.pushed, to, event))

    def follow(self, time: float, to: A, event: E) -> None:
        """Schedule an event that comes no earlier than now and than all that were scheduled so before it."""
        self.pushed += 1
        self.line.append((time, self.pushed, to, event))

    def until(self, time: float) -> Iterator[tuple[float, int, A, E]]:
        """Advance from event to event up to and including this time [s], those among them that are scheduled meanwhile: when
        it is, its number, whom it is for, what it is."""
        heap, line, pop, next_in_line = self.heap, self.line, heapq.heappop, self.line.popleft
        while heap or line:
            first = line if line and not (heap and heap[0] < line[0]) else heap
            if first[0][0] > time:
                return
            event = next_in_line() if first is line else pop(heap)
            self.now = event[0]
            yield event

    @property
    def next_time(self) -> float | None:
        heads = [queue[0][0] for queue in (self.heap, self.line) if queue]
        return min(heads, default=None)
