"""Estimates of demand from the requests counted per second, all of them pure functions of the counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from loki_rl.control.compiled import compiled

Floats = NDArray[np.float64]
Counts = Sequence[float] | Floats  # per second, oldest first

# Peak demand is that of so many seconds together: a shorter one is served from the queues.
PEAK_S = 3
NOISE_S = 60
# Below this a rate is no basis for a plan: a cluster that expects nothing still serves the first request.
FLOOR_RPS = 0.5


@compiled
def together(counts: Floats, seconds: int) -> Floats:
    """Rate [1/s] of every so many seconds together; the counts as they are, if there are fewer."""
    if len(counts) < seconds:
        return counts
    found = counts[: len(counts) - seconds + 1].copy()
    for i in range(1, seconds):
        found += counts[i : len(counts) - seconds + 1 + i]
    return found / seconds


def ewma(arrivals: Sequence[int], com: float = 1.6, samples: int = 20) -> float:
    """Exponentially weighted mean [1/s] of the last `samples` seconds, weights (com / (1 + com))^age, normalised.

    The defaults are those of the Loki artifact (HPDC'24).
    """
    decay, weight, total, weights = com / (1 + com), 1.0, 0.0, 0.0
    for count in reversed(arrivals[-samples:]):
        total += weight * count
        weights += weight
        weight *= decay
    return total / weights if weights else 0.0


def mean(arrivals: Counts, seconds: int) -> float:
    """Plain mean [1/s] of the last seconds."""
    recent = arrivals[-seconds:]
    total = recent.sum() if isinstance(recent, np.ndarray) else sum(recent)
    return float(total) / len(recent) if len(recent) else 0.0


def envelope(arrivals: Counts, window_s: int = 60, bin_s: int = 5) -> float:
    """The busiest `bin_s` [1/s] inside the last `window_s`: rises at once and falls only after the window has passed (the
    idea of InferLine's tuner, SoCC'20, section 5)."""
    return busiest(arrivals[-window_s:], bin_s)


def busiest(arrivals: Counts, bin_s: int) -> float:
    """Rate [1/s] of the busiest `bin_s` seconds; of all, if there are fewer."""
    if len(arrivals) <= bin_s:
        return mean(arrivals, bin_s)
    return float(together(np.asarray(arrivals, np.float64), bin_s).max())


def ahead(arrivals: Counts, lead_s: float, window_s: int = 8, doubt: float = 0.7) -> float:
    """Demand [1/s] in `lead_s` seconds, never below 0: the mean of the last `window_s` seconds and their straight line.

    A slope counts as far as it exceeds `doubt` times its standard error (positive-part shrinkage, James and Stein 1961), so
    noise makes little trend and a ramp is followed within seconds.
    """
    recent = arrivals[-window_s:]
    center, size = mean(recent, window_s), len(recent)
    if size < 4:
        return center
    times = [second - (size - 1) / 2 for second in range(size)]
    squares = sum(time * time for time in times)
    slope = sum(time * count for time, count in zip(times, recent, strict=True)) / squares
    misfit = sum((count - center - slope * time) ** 2 for time, count in zip(times, recent, strict=True))
    variance = max(misfit / (size - 2), center) / squares
    trusted = slope * max(0.0, 1 - doubt**2 * variance / slope**2) if slope else 0.0
    return max(0.0, center + trusted * (size / 2 + lead_s))
