"""The regime that demand is in: its level, for how long it has held, how noisy counts are. Pure functions of the counts."""

from __future__ import annotations

from math import exp

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loki_rl.control.demand.estimators import FLOOR_RPS, NOISE_S, PEAK_S, Floats, together

# Median of the square of a standard normal variable.
MEDIAN_SQUARE = 0.455
# A jump is more than so many deviations.
SIGMAS = 4.0
# Seconds belong to one regime while the means of their halves, of 1, 2, 4, 8 and 16 s, differ by fewer deviations than here:
# to find a new regime in a second or two costs loads if there is none; to forget what is more than some seconds old, little.
ALIKE = (4.0, 4.0, 3.0, 2.0, 2.0)
LONGEST_S = 2 ** len(ALIKE)
# A second that stands out begins a regime with the odds exp(z^2 / 2 - DOUBT), z in deviations: other levels are many and
# changes rare.
DOUBT = 9.0
BEFORE_S = 8
# A plan lasts while demand stays within this factor of what it is.
BAND = 1.35
# Demand jumps where a second has so many times the mean of so many before it.
JUMP, JUMP_S = 1.5, 5


class Regime(Struct, frozen=True):
    """level_rps: mean since the regime began [1/s]; held_s: seconds that say so; dispersion: variance of a second's count
    over its mean, at least 1. rose_from: the level before, where the last second alone says that demand has changed, and
    changed: how likely that is, 0..1."""

    level_rps: float
    held_s: int
    dispersion: float
    changed: float = 0.0
    rose_from: float = 0.0

    @property
    def deviation_rps(self) -> float:
        """Of the rate in a second to come, what is not known of the level included [1/s]. Of Poisson's noise that of a few
        seconds together: servers are kept idle for what it is within one."""
        noise = self.dispersion - 1 + 1 / PEAK_S
        return float((self.level_rps * (noise + self.dispersion / self.held_s)) ** 0.5)


def regime(counts: Floats) -> Regime:
    """After these counts per second [H >= 1], the last one latest: the longest recent stretch whose halves agree (adaptive
    windowing, Bifet and Gavalda 2007)."""
    spread = dispersion(counts[-NOISE_S:])
    size = 1
    for sigmas in ALIKE:
        if len(counts) < 2 * size:
            break
        recent, before = counts[-size:].mean(), counts[-2 * size : -size].mean()
        if abs(recent - before) > sigmas * (spread * max(recent + before, 1.0) / size) ** 0.5:
            break
        size *= 2
    size = min(size, len(counts))
    level = max(float(counts[-size:].mean()), FLOOR_RPS)
    return _new(counts, level, spread) if size == 1 and len(counts) > 2 else Regime(level, size, spread)


def dispersion(counts: Floats) -> float:
    """Variance over mean, from the median of differences of neighbours: a change of level is no noise."""
    pairs = counts[1:] + counts[:-1]
    squares = (counts[1:] - counts[:-1])[pairs > 0] ** 2 / pairs[pairs > 0]
    return max(1.0, float(np.median(squares)) / MEDIAN_SQUARE) if len(squares) > 2 else 1.0


def _new(counts: Floats, level: float, spread: float) -> Regime:
    """Where the last second stands out."""
    size = 1
    while size < min(BEFORE_S, len(counts) - 2):
        mean = counts[-size - 1 : -1].mean()
        if abs(counts[-size - 2] - mean) > SIGMAS * (spread * max(1.0, mean) * (1 + 1 / size)) ** 0.5:
            break
        size += 1
    old = max(float(counts[-size - 1 : -1].mean()), FLOOR_RPS)
    square = (level - old) ** 2 / (spread * max(1.0, old) * (1 + 1 / size))
    changed = 1 / (1 + exp(-min(max(square / 2 - DOUBT, -50.0), 50.0)))
    return Regime(level, 1, spread, changed, old)


def stayed_s(counts: Floats, band: float = BAND) -> float:
    """For how long demand has been within a factor of what it is now [s]."""
    if len(counts) < PEAK_S:
        return float(len(counts))
    means = together(counts, PEAK_S)[::-1]
    away = np.flatnonzero((means > means[0] * band) | (means < means[0] / band))
    return float(away[0]) if len(away) else float(len(counts))


def jumps(counts: Floats, spread: float) -> Floats:
    """Where every jump so far went in its first second [n, 1/s]."""
    heights: Floats = counts[jump_starts(counts, spread)]
    return heights


def jump_starts(counts: Floats, spread: float) -> NDArray[np.int64]:
    """The second in which every jump began [n]. A jump is a rise above JUMP times what demand was and its mean until then,
    by more than noise."""
    if len(counts) <= JUMP_S:
        return np.zeros(0, np.int64)
    before = together(counts, JUMP_S)[:-1]
    long_run = (np.cumsum(counts) / np.arange(1, len(counts) + 1))[JUMP_S - 1 : -1]
    base, after = np.maximum(np.maximum(before, long_run), FLOOR_RPS), counts[JUMP_S:]
    jumped = (after > JUMP * base) & (after - base > SIGMAS * np.sqrt(spread * base))
    return JUMP_S + np.flatnonzero(jumped & ~np.append(False, jumped[:-1]))
