"""A plane that stays up. Owns its options, what is checked before it starts, and what remains of it as a run; decides
nothing."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

from loki_rl.control.allocator.allocate import allocate
from loki_rl.control.formulation.request import Queueing, Request, Solver
from loki_rl.control.policies.named import make_policy
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.core.options import ClusterOptions, DropPolicy
from loki_rl.core.requests.ledger import Tally, summarise
from loki_rl.core.servers.server_type import types_of
from loki_rl.env.simulate import with_load_s
from loki_rl.files.config import PipelineFile
from loki_rl.files.pool_file import Pool
from loki_rl.files.profile_file import ProfileFile
from loki_rl.runs.run import RunOptions, RunResult, cluster_of, on_plane, policy_of, pool_of
from loki_rl.serving.engines.hardware import measured_on
from loki_rl.serving.engines.placement_check import check_hosting
from loki_rl.serving.engines.sessions import choose_devices
from loki_rl.serving.gateway.client import Client
from loki_rl.serving.observe import logs
from loki_rl.serving.observe.logs import Level, LogOptions
from loki_rl.serving.observe.span_options import SpanOptions
from loki_rl.serving.plane import EngineKind
from loki_rl.serving.process.launch import LocalPlane, check_addresses


class LiveError(ValueError):
    """What was asked cannot be served; the message says why and what to do."""


class ServeOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything `serve` may be told. engine None: onnx if the pipeline file names models, else emulated. profile: file to
    use instead of the one that the pipeline file names. any_profile: also one that was measured elsewhere. model: a
    trained agent, for `ppo`; shadow: what it would do is only written down. workers_per_gpu: on each GPU of `device`, which
    then decides the number of workers. parallel_loads: servers that may leave their model at once. drain_s: time
    after SIGTERM in which clients that have not noticed are still served. logs, log_json, log_level: as in LogOptions.
    otlp, trace_ratio: endpoint and ratio of SpanOptions. public: listen where other hosts can reach it. pool: file of server
    types, which then are the servers."""

    pipeline: str
    workers: int | None = None
    policy: str = "exact"
    engine: EngineKind | None = None
    device: str = "auto"
    workers_per_gpu: Annotated[int, Meta(ge=1, le=64)] | None = None
    parallel_loads: Annotated[int, Meta(ge=0)] = 0
    http_port: int = 8000
    http_host: str = "127.0.0.1"
    http_processes: Annotated[int, Meta(ge=1, le=64)] = 1
    grpc_port: int | None = None
    public: bool = False
    drain_s: Annotated[float, Meta(ge=0)] = 2.0
    logs: str = ""
    log_json: bool = False
    log_level: Level = "info"
    otlp: str = ""
    trace_ratio: float = 1.0
    native: str | None = None
    slo_ms: float | None = None
    interval_s: float = 10.0
    initial_rps: float = 1.0
    demand_rps: float | None = None
    drop: DropPolicy = "reroute"
    load_s: float | None = None
    queueing: Queueing | None = None
    headroom: float | None = None
    min_accuracy: float = 0.0
    seed: int = 0
    profile: str | None = None
    pool: str | None = None
    any_profile: bool = False
    model: str | None = None
    shadow: bool = False
    solver: Solver = "search"


class Served(Struct):
    """What is served, loaded and checked."""

    run: RunOptions
    engine: EngineKind
    file: PipelineFile
    cluster: ClusterOptions
    policy: PolicyOptions


def serve_until_stopped(options: ServeOptions, journal: Path | None, announce: Callable[[str], None]) -> RunResult:
    """Start a plane, say where it listens, stop it in order at SIGTERM or SIGINT, and account for what it served.

    Raises LaunchError, ConfigError, RequestError, LiveError or EngineError with one clear sentence.
    """
    served = _prepared(options)
    keep = LogOptions(options.logs, options.log_json, options.log_level)
    logs.start("launcher", keep)
    stopped, plane = threading.Event(), _plane(options, served, journal, keep)
    _on_signals(lambda: _stop_start(stopped, plane))
    with plane, Client(plane.front) as client:
        _on_signals(stopped.set)
        client.begin_run()
        announce(_addresses(options, served.file.name))
        while not stopped.wait(0.5):
            plane.check()
        plane.leave()
        # A second signal means now.
        stopped.clear()
        stopped.wait(options.drain_s)
        plane.drain()
        tally = client.ledger().tally
    return _account(served, tally)


def _prepared(options: ServeOptions) -> Served:
    """All that can be wrong is told before anything starts."""
    check_addresses(options.http_host, options.native or "", options.public)
    run = _run(options)
    file = run.file
    engine: EngineKind = options.engine or ("onnx" if file.models else "emulated")
    pipeline = with_load_s(file.pipeline, options.load_s)
    servers, pool = _servers(options, run, engine, file)
    cluster = cluster_of(run, pipeline, servers, pool)
    policy = replace(policy_of(run, cluster), shadow=options.shadow)
    make_policy(options.policy, pipeline, policy)
    if engine == "onnx":
        check_hosting(cluster, options.device)
        if not options.any_profile:
            _check_profiles(file, pool, options.device)
    _check_feasible(cluster, policy)
    return Served(replace(run, driver=engine, servers=servers), engine, file, cluster, policy)


