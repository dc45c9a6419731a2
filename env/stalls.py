"""How late messages reach one actor, as its process stands still now and then. Owns when and for how long."""

from __future__ import annotations

from math import inf, log

import numpy as np
from numpy.typing import NDArray

from loki_rl.files.calibration_file import LEVELS

Floats = NDArray[np.float64]
Quantiles = tuple[float, ...]

# What is later than nine messages in ten is so because its reader stood still.
USUAL = 0.9
BLOCK = 4096


class Stalls:
    """Delays [s] of messages to an actor, distributed as the quantiles say, where messages come at any time.

    The slowest tenth are those that met a stall: its reader did nothing for a while, and all that came meanwhile is read
    at its end. Drawn one by one, and none overtaking another, each slow message would hold up those behind it for as long
    again, so that delays would be longer than measured.

    Of stalls that come at a rate r and last D, a message waits longer than x with chance r E[max(D - x, 0)], so the density
    of delays at x is r P(D > x): it gives rate and lengths. A density that rises somewhere beyond the first nine tenths is
    taken to be flat there.
    """

    def __init__(self, quantiles: Quantiles, rng: np.random.Generator) -> None:
        self._rng = rng
        place = LEVELS.index(USUAL)
        self._levels, self._usual = np.array(LEVELS[: place + 1]) / USUAL, np.array(quantiles[: place + 1])
        self._edges, density = _tail(np.array(LEVELS[place:]), np.array(quantiles[place:]))
        self._rate = float(density[0]) if len(density) else 0.0
        # Chance that a stall ends between two edges.
        self._ends = -np.diff(density, append=0.0) / self._rate if self._rate else density
        self._next: float | None = None
        self._until = -inf
        self._small: list[float] = []

    def delay(self, now: float) -> float:
        """Of a message that is sent now [s]; times must not fall."""
        if self._next is None:
            self._next = now + self._pause()
        while self._next <= now:
            self._until = max(self._until, self._next + self._length())
            self._next += self._pause()
        # The end of a stall is no longer than usual delays are, and counted among them.
        left = self._until - now
        return left if left > self._usual[-1] else self._drawn()

    def _drawn(self) -> float:
        if not self._small:
            self._small = np.interp(self._rng.random(BLOCK), self._levels, self._usual).tolist()
        return self._small.pop()

    def _pause(self) -> float:
        return -log(1.0 - self._rng.random()) / self._rate if self._rate else inf

    def _length(self) -> float:
        """Within a piece of the density, stalls end at its far edge: that is what keeps it flat."""
        return float(self._edges[1 + int(self._rng.choice(len(self._ends), p=self._ends))])


def _tail(levels: Floats, quantiles: Floats) -> tuple[Floats, Floats]:
    """Edges of the pieces of the density beyond the first level, and the density in each, which does not rise."""
    known = np.flatnonzero(np.diff(quantiles, prepend=-inf) > 0)
    edges, levels = quantiles[known], levels[known]
    if len(edges) < 2:
        return edges, np.zeros(0)
    return edges, np.minimum.accumulate(np.diff(levels) / np.diff(edges))
