"""A plane that stays up, and a replay against one that somebody else started. Owns their options and what remains of them as
a run; decides nothing."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
from msgspec import Meta, Struct
from msgspec.structs import asdict
from numpy.typing import NDArray

from loki_rl.config import PipelineFile, load_pipeline
from loki_rl.control.policies import PolicyOptions, make_policy
from loki_rl.control.request import Queueing
from loki_rl.core.ledger import summarise
from loki_rl.core.options import ClusterOptions, DropPolicy
from loki_rl.env.simulate import with_load_s
from loki_rl.runs import RunOptions, RunResult, pictures
from loki_rl.serving import logs
from loki_rl.serving.agent import Agent
from loki_rl.serving.client import Client
from loki_rl.serving.hardware import measured_on
from loki_rl.serving.launch import LocalPlane
from loki_rl.serving.logs import Level, LogOptions
from loki_rl.serving.plane import EngineKind
from loki_rl.serving.quality import reads_text
from loki_rl.serving.replay import replay
from loki_rl.serving.sessions import choose_devices
from loki_rl.serving.span_options import SpanOptions
from loki_rl.traces.arrivals import arrivals, duration_s, made_up
from loki_rl.traces.trace import TraceOptions, load_trace


class LiveError(ValueError):
    """What was asked cannot be served or sent; the message says why and what to do."""


class ServeOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything `serve` may be told. engine None: onnx if the pipeline file names models, else emulated. profile: file to
    use instead of the one that the pipeline file names. any_profile: also one that was measured elsewhere. model: a
    trained agent, for `ppo`; shadow: what it would do is only written down. workers_per_gpu: on each GPU of `device`, which
    then decides the number of workers. parallel_loads: servers that may leave their model at once. drain_s: time
    after SIGTERM in which clients that have not noticed are still served. logs, log_json, log_level: as in LogOptions.
    otlp, trace_ratio: endpoint and ratio of SpanOptions. join_port: where nodes of this host may join."""

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
    join_port: int | None = None
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
    any_profile: bool = False
    model: str | None = None
    shadow: bool = False


class ReplayOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything `replay` may be told. payloads: folder of files to send, in order of their names."""

    url: str
    pipeline: str
    trace: str
    payloads: str | None = None
    slo_ms: float | None = None
    mean_rps: float | None = None
    rate_scale: float | None = None
    compress: float = 1.0
    from_s: float = 0.0
    to_s: float | None = None
    seed: int = 0


def serve_until_stopped(options: ServeOptions, journal: Path | None, announce: Callable[[str], None]) -> RunResult:
    """Start a plane, say where it listens, stop it in order at SIGTERM or SIGINT, and account for what it served.

    Raises LaunchError, ConfigError, RequestError or EngineError with one clear sentence.
    """
    profile = None if options.profile is None else Path(options.profile)
    file = load_pipeline(options.pipeline, profile=profile, slo_ms=options.slo_ms)
    pipeline = with_load_s(file.pipeline, options.load_s)
    engine: EngineKind = options.engine or ("onnx" if file.models else "emulated")
    servers = _servers(options, engine, pipeline.servers)
    cluster = ClusterOptions(
        pipeline,
        servers,
        seed=options.seed,
        interval_s=options.interval_s,
        drop=options.drop,
        parallel_loads=options.parallel_loads,
    )
    policy = _policy_options(options, servers)
    make_policy(options.policy, pipeline, policy)  # a wrong name is told before anything starts
    if engine == "onnx" and not options.any_profile:
        _check_profile(file, options.device)
    keep = LogOptions(options.logs, options.log_json, options.log_level)
    logs.start("launcher", keep)
    stopped = _stop_signal()
    with (
        LocalPlane(
            cluster,
            engine=engine,
            pipeline_file=str(file.path),
            device=options.device,
            policy=options.policy,
            policy_options=asdict(policy),
            fronts=() if options.native is None else (options.native,),
            http_port=options.http_port,
            http_host=options.http_host,
            http_processes=options.http_processes,
            grpc_port=options.grpc_port,
            join_port=options.join_port,
            journal=journal,
            logs=keep,
            traces=SpanOptions(options.otlp, options.trace_ratio),
        ) as plane,
        Client(plane.front) as client,
    ):
        client.begin_run()
        native = "" if options.native is None else f" and {options.native}"
        rpc = "" if options.grpc_port is None else f" and grpc://{options.http_host}:{options.grpc_port}"
        announce(f"{pipeline.name} is ready at http://{options.http_host}:{options.http_port}{rpc}{native}")
        while not stopped.wait(0.5):
            plane.check()
        plane.leave()
        # A second signal means now.
        stopped.clear()
        stopped.wait(options.drain_s)
        plane.drain()
        tally = client.ledger().tally
    length = float(max(tally.seconds, default=0) + 1)
    run = RunOptions(
        pipeline=options.pipeline,
        trace="live",
        policy=options.policy,
        driver=engine,
        seed=options.seed,
        servers=servers,
        slo_ms=options.slo_ms,
        interval_s=options.interval_s,
        drop=options.drop,
        load_s=options.load_s,
        queueing=options.queueing,
        headroom=options.headroom,
        min_accuracy=options.min_accuracy,
        initial_rps=options.initial_rps,
        demand_rps=options.demand_rps,
        device=options.device,
        profile=options.profile,
        model=options.model,
    )
    return RunResult(
        options=run,
        trace="live",
        summary=summarise(tally, pipeline.best_accuracy, servers),
        tally=tally,
        servers=servers,
        best_accuracy=pipeline.best_accuracy,
        provenance=file.provenance,
        duration_s=length,
        wall_s=length,
    )


def join_until_stopped(join: str, workers: int, device: str, announce: Callable[[str], None]) -> list[int]:
    """Join a running plane with workers of this host until SIGTERM or SIGINT; the numbers that they had.

    Raises LoopbackError or JoinError with one clear sentence.
    """
    with Agent(join, workers, device) as agent:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: agent.stop())
        announce(f"joined {join} as {agent.name} with workers {', '.join(map(str, agent.numbers))}")
        agent.run()
        return agent.numbers


def _servers(options: ServeOptions, engine: EngineKind, usual: int) -> int:
    """Workers of the plane; on GPUs as many on each as was asked for."""
    if options.workers_per_gpu is None:
        return usual if options.workers is None else options.workers
    devices = choose_devices(options.device) if engine == "onnx" else ()
    if not devices or devices[0].kind != "cuda":
        where = "emulated workers" if engine == "emulated" else "the CPU"
        raise LiveError(f"--workers-per-gpu needs GPUs, and this would run on {where}; use --workers")
    count = options.workers_per_gpu * len(devices)
    if options.workers not in (None, count):
        raise LiveError(
            f"--workers {options.workers} is not --workers-per-gpu {options.workers_per_gpu} on {len(devices)} GPUs "
            f"({count}); leave one of them out"
        )
    return count


def _policy_options(options: ServeOptions, servers: int) -> PolicyOptions:
    return PolicyOptions(
        servers=servers,
        min_accuracy=options.min_accuracy,
        queueing=options.queueing,
        headroom=options.headroom,
        initial_rps=options.initial_rps,
        demand_rps=options.demand_rps,
        model=options.model,
        shadow=options.shadow,
    )


def _check_profile(file: PipelineFile, device: str) -> None:
    """Plans made with the times of another device would not hold on this one."""
    if file.measured is None:
        return
    here, there = measured_on(device), file.measured
    if here != (there.device, there.provider, there.ort_version):
        raise LiveError(
            f"{file.profile} was measured on {there.device} ({there.provider}, ONNX Runtime {there.ort_version}), this is "
            f"{here[0]} ({here[1]}, ONNX Runtime {here[2]}); run 'loki-rl profile {file.name} --as-served', or serve with "
            "--any-profile"
        )


def _stop_signal() -> threading.Event:
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    return stopped


def replay_trace(options: ReplayOptions) -> RunResult:
    """Replay a trace against a running server. Raises TraceError, ReplayError, ClientError or LiveError."""
    chosen = TraceOptions(
        from_s=options.from_s,
        to_s=options.to_s,
        compress=options.compress,
        mean_rps=options.mean_rps,
        rate_scale=options.rate_scale,
    )
    trace = load_trace(options.trace)
    times = arrivals(trace, chosen, options.seed)
    file = load_pipeline(options.pipeline, slo_ms=options.slo_ms)
    pipeline = file.pipeline
    seen = replay(options.url, pipeline.name, times, _payloads(options, file), pipeline.slo_s)
    servers = pipeline.servers if seen.ledger is None else seen.ledger.servers
    run = RunOptions(
        pipeline=options.pipeline,
        trace=options.trace,
        policy="served",
        driver="onnx" if file.models else "emulated",
        seed=options.seed,
        servers=servers,
        slo_ms=options.slo_ms,
        mean_rps=options.mean_rps,
        rate_scale=options.rate_scale,
        compress=options.compress,
        from_s=options.from_s,
        to_s=options.to_s,
    )
    return RunResult(
        options=run,
        trace=trace.name,
        summary=seen.figures,
        tally=seen.tally,
        servers=servers,
        best_accuracy=pipeline.best_accuracy,
        provenance=file.provenance,
        duration_s=duration_s(trace, chosen),
        wall_s=seen.wall_s,
        synthetic=made_up(trace, chosen),
    )


def _payloads(options: ReplayOptions, file: PipelineFile) -> list[NDArray[np.uint8]] | None:
    if options.payloads is not None:
        folder = Path(options.payloads)
        files = sorted(path for path in folder.glob("*") if path.is_file()) if folder.is_dir() else []
        if not files:
            raise LiveError(f"--payloads {folder} is not a folder with files in it")
        return [np.frombuffer(path.read_bytes(), np.uint8) for path in files]
    return pictures(file, options.seed) if reads_text(file) else None