def _run(options: ServeOptions) -> RunOptions:
    """What of the options describes a run of any kind."""
    alike = set(RunOptions.__struct_fields__) & set(ServeOptions.__struct_fields__)
    return RunOptions(trace="live", servers=options.workers, **{name: getattr(options, name) for name in alike})


def _plane(options: ServeOptions, served: Served, journal: Path | None, keep: LogOptions) -> LocalPlane:
    return LocalPlane(
        served.cluster,
        engine=served.engine,
        pipeline_file=str(served.file.path),
        device=options.device,
        policy=options.policy,
        policy_options=on_plane(served.policy),
        native=options.native or "",
        http_port=options.http_port,
        http_host=options.http_host,
        http_processes=options.http_processes,
        grpc_port=options.grpc_port,
        public=options.public,
        journal=journal,
        logs=keep,
        traces=SpanOptions(options.otlp, options.trace_ratio),
    )


def _addresses(options: ServeOptions, name: str) -> str:
    native = "" if options.native is None else f" and {options.native}"
    rpc = "" if options.grpc_port is None else f" and grpc://{options.http_host}:{options.grpc_port}"
    return f"{name} is ready at http://{options.http_host}:{options.http_port}{rpc}{native}"


def _account(served: Served, tally: Tally) -> RunResult:
    length = float(max(tally.seconds, default=0) + 1)
    best, servers = served.cluster.pipeline.best_accuracy, served.cluster.servers
    return RunResult(
        options=served.run,
        trace="live",
        summary=summarise(tally, best, servers),
        tally=tally,
        servers=servers,
        best_accuracy=best,
        provenance=served.file.provenance,
        duration_s=length,
        wall_s=length,
    )


def _servers(options: ServeOptions, run: RunOptions, engine: EngineKind, file: PipelineFile) -> tuple[int, Pool]:
    """Workers of the plane and the types of their servers; on GPUs as many on each as was asked for."""
    pool = pool_of(run, file)
    if pool.types:
        if options.workers_per_gpu is not None:
            raise LiveError("the counts of a pool file say how many workers there are; leave --workers-per-gpu out")
        return pool.servers, pool
    return _workers(options, engine, file.pipeline.servers), pool


def _workers(options: ServeOptions, engine: EngineKind, usual: int) -> int:
    if options.workers_per_gpu is None:
        return usual if options.workers is None else options.workers
    devices = choose_devices(options.device) if engine == "onnx" else ()
    if not devices or not devices[0].on_gpu:
        where = "emulated workers" if engine == "emulated" else "the CPU"
        raise LiveError(f"--workers-per-gpu needs GPUs, and this would run on {where}; use --workers")
    count = options.workers_per_gpu * len(devices)
    if options.workers not in (None, count):
        raise LiveError(
            f"--workers {options.workers} is not --workers-per-gpu {options.workers_per_gpu} on {len(devices)} GPUs "
            f"({count}); leave one of them out"
        )
    return count


def _check_feasible(cluster: ClusterOptions, policy: PolicyOptions) -> None:
    """A plane that can serve nothing would be waited for in vain."""
    request = Request(
        policy.expected_rps,
        cluster.servers,
        min_accuracy=policy.min_accuracy,
        queueing=policy.queueing or "tail",
        pool=cluster.pool,
        solver=policy.solver,
    )
    plan = allocate(cluster.pipeline, request)
    if plan.mode == "infeasible":
        raise LiveError(f"'{cluster.pipeline.name}' cannot be served: {'; '.join(plan.reasons)}")


def _check_profiles(file: PipelineFile, pool: Pool, device: str) -> None:
    """Plans made with the times of other devices would not hold on these."""
    for kind in types_of(pool.types, 1):
        own = pool.measured.get(kind.name, {}).get(file.name)
        # What runs at a speed of its own is said to differ from where the pipeline was measured.
        measured = own or (file.measured if kind.speed == 1 else None)
        for word in kind.devices or (device,):
            if measured is not None:
                _check_profile(file, kind.name, measured, word)


def _check_profile(file: PipelineFile, kind: str, there: ProfileFile, device: str) -> None:
    here = measured_on(device)
    if here != (there.device, there.provider, there.ort_version):
        which = f"the profile of server type '{kind}'" if kind else str(file.profile)
        raise LiveError(
            f"{which} was measured on {there.device} ({there.provider}, ONNX Runtime {there.ort_version}), this is "
            f"{here[0]} ({here[1]}, ONNX Runtime {here[2]}); run 'loki-rl profile {file.name} --as-served', or serve with "
            "--any-profile"
        )


def _stop_start(stopped: threading.Event, plane: LocalPlane) -> None:
    """Models that load may do so for ever. Once they are there clients may be served, and what they sent is not lost."""
    stopped.set()
    if not plane.warm:
        raise KeyboardInterrupt


def _on_signals(act: Callable[[], None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: act())
