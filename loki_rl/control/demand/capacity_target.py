"""How much demand to have capacity for: what a lost request costs against what room for it costs."""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from loki_rl.control.allocator.allocate import capacity
from loki_rl.control.allocator.ladder import ladder
from loki_rl.control.allocator.switching import ACCURACY, SERVERS, VIOLATION
from loki_rl.control.compiled import compiled
from loki_rl.control.demand.estimators import FLOOR_RPS, PEAK_S, Counts, Floats, busiest, mean
from loki_rl.control.demand.exceedance import MEMORY_S, beyond, chances, seen
from loki_rl.control.demand.forecast import QUANTILES
from loki_rl.control.formulation.request import Request
from loki_rl.core.pipeline import Pipeline

EXPECTED_BIN_S = 5
# A forecast sees most rises coming: jumps beside one are as likely as elsewhere while demand is new, and soon less so.
# Chosen on generated bursts, crowds, days, steady demand and one day of tweets.
JUMPS_BESIDE, CALM_BESIDE_S = 0.15, 10.0

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


class CapacityTarget:
    """The demand worth having capacity for, on the scale of cost J (docs/allocator.md, Demand to have capacity for).
    request: all but its demand."""

    def __init__(self, pipeline: Pipeline, request: Request) -> None:
        shared = (request.queueing, request.slo_s, request.headroom, request.pool, request.solver)
        top = capacity(pipeline, request.servers, request.min_accuracy, *shared)
        best = capacity(pipeline, request.servers, pipeline.best_accuracy, *shared)
        most = max(top.capacity_rps, 2 * FLOOR_RPS)
        low = min(max(best.capacity_rps, FLOOR_RPS), most / 2)
        demands = [share * low for share in LOW] + np.geomspace(low, most, STEPS).tolist()
        plans = ladder(pipeline, replace(request, slices=()), demands)
        whole = sum(kind.count * kind.price for kind in request.types)
        prices = [ACCURACY * (1 - plan.accuracy / pipeline.best_accuracy) + SERVERS * plan.price / whole for plan in plans]
        self.levels: Floats = np.geomspace(FLOOR_RPS, most, GRID)
        self._prices: Floats = np.interp(self.levels, demands, prices)

    def enough(self, above: Floats, mean_rps: float) -> float:
        """The demand [1/s] at which one more request would cost as much as it brings. above [GRID]: chance that a second's
        demand exceeds each level; mean_rps: what lost requests are a share of."""
        return float(self.levels[least(self.levels, self._prices, above, max(mean_rps, FLOOR_RPS))])

    def chance(self, above: Floats, low_rps: float, high_rps: float) -> float:
        """How likely the demand between two levels is to come, on average."""
        return float(average(self.levels, above, low_rps, high_rps))

    def from_history(self, arrivals: Counts, expected: float, lead_s: float) -> Demand:
        """Where `expected` follows these counts per second within the lead."""
        counts, expected = np.asarray(arrivals, np.float64), max(FLOOR_RPS, expected)
        above = chances(self.levels, counts, expected, lead_s)
        return self._room(expected, above, max(expected, mean(counts, MEMORY_S)))

    def from_forecast(self, arrivals: Counts, mean_rps: float, quantiles: Floats, lead_s: float) -> Demand:
        """Where a mean and quantiles [6] of the busiest PEAK_S seconds within the lead are forecast."""
        counts, expected = np.asarray(arrivals, np.float64), max(FLOOR_RPS, mean_rps)
        # The busiest seconds are as long as they are, not as long as the lead.
        ahead = min(1.0, PEAK_S / max(lead_s, 1.0)) * beyond(self.levels, expected, quantiles)
        unseen = chances(self.levels, counts, expected, lead_s, JUMPS_BESIDE, CALM_BESIDE_S)
        return self._room(expected, np.maximum(ahead, unseen), max(expected, mean(counts, MEMORY_S)))

    def from_future(self, coming: Counts) -> Demand:
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


def warm() -> None:
    """Load the compiled code, or compile it (once per installation, some 8 s), before a cluster waits for a plan."""
    levels, counts = np.array((1.0, 2.0)), np.array((1.0, 3.0))
    above = np.maximum(beyond(levels, 1.0, np.arange(1.0, len(QUANTILES) + 1)), chances(levels, counts, 1.0, 1.0))
    above = np.maximum(above, chances(levels, counts, 1.0, 1.0, JUMPS_BESIDE, CALM_BESIDE_S))
    average(levels, above, 1.0, levels[least(levels, levels, seen(levels, counts), 1.0)])


@compiled
def least(levels: Floats, prices: Floats, above: Floats, mean_rps: float) -> int:
    """Index of the level at which what is lost beyond it and its price cost least together."""
    found = len(levels) - 1
    short, lowest = 0.0, prices[found]
    for i in range(len(levels) - 2, -1, -1):
        short += (above[i + 1] + above[i]) / 2 * (levels[i + 1] - levels[i])
        cost = VIOLATION * short / mean_rps + prices[i]
        if cost <= lowest:
            found, lowest = i, cost
    return found


@compiled
def average(levels: Floats, above: Floats, low_rps: float, high_rps: float) -> float:
    """Mean chance of STEPS levels from one to another."""
    found: float = np.interp(np.linspace(low_rps, high_rps, STEPS), levels, above).mean()
    return found
