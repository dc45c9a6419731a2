"""One run of a policy on a trace in the event twin."""

from __future__ import annotations

from time import perf_counter

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.requests.ledger import Summary, Tally, summarise
from loki_rl.core.servers.server_type import ServerType, TypeProfile
from loki_rl.env.clients import Clients
from loki_rl.env.disturbed import DisturbedWorld
from loki_rl.env.faults import NO_FAULTS, Faults, check_faults
from loki_rl.env.histogram import counted, with_counts
from loki_rl.env.world import Decide, Habits, Recorder, World, run, slowest_load_s
from loki_rl.progress import Progress, unseen
from loki_rl.traces.demand import Wishes


class Simulation(Struct):
    """What a run leaves behind. summary: its figures; tally: what was counted. wall_s and events tell how fast the twin
    was."""

    summary: Summary
    tally: Tally
    wall_s: float
    events: int


def with_load_s(pipeline: Pipeline, load_s: float | None) -> Pipeline:
    """The same pipeline with one load time [s] for all its variants (None: as in its file)."""
    if load_s is None:
        return pipeline
    tasks = tuple(
        replace(task, variants=tuple(replace(variant, load_s=load_s) for variant in task.variants))
        for task in pipeline.tasks
    )
    return replace(pipeline, tasks=tasks)


def pool_with_load_s(pool: tuple[ServerType, ...], load_s: float | None) -> tuple[ServerType, ...]:
    """The same types without load times [s] of their own, where one is given for all variants."""
    if load_s is None:
        return pool
    return tuple(replace(kind, profiles={name: _unloaded(one) for name, one in kind.profiles.items()}) for kind in pool)


def _unloaded(profile: TypeProfile) -> TypeProfile:
    return replace(profile, figures={key: replace(one, load_s=None) for key, one in profile.figures.items()})


def simulate(
    options: ClusterOptions,
    decide: Decide,
    arrivals: np.ndarray[tuple[int], np.dtype[np.float64]],
    duration_s: float,
    record: Recorder | None = None,
    check: bool = False,
    faults: Faults = NO_FAULTS,
    wishes: Wishes | None = None,
    habits: Habits | None = None,
    progress: Progress = unseen,
) -> Simulation:
    """Play requests against a policy, in virtual time. Deterministic for equal input.

    options: the cluster. decide: the policy's. arrivals: [n] times of the requests [s from 0], sorted. duration_s: of the
    trace, whose seconds are counted. record: is told every call of an actor. check: whether actors validate themselves after
    each. faults: what goes wrong. wishes: what each request asks for; one that comes again is another arrival. habits: of
    the plane that the twin stands for. progress: is told the share of the trace that is played. Raises FaultError.
    """
    check_faults(faults, options.pipeline, options.servers)
    settle_s = slowest_load_s(options, habits) + 1.0
    began = perf_counter()
    fanouts = (() if habits is None else counted(habits.calibration)) + faults.fanout
    if fanouts:
        options = replace(options, pipeline=with_counts(options.pipeline, fanouts))
    if faults == NO_FAULTS:
        world = World(options, decide, start=-settle_s, record=record, check=check, habits=habits)
    else:
        world = DisturbedWorld(options, decide, faults, start=-settle_s, record=record, check=check, habits=habits)
    run(world, arrivals.tolist(), duration_s, settle_s, None if wishes is None else Clients(wishes), progress)
    tally = world.gateway.tally
    tally.validate()
    wall_s = perf_counter() - began
    return Simulation(summarise(tally, options.pipeline.best_accuracy, options.servers), tally, wall_s, world.events)
