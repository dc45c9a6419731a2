"""How much demand to have capacity for: what a lost request costs against what room for it costs. Owns how likely demand
above the expected is, and the price of capacity; knows no cluster state."""

from __future__ import annotations

from collections.abc import Sequence
from math import erf, sqrt

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from loki_rl.control.allocator import capacity
from loki_rl.control.demand import FLOOR_RPS, busiest, mean, spread
from loki_rl.control.forecast import QUANTILES, TARGET
from loki_rl.control.ladder import ladder
from loki_rl.control.request import Request
from loki_rl.control.switching import ACCURACY, SERVERS, VIOLATION
from loki_rl.core.pipeline import Pipeline

Floats = NDArray[np.float64]

# Demand may jump at any time, up to HIGHEST times, to above r times what it is with chance rate / r per second. Room for it
# is cheap while demand is low. The rate is JUMPS / CALM_S at first and falls with every second seen without one (the mean of
# a gamma prior after Poisson events); a jump that did come is in what was seen. Chosen on generated bursts, crowds, steady
# demand and one day of tweets: half of the rate misses first crowds, twice as much gives accuracy away all day.
JUMPS = 0.4
CALM_S = 80.0
HIGHEST = 5.0
# Levels that were reached a while ago come back. Three seconds together: a shorter peak is served from the queues.
MEMORY_S = 300
PEAK_S = 3
EXPECTED_BIN_S = 5
# A forecast has learnt how demand rises. What it never saw may still come, at this share of the rate above.
UNSEEN = 0.05

# Fine enough that rounding up to a level costs nothing to speak of: 1.5 % a step.
GRID = 512
STEPS = 8
LOW = (0.1, 0.3, 0.6)


class Demand(Struct, frozen=True):
    """expected_rps: what is likely to come; high_rps: what there should be capacity for [1/s]; chance: how likely what lies
    between them is to come."""

    expected_rps: float
    high_rps: float
    chance: float


class Reserve:
    """The demand worth having capacity for, on the scale of cost J (DESIGN, section 9). request: all but its demand."""

    def __init__(self, pipeline: Pipeline, request: Request) -> None:
        shared = (request.queueing, request.slo_s, request.headroom, request.pool)
        top = capacity(pipeline, request.servers, request.min_accuracy, *shared)
        best = capacity(pipeline, request.servers, pipeline.best_accuracy, *shared)
        most = max(top.capacity_rps, 2 * FLOOR_RPS)
        low = min(max(best.capacity_rps, FLOOR_RPS), most / 2)
        demands = [share * low for share in LOW] + np.geomspace(low, most, STEPS).tolist()
        plans = ladder(pipeline, replace(request, expected_rps=None), demands)
        whole = sum(kind.count * kind.price for kind in request.types)
        prices = [ACCURACY * (1 - plan.accuracy / pipeline.best_accuracy) + SERVERS * plan.price / whole for plan in plans]
        self.levels: Floats = np.geomspace(FLOOR_RPS, most, GRID)
        self._prices: Floats = np.interp(self.levels, demands, prices)

    def enough(self, chances: Floats, mean_rps: float) -> float:
        """The demand [1/s] at which one more request would cost as much as it brings. chances [GRID]: that a second's
        demand exceeds each level; mean_rps: what lost requests are a share of."""
        between = (chances[1:] + chances[:-1]) / 2 * np.diff(self.levels)
        short = np.append(np.cumsum(between[::-1])[::-1], 0.0)
        return float(self.levels[np.argmin(VIOLATION * short / max(mean_rps, FLOOR_RPS) + self._prices)])

    def chance(self, chances: Floats, low_rps: float, high_rps: float) -> float:
        """How likely the demand between two levels is to come, on average."""
        levels = np.linspace(low_rps, high_rps, STEPS)
        return float(np.interp(levels, self.levels, chances).mean())

    def after(self, arrivals: Sequence[int], expected: float, lead_s: float) -> Demand:
        """Where `expected` follows these counts per second within the lead."""
        expected = max(FLOOR_RPS, expected)
        above = chances(self.levels, arrivals, expected, lead_s)
        return self._room(expected, above, max(expected, mean(arrivals, MEMORY_S)))

    def beside(self, arrivals: Sequence[int], mean_rps: float, quantiles: Floats, lead_s: float) -> Demand:
        """Where a mean and quantiles [6] of the busiest seconds within the lead are forecast."""
        expected = max(FLOOR_RPS, mean_rps)
        jumps = chances(self.levels, arrivals, expected, lead_s)
        above = np.maximum(beyond(self.levels, expected, quantiles), UNSEEN * jumps)
        return self._room(expected, above, max(expected, mean(arrivals, MEMORY_S)))

    def knowing(self, coming: Sequence[int]) -> Demand:
        """Where the counts per second to come are known."""
        expected = max(FLOOR_RPS, busiest(coming, EXPECTED_BIN_S))
        counts = np.array(coming, np.float64)
        # A second's count is known, not when in it: a deviation more keeps its queues short.
        above = seen(self.levels, counts + np.sqrt(counts))
        return self._room(expected, above, mean(coming, len(coming)))

    def _room(self, expected: float, above: Floats, mean_rps: float) -> Demand:
        """above, mean_rps: as in `enough`."""
        high = max(expected, self.enough(above, mean_rps))
        return Demand(expected, high, self.chance(above, expected, high))


