"""One run: a policy on a trace, in the twin or on a plane of this host."""

from __future__ import annotations

from collections.abc import Container, Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct
from msgspec.structs import asdict, replace
from numpy.typing import NDArray

from loki_rl.control.demand.history_file import read_history
from loki_rl.control.formulation.request import RequestError
from loki_rl.control.policies.named import kind_of, make_policy
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.requests.ledger import Summary, Tally
from loki_rl.env.faults import NO_FAULTS, FaultError, check_faults
from loki_rl.env.simulate import pool_with_load_s, simulate, with_load_s
from loki_rl.env.world import Habits
from loki_rl.files.calibration_file import load_calibration
from loki_rl.files.config import ConfigError, PipelineFile
from loki_rl.files.pool_file import Pool, load_pool
from loki_rl.progress import Progress, unseen
from loki_rl.runs.options import RunOptions
from loki_rl.runs.result import RunResult
from loki_rl.traces.arrivals import clock_s, duration_s, made_up, requests
from loki_rl.traces.trace import Trace, TraceError, Wishes, load_trace

if TYPE_CHECKING:
    from loki_rl.serving.load.replay import ReplayResult

START_S = 10.0
PAYLOADS = 60


class Scene(Struct):
    """A run's inputs, loaded and checked: what both drivers need."""

    options: RunOptions
    file: PipelineFile
    pipeline: Pipeline
    trace: Trace
    times: NDArray[np.float64]
    wishes: Wishes | None
    duration_s: float
    cluster: ClusterOptions
    policy: PolicyOptions
    habits: Habits | None = None


def prepare(options: RunOptions) -> Scene:
    """Load and check what a run needs. Raises ConfigError, TraceError, RequestError, HistoryError or FaultError: one clear
    sentence."""
    file = options.file
    pipeline = with_load_s(file.pipeline, options.load_s)
    trace = load_trace(options.trace)
    times, wishes = requests(trace, options, options.seed)
    length = duration_s(trace, options)
    if options.driver != "twin" and wishes is not None and wishes.retries.any():
        raise TraceError(f"trace '{trace.name}': retries are played by the twin only; leave that column out")
    if options.driver != "twin" and wishes is not None and wishes.timeout_s is not None and wishes.timeout_s.any():
        raise TraceError(f"trace '{trace.name}': deadlines of single requests are played by the twin only")
    pool = pool_of(options, file)
    servers = pool.servers or pipeline.servers if options.servers is None else options.servers
    check_faults(options.faults, pipeline, servers)
    if options.faults != NO_FAULTS and options.driver != "twin":
        raise FaultError(f"faults are carried out by the twin only, not by driver '{options.driver}'; leave them out")
    cluster = cluster_of(options, pipeline, servers, pool)
    if options.history is not None:
        read_history(Path(options.history))
    habits = habits_of(options, pipeline)
    told = replace(_policy_options(options, cluster, times, length), clock_s=clock_s(trace, options))
    return Scene(options, file, pipeline, trace, times, wishes, length, cluster, told, habits)


def habits_of(options: RunOptions, pipeline: Pipeline) -> Habits | None:
    """Of the plane that the twin stands for; a load time that is given counts. Raises ConfigError."""
    if options.calibration is None:
        return None
    if options.driver != "twin":
        raise ConfigError(f"a calibration is for the twin only, not for driver '{options.driver}'; leave it out")
    found = load_calibration(Path(options.calibration), pipeline)
    return Habits(found if options.load_s is None else replace(found, loads=()), options.policy)


def cluster_of(options: RunOptions, pipeline: Pipeline, servers: int, pool: Pool) -> ClusterOptions:
    """What a run plays on. Raises RequestError for a policy that does not exist."""
    return ClusterOptions(
        pipeline,
        servers,
        seed=options.seed,
        interval_s=interval_of(options),
        drop=options.drop,
        parallel_loads=options.parallel_loads,
        routing=options.routing,
        pool=pool.types,
    )


def interval_of(options: RunOptions) -> float:
    """Time between plans [s]: as the options say, else the policy's own. Raises RequestError for a policy that does not
    exist."""
    return kind_of(options.policy).interval_s if options.interval_s is None else options.interval_s


def policy_of(options: RunOptions, cluster: ClusterOptions) -> PolicyOptions:
    """What its policy is told; of demand only what the options say."""
    return PolicyOptions(
        servers=cluster.servers,
        pool=cluster.pool,
        interval_s=cluster.interval_s,
        min_accuracy=options.min_accuracy,
        queueing=options.queueing,
        headroom=options.headroom,
        caution=options.caution,
        history=options.history,
        initial_rps=options.initial_rps,
        demand_rps=options.demand_rps,
        model=options.model,
        solver=options.solver,
    )


