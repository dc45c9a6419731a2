"""Statistics of paired comparisons: interquartile means with stratified bootstrap intervals (rliable, NeurIPS 2021). Owns
these numbers; knows no environment."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from msgspec import Struct

from loki_rl.control.fast.model_arrays import Floats

SAMPLES = 2000
LEVEL = 0.95


class Interval(Struct, frozen=True):
    """A figure and its bootstrap interval."""

    value: float
    low: float
    high: float


def bootstrap(scores: Floats, statistic: Callable[[Floats], float], seed: int = 0) -> Interval:
    """scores [seeds, windows, ...]: windows are drawn anew, and the training seed of each (strata: windows of one seed)."""
    rng = np.random.default_rng(seed)
    seeds, windows = scores.shape[:2]
    draws = []
    for _ in range(SAMPLES):
        chosen = rng.integers(windows, size=windows)
        rows = rng.integers(seeds, size=seeds)
        draws.append(statistic(scores[rows][:, chosen]))
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(statistic(scores), float(low), float(high))


def mean_interval(values: Floats, seed: int = 0) -> Interval:
    """The mean of values [n] with its bootstrap interval, all draws at once; a single value is only a point."""
    chosen = np.random.default_rng(seed).integers(len(values), size=(SAMPLES, len(values)))
    low, high = np.quantile(values[chosen].mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def gap_closed(base: Floats, method: Floats, ideal: Floats) -> Interval:
    """Share of the gap from base to ideal that a method closes, with interval; base, ideal [windows], method [seeds,
    windows]. Sums before the ratio: a window without a gap must not decide."""
    scores = np.stack((np.broadcast_to(base, method.shape), method, np.broadcast_to(ideal, method.shape)), axis=-1)

    def share(drawn: Floats) -> float:
        room = (drawn[..., 0] - drawn[..., 2]).mean()
        return float((drawn[..., 0] - drawn[..., 1]).mean() / room) if room > 0 else 0.0

    return bootstrap(scores, share)


def mean_gain(base: Floats, method: Floats) -> Interval:
    """Mean of the cost saved per window, with interval: what rare bad windows are worth as well."""
    return bootstrap((base[None, :] - method)[..., None], lambda drawn: float(drawn.mean()))
