"""Virtual time: a heap of events in total order. Owns the clock of the twin; knows nothing of what the events mean."""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

T = TypeVar("T")


class Kernel(Generic[T]):
    """Events of type T, ordered by (time [s], order of scheduling)."""

    def __init__(self, start: float) -> None:
        self.now = start
        self.heap: list[tuple[float, int, T]] = []
        self.pushed = 0

    def push(self, time: float, event: T) -> None:
        """Schedule an event; one in the past happens now."""
        self.pushed += 1
        heapq.heappush(self.heap, (time if time > self.now else self.now, self.pushed, event))

    def pop(self) -> T:
        """Advance to the next event and return it. Raises IndexError when there is none."""
        self.now, _, event = heapq.heappop(self.heap)
        return event

    @property
    def next_time(self) -> float | None:
        return self.heap[0][0] if self.heap else None
