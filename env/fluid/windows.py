"""Windows of demand that episodes are played on, with all that does not depend on actions worked out beforehand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loki_rl.control.demand.capacity_target import CapacityTarget, Demand
from loki_rl.control.demand.estimators import Floats, likely
from loki_rl.control.demand.forecast import SMOOTHING, Forecast, Forecaster, outcome, relative_error
from loki_rl.control.fast.model_arrays import Ints
from loki_rl.control.learned.observation import FLOOR_S, exogenous
from loki_rl.core.draws import FLUID_WINDOWS
from loki_rl.core.servers.history import HISTORY_S
from loki_rl.traces.arrivals import arrivals, generator
from loki_rl.traces.generate import bursty
from loki_rl.traces.trace import Trace, TraceOptions

LEAD_IN_S = 120  # history before the first plan
TAIL_S = 60  # so that the last forecasts have something to be compared with

Sampler = Callable[[int, int], Trace]
Bases = ("forecast", "exact", "clairvoyant")


class Ranges(Struct, frozen=True):
    """What is drawn per window for domain randomisation. load_s: any of these [s]; factor: real over profiled service rate;
    servers: share of the cluster that is there; lag_s: age of the counts [s]; lost: share of the seconds whose count is
    lost."""

    load_s: tuple[float, ...] = ()
    factor: tuple[float, float] = (1.0, 1.0)
    servers: tuple[float, float] = (1.0, 1.0)
    lag_s: tuple[int, ...] = (0,)
    lost: tuple[float, float] = (0.0, 0.0)


RANDOMISED = Ranges(
    load_s=(0.5, 1.0, 2.0, 5.0, 5.0, 10.0, 20.0),
    factor=(0.85, 1.15),
    servers=(0.8, 1.0),
    lag_s=(0, 1, 2),
    lost=(0.0, 0.1),
)


class WindowOptions(Struct, frozen=True, eq=False):
    """How windows are made. intervals: K, decisions of an episode; interval_s [s], tick_s [s]. sample(seconds, seed): a
    trace at least that long. forecaster: of the features and of base `forecast`. reserve: of a cluster of so many
    servers. best_rps: what the cluster serves with its
    best variants, the yardstick of the level. load_s: the pipeline's longest; models: M."""

    intervals: int
    interval_s: float
    tick_s: float
    sample: Sampler
    forecaster: Forecaster
    reserve: Callable[[int], CapacityTarget]
    best_rps: float
    servers: int
    load_s: Floats
    base: str = "forecast"
    ranges: Ranges = Ranges()

    @property
    def steps(self) -> int:
        """Intervals that are played: the first one runs the initial plan."""
        return self.intervals + 1

    @property
    def length_s(self) -> int:
        return LEAD_IN_S + round(self.steps * self.interval_s) + TAIL_S


class Windows(NamedTuple):
    """What the loops read of W windows [W, ...], or the row of one. ticks [N]: arrivals per tick; high, mean, floor [K + 2]:
    demand for capacity, expected, and of the last two seconds, as known at every decision [1/s]; chance [K + 2]: that what
    lies between the first two comes; exogenous [K + 2, EXOGENOUS]; reference: arrivals per interval that costs are shares
    of; lag_s: age of the counts [s]."""

    ticks: NDArray[np.float32]
    high: Floats
    mean: Floats
    chance: Floats
    floor: Floats
    exogenous: Floats
    reference: Floats
    lag_s: Ints


class Window(Struct, frozen=True, eq=False):
    """One episode's input. times: arrivals [s since the first plan]; row: of Windows; then what else was drawn."""

    times: Floats
    row: Windows
    load_s: Floats
    factor: float
    servers: int


def bursty_sampler(mean_rps: float, bursts: float = 1.0, heights: float = 1.0) -> Sampler:
    """Windows of the bursty generator."""
    return lambda seconds, seed: bursty(seconds, mean_rps, seed, bursts, heights)


