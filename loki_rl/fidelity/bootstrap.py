"""Drawing the spans of a run anew, in blocks: neighbouring seconds are not independent, since they share queues and plans.
Owns the draws; knows no figure."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

import numpy as np
from numpy.typing import NDArray

from loki_rl.reports.statistics import Interval

Floats = NDArray[np.float64]

DRAWS = 1000
# Of intervals. A difference is shown to be within a bar by two one-sided tests, each at 5 %, if this interval lies within it
# (Schuirmann 1987).
LEVEL = 0.90


def block_draws(length: int, block: int, draws: int, rng: np.random.Generator) -> Floats:
    """How often each of `length` spans was drawn: [draws, length], each row sums to `length`.

    Circular blocks (Politis and Romano 1992): as moving blocks, and those at the ends are drawn as often as any.
    """
    starts = rng.integers(length, size=(draws, ceil(length / block), 1))
    places = ((starts + np.arange(min(block, length))) % length).reshape(draws, -1)[:, :length]
    rows = np.arange(draws)[:, None] * length
    return np.bincount((rows + places).ravel(), minlength=draws * length).astype(np.float64).reshape(draws, length)


def resample(sums: Mapping[str, Floats], weights: Floats) -> dict[str, Floats]:
    """The sums [draws, width] of spans drawn as often as the weights [draws, spans] say."""
    return {name: weights @ column for name, column in sums.items()}


def interval(value: float, draws: Floats) -> Interval:
    """A figure with the interval of its draws; those that have none (nothing of its kind was drawn) are left out, and
    without any the interval is NaN."""
    known = draws[np.isfinite(draws)]
    if not len(known):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))