def chances(levels: Floats, arrivals: Sequence[int], expected: float, lead_s: float) -> Floats:
    """Share of the lead's seconds in which demand is likely to exceed each level: the estimate may be off, what was seen
    comes back, and demand jumps."""
    rate = JUMPS / (CALM_S + min(len(arrivals), MEMORY_S))
    # A second's noise, though idle servers are kept for that: less of it and plans are late where demand begins to rise.
    sigma = sqrt(2) * spread(arrivals, expected)
    noise = np.array([0.5 - 0.5 * erf((level - expected) / sigma) for level in levels])
    jump = np.where(levels <= HIGHEST * expected, rate * lead_s * expected / levels, 0.0)
    total: Floats = np.where(levels <= expected, 1.0, noise + again(levels, peaks(arrivals), lead_s) + jump)
    return np.minimum(total, 1.0)


def beyond(levels: Floats, mean_rps: float, quantiles: Floats) -> Floats:
    """How likely the busiest seconds exceed each level, by their quantiles [6]; exponential beyond the last of them."""
    known = np.log(1 - np.array((0.0, *QUANTILES)))
    places = np.concatenate(([min(mean_rps, quantiles[0])], quantiles))
    inside = np.interp(levels, places, known)
    slope = (known[-1] - known[TARGET + 1]) / max(quantiles[-1] - quantiles[TARGET], FLOOR_RPS)
    total: Floats = np.exp(inside + slope * np.maximum(levels - quantiles[-1], 0.0))
    return total


def again(levels: Floats, demand: Floats, lead_s: float) -> Floats:
    """Share of the lead above each level, from below it: it has been crossed before, so it will be, at a time that is as
    likely early as late. Never more than the share of all seconds [n] that were above it."""
    above = demand[None, :] > levels[:, None]
    below = np.maximum((~above).sum(axis=1), 1)
    crossings = np.diff(above, axis=1, prepend=False).sum(axis=1) / 2  # up and down are counted, and the end is not
    late = np.minimum(seen(levels, demand), np.ceil(crossings) / below * lead_s / 2)
    # Who is above a level is above all lower ones.
    highest: Floats = np.maximum.accumulate(late[::-1])[::-1]
    return highest


def peaks(arrivals: Sequence[int]) -> Floats:
    """Demand [1/s] of all PEAK_S seconds that can be remembered."""
    recent = np.array(arrivals[-MEMORY_S:], np.float64)
    return np.convolve(recent, np.full(PEAK_S, 1 / PEAK_S), "valid") if len(recent) >= PEAK_S else recent


def seen(levels: Floats, demand: Floats) -> Floats:
    """Share of the demand [n] above each level."""
    if not len(demand):
        return np.zeros(len(levels))
    above: Floats = (demand[None, :] > levels[:, None]).mean(axis=1)
    return above
