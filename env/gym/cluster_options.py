"""Options of the cluster environments, and what they play on, made once for equal ones."""

from __future__ import annotations

from functools import cache
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from loki_rl.control.fast.table import Table, build_table
from loki_rl.control.formulation.request import SOLVERS, Solver
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.control.policies.planner import Planner
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.env.fluid.batch import Pool, WindowPool
from loki_rl.env.fluid.cuts import trace_sampler
from loki_rl.env.fluid.demands import GENERATED, Sampler, bursty_sampler, drawn_sampler
from loki_rl.env.fluid.dynamics import TICK_S
from loki_rl.env.fluid.means import means_of
from loki_rl.env.fluid.windows import RANDOMISED, Bases, Ranges, WindowOptions
from loki_rl.env.simulate import with_load_s
from loki_rl.errors import UserError
from loki_rl.files.calibration_file import Calibration, load_calibration
from loki_rl.files.config import load_pipeline
from loki_rl.traces.trace import TraceOptions, load_trace

# Window seeds of the splits lie far apart, so that none can meet another.
SPLITS = {"train": 0, "validation": 1_000_000, "test": 2_000_000}
# The mean demand of generated windows, as a share of what the cluster serves with its most accurate variants.
MEAN_SHARE = 0.8
ONE_TASK = "one-task"
PATIENT_S = 60.0
ABOVE_ZERO = ("interval_s", "intervals", "windows", "heights", "servers", "mean_rps", "compress", "rate_scale")
NOT_BELOW_ZERO = ("bursts", "load_s")
# What only a trace has, and how it is when nothing is asked for.
OF_TRACES: dict[str, Any] = {"from_s": None, "to_s": None, "compress": 1.0, "rate_scale": None}
CHOICES = {
    "fidelity": ("fluid", "event"), "split": tuple(SPLITS), "solver": SOLVERS, "base": Bases, "kind": (None, *GENERATED)
}  # fmt: skip


class OptionError(UserError):
    """An option of an environment is wrong; the message says which and what it may be."""


class ClusterEnvOptions(TraceOptions, frozen=True, kw_only=True):
    """What an environment plays; how a trace is replayed as in TraceOptions.

    pipeline: file or name. servers: the file's if None. trace: file or name to cut windows from, else demand is generated.
    kind: of generated demand, one for all windows (bursty if None). mean_rps: its mean [1/s], by default a share of what the
    cluster serves most accurately (a trace: as it is). bursts, heights: of bursty windows that nothing is drawn for.
    fidelity: fluid or event. interval_s between plans; load_s: the file's if None; intervals: decisions of an episode.
    split, windows: which windows, how many. randomise: draw service rate, servers, lag and lost counts per window, the load
    time where load_s is None, and of generated demand the shape, its kind where kind is None, its mean where mean_rps is.
    base: whose belief actions adjust (exact, clairvoyant). deep: the thorough search of the allocator table (slower).
    solver: of exact plans (search or pulp): the table's ladder, what demand the mask allows, the event twin's. calibration:
    file of what a plane was seen to take (loki-rl calibrate); its load times where no other is given or drawn.
    """

    pipeline: str = "traffic"
    servers: int | None = None
    trace: str | None = None
    kind: str | None = None
    bursts: float = 1.0
    heights: float = 1.0
    fidelity: str = "fluid"
    interval_s: float = 1.0
    load_s: float | None = None
    intervals: int = 120
    split: str = "train"
    windows: int = 256
    randomise: bool = False
    base: str = "exact"
    deep: bool = False
    solver: Solver = "search"
    calibration: str | None = None


def check_options(options: ClusterEnvOptions) -> None:
    """Raise OptionError for a value that cannot be."""
    for name, known in CHOICES.items():
        if getattr(options, name) not in known:
            raise OptionError(f"{name} must be one of {', '.join(filter(None, known))}, not '{getattr(options, name)}'")
    for name in ABOVE_ZERO + NOT_BELOW_ZERO:
        value, above = getattr(options, name), name in ABOVE_ZERO
        if value is not None and not (0 <= value < inf and (value or not above)):
            raise OptionError(f"{name} must be finite and {'above' if above else 'not below'} 0, not {value}")
    if options.trace is None and any(getattr(options, name) != plain for name, plain in OF_TRACES.items()):
        raise OptionError(f"{', '.join(OF_TRACES)} are of a trace; name one or leave them out")
    if options.trace is not None and options.kind is not None:
        raise OptionError("kind is of generated demand, and windows come from a trace; leave one of them out")


