"""Calls that are due later, as a source of a driver. Owns when; must not know what they do."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable

from loki_rl.serving.transport.deadline_timer import DeadlineTimer
from loki_rl.serving.transport.driver import Delivery

Call = Callable[[float], Iterable[Delivery]]


class Timers:
    """A driver.Source; what a call returns is delivered."""

    def __init__(self) -> None:
        self._timer = DeadlineTimer()
        self._due: list[tuple[float, int, Call]] = []
        self._order = 0

    @property
    def handle(self) -> int:
        return self._timer.handle

    def after(self, seconds: float, call: Call) -> None:
        """Call so much later, with the time it is then."""
        self._order += 1
        heapq.heappush(self._due, (time.monotonic() + seconds, self._order, call))
        self._timer.set(self._due[0][0])

    def collect(self, now: float) -> Iterable[Delivery]:
        self._timer.clear()
        deliveries: list[Delivery] = []
        while self._due and self._due[0][0] <= now:
            deliveries += heapq.heappop(self._due)[2](now)
        self._timer.set(self._due[0][0] if self._due else None)
        return deliveries

    def close(self) -> None:
        self._timer.close()
