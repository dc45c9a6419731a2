"""Markov-modulated Poisson arrivals. Owns the process and its known burstiness; reads no file and knows no pipeline."""

from __future__ import annotations

from math import exp

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray


class Mmpp(Struct, frozen=True):
    """Two states that take turns, each for an exponential time of its own mean [s]; Poisson arrivals at the state's rate
    [1/s]. It starts in the long run's mix of states."""

    rates: tuple[float, float]
    means_s: tuple[float, float]

    @property
    def mean_rps(self) -> float:
        """Long-run rate [1/s]."""
        share = self.means_s[0] / sum(self.means_s)
        return share * self.rates[0] + (1 - share) * self.rates[1]

    def idc(self, window_s: float) -> float:
        """Variance over mean of the counts in windows of this length (Fischer and Meier-Hellstern 1993)."""
        out, back = 1 / self.means_s[0], 1 / self.means_s[1]
        change = out + back
        weight = 2 * out * back * (self.rates[0] - self.rates[1]) ** 2
        settled = change**2 * (self.rates[0] * back + self.rates[1] * out)
        return 1 + weight / settled * (1 - (1 - exp(-change * window_s)) / (change * window_s))

    def arrivals(self, seconds: float, rng: np.random.Generator) -> NDArray[np.float64]:
        """Times [s] in [0, seconds), sorted."""
        first = int(rng.random() >= self.means_s[0] / sum(self.means_s))
        ends, states = self._turns(seconds, first, rng)
        starts = np.concatenate(([0.0], ends[:-1]))
        counts = rng.poisson(np.array(self.rates)[states] * (ends - starts))
        times = np.repeat(starts, counts) + np.repeat(ends - starts, counts) * rng.random(int(counts.sum()))
        sorted_times: NDArray[np.float64] = np.sort(times)
        return sorted_times

    def _turns(self, seconds: float, first: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Where each stay in a state ends, and which state it was; the last one ends with the trace."""
        ends: list[float] = []
        now, state = 0.0, first
        while now < seconds:
            now += float(rng.exponential(self.means_s[state]))
            ends.append(min(now, seconds))
            state = 1 - state
        return np.array(ends), (np.arange(len(ends)) + first) % 2