def make_window(options: WindowOptions, seed: int) -> Window:
    """The window of a seed; the same for the same options."""
    rng = generator(seed, FLUID_WINDOWS)
    load_s, factor, servers, lag_s, lost = _draw(options, rng)
    trace = options.sample(options.length_s, seed)
    times = arrivals(trace, TraceOptions(to_s=trace.from_s + options.length_s), seed)
    seconds = np.bincount(times.astype(np.int64), minlength=options.length_s).astype(np.float64)
    seen = _seen(seconds, lost, rng)
    lead_s = options.interval_s + float(load_s.max())
    ends = LEAD_IN_S + np.round(np.arange(options.steps + 1) * options.interval_s).astype(np.int64)
    history = np.stack([seen[max(0, end - lag_s - LEAD_IN_S) : end - lag_s][-LEAD_IN_S + 2 :] for end in ends])
    played = times[(times >= LEAD_IN_S) & (times < ends[-1])] - LEAD_IN_S
    steps = round(options.steps * options.interval_s / options.tick_s)
    ticks = np.bincount((played / options.tick_s + 1e-9).astype(np.int64), minlength=steps)[:steps]
    actual = np.array([outcome(seconds[end : end + max(1, round(lead_s))]) for end in ends])
    forecast = options.forecaster(history, lead_s)
    demands = list(_demands(options.base, options.reserve(servers), seconds, seen, ends, lag_s, lead_s, forecast))
    errors = relative_error(forecast.quantiles, *actual.T)
    late = int(np.ceil(lead_s / options.interval_s))
    row = Windows(
        ticks=ticks.astype(np.float32),
        high=np.array([demand.high_rps for demand in demands]),
        mean=np.array([demand.expected_rps for demand in demands]),
        chance=np.array([demand.chance for demand in demands]),
        floor=history[:, -FLOOR_S:].mean(axis=1),
        exogenous=exogenous(history, forecast.mean, forecast.quantiles, _recent(errors, late), options.best_rps),
        reference=np.maximum(1.0, ticks.sum() / options.steps),
        lag_s=np.array(lag_s),
    )
    return Window(played, row, load_s, factor, servers)


def _draw(options: WindowOptions, rng: np.random.Generator) -> tuple[Floats, float, int, int, float]:
    ranges = options.ranges
    load_s = np.full(len(options.load_s), rng.choice(ranges.load_s)) if ranges.load_s else options.load_s
    servers = round(options.servers * rng.uniform(*ranges.servers))
    return load_s, rng.uniform(*ranges.factor), servers, int(rng.choice(ranges.lag_s)), rng.uniform(*ranges.lost)


def _seen(seconds: Floats, lost: float, rng: np.random.Generator) -> Floats:
    """Counts as the controller gets them: where one is lost the last one stands."""
    if lost == 0.0:
        return seconds
    known = np.where(rng.random(len(seconds)) >= lost, np.arange(len(seconds)), 0)
    kept: Floats = seconds[np.maximum.accumulate(known)]
    return kept


def _demands(
    base: str, reserve: CapacityTarget, seconds: Floats, seen: Floats, ends: Ints, lag_s: int, lead_s: float,
    forecast: Forecast,
) -> Iterator[Demand]:  # fmt: skip
    """What a non-learning base asks for at every decision, by the same functions as its policy."""
    known: list[float] = seen.tolist()
    for k, end in enumerate(ends.tolist()):
        recent = slice(max(0, end - lag_s - HISTORY_S), end - lag_s)
        if base == "clairvoyant":
            yield reserve.from_future(seconds[end : end + ceil(lead_s)])
        elif base == "exact":
            yield reserve.from_history(seen[recent], likely(known[recent], lead_s), lead_s)
        else:
            yield reserve.from_forecast(seen[recent], float(forecast.mean[k]), forecast.quantiles[k], lead_s)


def _recent(errors: Floats, late: int) -> Floats:
    """Smoothed error of the forecasts whose lead is over at each decision; their median before any is known."""
    recent, last = np.empty(len(errors)), 0.05
    for k in range(len(errors)):
        if k >= late:
            last = SMOOTHING * last + (1 - SMOOTHING) * errors[k - late]
        recent[k] = last
    return recent
