"""The clock of a plane: the monotonic one of its launcher's host, by which all its nodes tell arrivals and deadlines. Each
host has such a clock of its own, so nodes of other hosts ask for the time and follow."""

from __future__ import annotations

import time
from collections import deque
from math import inf

from msgspec import Struct

# Of so many answers the quickest is believed: it errs by no more than half the time that it was under way.
KEPT = 16


class Reading(Struct, frozen=True):
    """took: how long question and answer were under way [s]; ahead: the plane's time over this host's [s]."""

    took: float
    ahead: float


class Clock:
    """Of one process. ahead: the plane's time over this host's [s]. Where it would go back the time stands still."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self._latest = -inf
        self._readings: deque[Reading] = deque(maxlen=KEPT)

    def __call__(self) -> float:
        """The plane's time [s]."""
        now = time.monotonic() + self.ahead
        if now < self._latest:
            return self._latest
        self._latest = now
        return now

    def hear(self, asked: float, there: float) -> None:
        """Follow an answer that has just come. asked: when, on this host's clock; there: the plane's time then [s]."""
        took = time.monotonic() - asked
        if not self._readings:
            self._latest = -inf  # what was told before was another clock's
        self._readings.append(Reading(took, there - (asked + took / 2)))
        self.ahead = min(self._readings, key=lambda reading: reading.took).ahead


clock = Clock()
