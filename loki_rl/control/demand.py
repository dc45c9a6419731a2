"""Estimates of demand from the requests counted per second. Every estimator is a pure function of the counts, so equal
histories give equal estimates; knows no pipeline and no plan."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt

# Below this a rate is no basis for a plan: a cluster that expects nothing still serves the first request.
FLOOR_RPS = 0.5


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


def mean(arrivals: Sequence[int], seconds: int) -> float:
    """Plain mean [1/s] of the last seconds."""
    recent = arrivals[-seconds:]
    return sum(recent) / len(recent) if recent else 0.0


def envelope(arrivals: Sequence[int], window_s: int = 60, bin_s: int = 5) -> float:
    """The busiest `bin_s` [1/s] inside the last `window_s`: rises at once and falls only after the window has passed (the
    idea of InferLine's tuner, SoCC'20, section 5)."""
    recent = arrivals[-window_s:]
    if len(recent) <= bin_s:
        return mean(recent, bin_s)
    return max(sum(recent[i : i + bin_s]) for i in range(len(recent) - bin_s + 1)) / bin_s


def holt(arrivals: Sequence[int], lead_s: float, alpha: float = 0.3, beta: float = 0.1, damping: float = 0.9) -> float:
    """Level and damped trend [1/s], `lead_s` seconds ahead (Gardner and McKenzie 1985), never below 0."""
    if not arrivals:
        return 0.0
    level, trend = mean(arrivals[:5], 5), 0.0
    for count in arrivals:
        before = level
        level = alpha * count + (1 - alpha) * (level + damping * trend)
        trend = beta * (level - before) + (1 - beta) * damping * trend
    ahead = float(damping * (1 - damping**lead_s) / (1 - damping))
    return max(0.0, level + trend * ahead)


def spread(arrivals: Sequence[int], level: float, window_s: int = 60) -> float:
    """Standard deviation [1/s] of a second's count around its local level, at least Poisson's."""
    recent = arrivals[-window_s:]
    steps = [(b - a) ** 2 / 2 for a, b in pairwise(recent)]
    return sqrt(max(level, sum(steps) / len(steps) if steps else 0.0))