def sampler_of(options: ClusterEnvOptions, table: Table) -> Sampler:
    """Where windows of demand come from."""
    if options.trace is not None:
        return trace_sampler(load_trace(options.trace), options, options.split)
    mean_rps = options.mean_rps or MEAN_SHARE * table.best_rps
    if options.randomise:
        return drawn_sampler(options.kind, options.mean_rps, table.best_rps, table.most_rps)
    if options.kind in (None, "bursty"):
        return bursty_sampler(mean_rps, options.bursts, options.heights)
    return drawn_sampler(options.kind, mean_rps, table.best_rps, table.most_rps)


def ranges_of(options: ClusterEnvOptions) -> Ranges:
    """What is drawn per window."""
    drawn = RANDOMISED if options.randomise else Ranges()
    return drawn if options.load_s is None else replace(drawn, load_s=())


@cache
def table_for(pipeline: str, load_s: float | None, servers: int | None, solver: Solver) -> Table:
    """The allocator of a pipeline (file or name) and cluster, made once per process (a few seconds)."""
    found = one_task() if pipeline == ONE_TASK else load_pipeline(pipeline).pipeline
    return build_table(with_load_s(found, load_s), servers or found.servers, solver=solver)


@cache
def pool_for(options: ClusterEnvOptions) -> Pool:
    """The windows of these options with their base; equal options share them in a process. Raises OptionError, and
    ConfigError for files that are wrong."""
    check_options(options)
    table, found = table_of(options), calibration_of(options)
    means = None if found is None else means_of(found, table.fleet, table.servers, options.interval_s)
    # In the event twin plans take their time by themselves.
    late_s = means.late_s if means is not None and options.fidelity == "fluid" else 0
    return Pool(table, _windows(replace(options, deep=False, fidelity="fluid", calibration=None), late_s), means)


@cache
def calibration_of(options: ClusterEnvOptions) -> Calibration | None:
    """Of the plane that is played; without its load times where another is given or drawn. Raises ConfigError."""
    if options.calibration is None:
        return None
    found = load_calibration(Path(options.calibration), table_of(options).fleet.pipeline)
    return found if options.load_s is None and not options.randomise else replace(found, loads=())


def chosen_windows(chosen: Any, number: int, pool: Pool) -> NDArray[np.int64]:
    """[number] the windows that a reset asks for, or the one for all. Raises OptionError for one that there is not."""
    given = np.asarray(chosen)
    if given.dtype.kind not in "iu" or given.shape not in ((), (number,)) or given.min() < 0 or given.max() >= pool.size:
        raise OptionError(f"window must be a whole number from 0 to {pool.size - 1}, or one for each cluster, not {chosen}")
    return np.broadcast_to(given.astype(np.int64), (number,))


def table_of(options: ClusterEnvOptions) -> Table:
    return table_for(options.pipeline, options.load_s, options.servers, options.solver)


@cache
def _windows(options: ClusterEnvOptions, late_s: int) -> WindowPool:
    table, ranges = table_of(options), ranges_of(options)
    pipeline = table.fleet.pipeline
    asked = WindowOptions(
        intervals=options.intervals,
        interval_s=options.interval_s,
        tick_s=TICK_S,
        sample=sampler_of(options, table),
        belief=cache(lambda servers: planner_of(pipeline, servers, options).belief),
        best_rps=table.best_rps,
        servers=table.servers,
        load_s=table.fleet.load_s,
        base=options.base,
        ranges=replace(ranges, lag_s=tuple(lag_s + late_s for lag_s in ranges.lag_s)),
    )
    return WindowPool(asked, table.fleet.models, options.windows, SPLITS[options.split])


def planner_of(pipeline: Pipeline, servers: int, options: ClusterEnvOptions) -> Planner:
    """As the policy `exact` plans for so many servers. The twin stands still meanwhile: a busy machine must not change
    what is found."""
    asked = PolicyOptions(servers, time_limit_s=PATIENT_S, solver=options.solver, interval_s=options.interval_s)
    return Planner(pipeline, asked, "tail", 0.0)


def one_task() -> Pipeline:
    """The pipeline of LokiRL/OneTask-v1: one task, five variants of 1 to .82 accuracy and 1 to 3.2 times the rate, 20
    servers of 31 requests/s at full accuracy, SLO 0.5 s, load time 5 s. Assumed figures, for study."""
    variants = tuple(
        Variant(f"v{i}", accuracy, {n: _row(n / (31.0 * speed)) for n in (1, 2, 4)}, load_s=5.0)
        for i, (accuracy, speed) in enumerate(((1.0, 1.0), (0.97, 1.4), (0.93, 1.9), (0.88, 2.5), (0.82, 3.2)))
    )
    task = Task("task", variants, entry=1.0)
    return Pipeline("one-task", 0.5, (task,), {"task": 1.0}, servers=20, provenance="assumed", source="chosen for study")


def _row(seconds: float) -> Latency:
    return Latency(seconds, 1.05 * seconds, 1.1 * seconds)