def pool_of(options: RunOptions, file: PipelineFile) -> Pool:
    """The types of the servers, with one load time where the options give one; none without a pool file."""
    if options.pool is None:
        return Pool()
    pool = load_pool(options.pool, [file])
    if options.servers not in (None, pool.servers):
        raise RequestError(
            f"the types of '{options.pool}' have {pool.servers} servers together, not {options.servers}; leave one out"
        )
    if options.routing != "pull":
        raise RequestError("several types of servers are served with routing 'pull' only; leave the pool out")
    return replace(pool, types=pool_with_load_s(pool.types, options.load_s))


def _policy_options(
    options: RunOptions, cluster: ClusterOptions, times: NDArray[np.float64], length: float
) -> PolicyOptions:
    counts, _ = np.histogram(times, bins=max(1, round(length / START_S)), range=(0.0, length))
    width = length / len(counts)
    future, _ = np.histogram(times, bins=np.arange(ceil(length) + 1))
    return replace(
        policy_of(options, cluster),
        initial_rps=options.initial_rps or max(float(counts[0]) / width, 0.1),
        demand_rps=options.demand_rps or max(float(counts.max()) / width, 0.1),
        future=tuple(future.tolist()),
    )


def run_twin(options: RunOptions, _folder: Path | None = None, progress: Progress = unseen) -> RunResult:
    """Play the run in the event twin, which can be repeated: nothing is recorded. progress: of the trace."""
    scene = prepare(options)
    policy = make_policy(options.policy, scene.pipeline, scene.policy)
    done = simulate(
        scene.cluster,
        policy.decide,
        scene.times,
        scene.duration_s,
        faults=options.faults,
        wishes=scene.wishes,
        habits=scene.habits,
        progress=progress,
    )
    return result(scene, done.summary, done.tally, done.wall_s)


def result(scene: Scene, summary: Summary, tally: Tally, wall_s: float) -> RunResult:
    return RunResult(
        options=scene.options,
        trace=scene.trace.name,
        summary=summary,
        tally=tally,
        servers=scene.cluster.servers,
        best_accuracy=scene.pipeline.best_accuracy,
        provenance=scene.file.provenance,
        duration_s=scene.duration_s,
        wall_s=wall_s,
        synthetic=made_up(scene.trace, scene.options),
    )


def run_plane(options: RunOptions, folder: Path | None = None, progress: Progress = unseen) -> RunResult:
    """Play the run on a plane of this host, recorded in its run folder where it has one. Raises as `play` does."""
    scene = prepare(options)
    seen = play(scene, None if options.driver == "emulated" else payloads(scene), folder, progress=progress)
    return result(scene, seen.figures, seen.tally, seen.wall_s)


def play(
    scene: Scene,
    sent: Sequence[NDArray[Any]] | None,
    folder: Path | None = None,
    keep: Container[int] = (),
    progress: Progress = unseen,
) -> ReplayResult:
    """Start a plane, replay the scene's arrivals against it, stop it. folder: where it is recorded. keep: numbers of the
    payloads whose answers are kept. Raises LaunchError, ReplayError, FlightError or EngineError with one clear sentence."""
    from loki_rl.runs.recorded.recording import begin_recording, recording_in
    from loki_rl.serving.load.replay import replay
    from loki_rl.serving.process.launch import LocalPlane

    options = scene.options
    recording = None if folder is None else begin_recording(recording_in(folder), scene.cluster, options)
    with LocalPlane(
        scene.cluster,
        engine="emulated" if options.driver == "emulated" else "onnx",
        pipeline_file=str(scene.file.path),
        device=options.device,
        policy=options.policy,
        policy_options=on_plane(scene.policy),
        recording=recording,
    ) as plane:
        name, slo_s = scene.pipeline.name, scene.pipeline.slo_s
        seen = replay(plane.front, name, scene.times, sent, slo_s, keep=keep, wishes=scene.wishes, progress=progress)
        plane.check()
    return seen


def on_plane(policy: PolicyOptions) -> dict[str, object]:
    """A policy's options as a plane's controller gets them; the types of its servers it knows."""
    return asdict(replace(policy, pool=()))


def payloads(scene: Scene) -> list[NDArray[Any]]:
    """What is sent in turn to real models. Raises EngineError or ModelError."""
    from loki_rl.serving.profiling.workload import entry_payloads

    return entry_payloads(scene.file, PAYLOADS, scene.options.seed, scene.options.device)


RUNNERS = {"twin": run_twin, "emulated": run_plane, "onnx": run_plane}
