"""Windows of demand that episodes are played on, with all that does not depend on actions worked out beforehand."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loki_rl.control.demand.belief import Belief, Coming
from loki_rl.control.demand.estimators import FLOOR_RPS, Floats
from loki_rl.control.fast.model_arrays import Ints
from loki_rl.control.learned.observation import FLOOR_S, exogenous
from loki_rl.control.policies.clairvoyant import FORESIGHT_S
from loki_rl.control.policies.exact import horizon_s, lead_s
from loki_rl.core.draws import FLUID_WINDOWS
from loki_rl.core.servers.history import HISTORY_S
from loki_rl.env.fluid.demands import Sampler
from loki_rl.traces.arrivals import arrivals, generator
from loki_rl.traces.trace import TraceOptions

LEAD_IN_S = 180  # before the first plan
Bases = ("exact", "clairvoyant")


class Ranges(Struct, frozen=True):
    """What is drawn per window for domain randomisation. load_s: any of these [s]; factor: real over profiled service rate;
    servers: share of the cluster that is there; lag_s: age of the counts [s]; lost: share of the seconds whose count is
    lost; known_s: seconds that were counted before the first plan."""

    load_s: tuple[float, ...] = ()
    factor: tuple[float, float] = (1.0, 1.0)
    servers: tuple[float, float] = (1.0, 1.0)
    lag_s: tuple[int, ...] = (0,)
    lost: tuple[float, float] = (0.0, 0.0)
    known_s: tuple[int, ...] = (LEAD_IN_S,)


RANDOMISED = Ranges(
    load_s=(0.5, 1.0, 2.0, 5.0, 5.0, 10.0, 20.0),
    factor=(0.85, 1.15),
    servers=(0.8, 1.0),
    lag_s=(0, 1, 2),
    lost=(0.0, 0.1),
    known_s=(10, 60, LEAD_IN_S, LEAD_IN_S),
)


class WindowOptions(Struct, frozen=True, eq=False):
    """How windows are made. intervals: K, decisions of an episode; interval_s [s], tick_s [s]. sample(seconds, seed): a
    trace at least that long. belief: of a cluster of so many servers. best_rps: what the cluster serves with its best
    variants, the yardstick of the level. load_s: of the pipeline's models [s]. base: who believes."""

    intervals: int
    interval_s: float
    tick_s: float
    sample: Sampler
    belief: Callable[[int], Belief]
    best_rps: float
    servers: int
    load_s: Floats
    base: str = "exact"
    ranges: Ranges = Ranges()

    @property
    def steps(self) -> int:
        """Intervals that are played: the first one runs the initial plan."""
        return self.intervals + 1

    @property
    def length_s(self) -> int:
        return LEAD_IN_S + round(self.steps * self.interval_s) + FORESIGHT_S


class Windows(NamedTuple):
    """What the loops read of W windows [W, ...], or the row of one. ticks [N]: arrivals per tick; to_rps, chance
    [K + 2, S]: slices of what is believed to come, at every decision; expected, mean, floor [K + 2]: the belief's expected
    and mean demand, and that of the last two seconds [1/s]; horizon_s [K + 2]: how long its plan should pay; exogenous
    [K + 2, EXOGENOUS]; reference: arrivals per interval that costs are shares of; lag_s: age of the counts [s]."""

    ticks: NDArray[np.float32]
    to_rps: Floats
    chance: Floats
    expected: Floats
    mean: Floats
    floor: Floats
    horizon_s: Floats
    exogenous: Floats
    reference: Floats
    lag_s: Ints


class Window(Struct, frozen=True, eq=False):
    """One episode's input. times: arrivals [s since the first plan]; row: of Windows; then what else was drawn. comings: the
    beliefs of the row."""

    times: Floats
    row: Windows
    load_s: Floats
    factor: float
    servers: int
    comings: tuple[Coming, ...]


class Drawn(NamedTuple):
    """Of the ranges, for one window."""

    load_s: Floats
    factor: float
    servers: int
    lag_s: int
    lost: float
    known_s: int


def make_window(options: WindowOptions, seed: int) -> Window:
    """The window of a seed; the same for the same options."""
    rng = generator(seed, FLUID_WINDOWS)
    drawn = _draw(options, rng)
    trace = options.sample(options.length_s, seed)
    times = arrivals(trace, TraceOptions(to_s=trace.from_s + options.length_s), seed)
    seconds = np.bincount(times.astype(np.int64), minlength=options.length_s).astype(np.float64)
    seen = _seen(seconds, drawn.lost, rng)
    ends = LEAD_IN_S + np.round(np.arange(options.steps + 1) * options.interval_s).astype(np.int64)
    histories = [_known(seen, end - drawn.lag_s, drawn.known_s) for end in ends.tolist()]
    played = times[(times >= LEAD_IN_S) & (times < ends[-1])] - LEAD_IN_S
    steps = round(options.steps * options.interval_s / options.tick_s)
    ticks = np.bincount((played / options.tick_s + 1e-9).astype(np.int64), minlength=steps)[:steps]
    comings, load_s = _comings(options, drawn, seconds, histories, ends), float(drawn.load_s.max())
    slices = np.array([[(one.to_rps, one.chance) for one in coming.slices] for coming in comings])
    horizons_s = np.array([horizon_s(counts, load_s, options.interval_s) for counts in histories])
    row = Windows(
        ticks=ticks.astype(np.float32),
        to_rps=slices[..., 0],
        chance=slices[..., 1],
        expected=np.array([coming.expected_rps for coming in comings]),
        mean=np.array([coming.mean_rps for coming in comings]),
        floor=np.array([counts[-FLOOR_S:].mean() for counts in histories]),
        horizon_s=horizons_s,
        exogenous=exogenous(histories, comings, horizons_s, options.best_rps),
        reference=np.maximum(1.0, ticks.sum() / options.steps),
        lag_s=np.array(drawn.lag_s),
    )
    return Window(played, row, drawn.load_s, drawn.factor, drawn.servers, tuple(comings))


def _draw(options: WindowOptions, rng: np.random.Generator) -> Drawn:
    ranges = options.ranges
    return Drawn(
        load_s=np.full(len(options.load_s), rng.choice(ranges.load_s)) if ranges.load_s else options.load_s,
        servers=round(options.servers * rng.uniform(*ranges.servers)),
        factor=rng.uniform(*ranges.factor),
        lag_s=int(rng.choice(ranges.lag_s)),
        lost=rng.uniform(*ranges.lost),
        known_s=int(rng.choice(ranges.known_s)),
    )


def _seen(seconds: Floats, lost: float, rng: np.random.Generator) -> Floats:
    """Counts as the controller gets them: where one is lost the last one stands."""
    if lost == 0.0:
        return seconds
    known = np.where(rng.random(len(seconds)) >= lost, np.arange(len(seconds)), 0)
    kept: Floats = seconds[np.maximum.accumulate(known)]
    return kept


def _known(seen: Floats, end: int, known_s: int) -> Floats:
    """What a controller keeps of the seconds before `end` that began to count so long before the first plan [s]."""
    return seen[max(LEAD_IN_S - known_s, end - HISTORY_S) : end]


def _comings(options: WindowOptions, drawn: Drawn, seconds: Floats, histories: list[Floats], ends: Ints) -> list[Coming]:
    """What the base believes at every decision, by the same functions as its policy."""
    belief, longest_s = options.belief(drawn.servers), float(drawn.load_s.max())
    if options.base == "clairvoyant":
        mean_rps = max(FLOOR_RPS, float(seconds.mean()))
        return [belief.from_future(seconds[end : end + FORESIGHT_S], mean_rps) for end in ends.tolist()]
    return [belief.from_history(counts, lead_s(longest_s, options.interval_s)) for counts in histories]
