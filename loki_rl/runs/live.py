"""A plane that stays up."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

from loki_rl.control.allocator.allocate import allocate
from loki_rl.control.demand.history import History
from loki_rl.control.demand.history_file import read_history, write_history
from loki_rl.control.formulation.request import Request
from loki_rl.control.policies.named import kind_of, make_policy
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.core.options import ClusterOptions
from loki_rl.core.requests.ledger import Tally, summarise
from loki_rl.core.servers.server_type import types_of
from loki_rl.env.simulate import with_load_s
from loki_rl.errors import UserError
from loki_rl.files.config import PipelineFile
from loki_rl.files.pool_file import Pool
from loki_rl.files.profile_file import ProfileFile
from loki_rl.options import Help, NotNegative, Port
from loki_rl.ray_cluster import AUTO, ClusterAddress, LauncherName
from loki_rl.runs.options import POLICY_NAMES, RunOptions
from loki_rl.runs.recorded.recording import begin_recording, recording_in
from loki_rl.runs.recorded.shadow_figures import Beside, forget_figures, read_figures
from loki_rl.runs.result import RunResult
from loki_rl.runs.run import cluster_of, habits_of, interval_of, on_plane, policy_of, pool_of
from loki_rl.runs.run_folder import folder_for
from loki_rl.serving.controlling.control_log import missing
from loki_rl.serving.engines.hardware import measured_on
from loki_rl.serving.engines.placement_check import check_hosting
from loki_rl.serving.engines.sessions import choose_devices
from loki_rl.serving.gateway.client import Client
from loki_rl.serving.observe import logs
from loki_rl.serving.observe.logs import LogOptions
from loki_rl.serving.observe.span_options import SpanOptions
from loki_rl.serving.plane import EngineKind, Layout
from loki_rl.serving.process.launch import LocalPlane
from loki_rl.serving.process.launcher import Launcher, LocalLauncher
from loki_rl.serving.process.layout import EMULATED_HOSTS
from loki_rl.serving.process.ray_launcher import RayLauncher
from loki_rl.serving.security.guards import Guards, check_addresses
from loki_rl.serving.state import PlaneState

LayoutName = Annotated[
    Layout,
    Help("compact: gateway and routers in one process, so that requests change processes less; spread: a process for each."),
]


class LiveError(UserError):
    """What was asked cannot be served; the message says why and what to do."""


class ServeOptions(Struct, frozen=True, kw_only=True):
    """What only a plane that stays up may be told."""

    engine: Annotated[EngineKind | None, Help("onnx, or emulated (default: onnx if the file names models).")] = None
    layout: LayoutName = "spread"
    launcher: Annotated[
        LauncherName, Help("Who places the processes: local (all on this host), or ray (on the hosts of a Ray cluster).")
    ] = "local"
    address: ClusterAddress = AUTO
    workers_per_gpu: Annotated[
        Annotated[int, Meta(ge=1, le=64)] | None, Help("Workers on each GPU of --device, instead of --workers.")
    ] = None
    http_port: Annotated[Port, Help("Open Inference Protocol over HTTP.")] = 8000
    http_host: Annotated[str, Help("Address to listen on.")] = "127.0.0.1"
    http_processes: Annotated[Annotated[int, Meta(ge=1, le=64)], Help("Processes that share the HTTP port.")] = 1
    grpc_port: Annotated[Port | None, Help("Also answer gRPC here (needs the extra loki-rl[grpc]).")] = None
    drain_s: Annotated[NotNegative, Help("Time to serve on after SIGTERM, while not ready any more [s].")] = 2.0
    native: Annotated[str, Help("Also answer native clients here, as tcp://127.0.0.1:PORT.")] = ""
    record: Annotated[Path | None, Help("Record what happens in this file, for simulate --journal.")] = None
    shadow: Annotated[
        str,
        Help(f"Policies, separated by commas, that meet the same requests in the twin, with curves ({POLICY_NAMES})."),
    ] = ""
    any_profile: Annotated[bool, Help("Use a profile that was measured elsewhere.")] = False
    logs: LogOptions = LogOptions()
    traces: SpanOptions = SpanOptions()
    guards: Guards = Guards()


class Served(Struct):
    """What is served, loaded and checked."""

    run: RunOptions
    engine: EngineKind
    file: PipelineFile
    cluster: ClusterOptions
    policy: PolicyOptions
    history: Path | None
    shadows: tuple[str, ...]
    launcher: Launcher
    worker_processes: int


def serve_until_stopped(
    run: RunOptions,
    options: ServeOptions,
    journal: Path | None,
    announce: Callable[[str], None],
    logdir: Path | None = None,
) -> RunResult:
    """Start a plane, say where it listens, stop it in order at SIGTERM or SIGINT, and account for what it served.

    run: what is served; it has no trace. logdir: where curves of shadows go. Raises LaunchError, ConfigError, RequestError,
    HistoryError, FlightError, LiveError or EngineError with one clear sentence.
    """
    served = prepared(run, options)
    if logdir is not None:
        forget_figures(served.run, served.shadows, logdir)
    logs.start("launcher", options.logs)
    recording = _recording(served, options.record, logdir)
    stopped, plane = threading.Event(), _plane(options, served, journal, recording, logdir)
    _on_signals(lambda: _stop_start(stopped, plane))
    with plane, Client(plane.front) as client:
        _on_signals(stopped.set)
        client.begin_run()
        recorded = "" if recording is None else f", recorded in {recording}"
        where = _addresses(options.http_host, plane, served.file.name, bool(options.guards.tls_cert))
        announce(f"{where}{recorded}{shadows_announced(served, recording, logdir)}")
        for fault in goes_without(client.state()):
            announce(fault)
        while not stopped.wait(0.5):
            plane.check()
        plane.leave()
        # A second signal means now.
        stopped.clear()
        stopped.wait(options.drain_s)
        plane.drain()
        tally = client.ledger().tally
    return _account(served, tally)


def goes_without(state: PlaneState) -> list[str]:
    """What a plane goes without from its first plan on: a wrong configuration of a model shows only when it is loaded."""
    excluded = [] if state.control is None else state.control.excluded
    return [f"{missing(one)}; plans do without it, and it is tried again from time to time" for one in excluded]


def shadows_announced(served: Served, recording: Path | None, logdir: Path | None) -> str:
    """Where shadows say what they would do."""
    if not served.shadows:
        return ""
    agent = "" if served.run.model is None else f" --model {served.run.model}"
    return (
        f"\nwhat {', '.join(served.shadows)} would do with the same requests: tensorboard --logdir {logdir}, and when it is "
        f"over loki-rl simulate --journal {recording} --policy {served.shadows[0]}{agent}"
    )


def beside(options: ServeOptions, served: RunResult, logdir: Path) -> Beside:
    """What the shadows of a plane that has stopped would have done. served: what it did; logdir: that of its shadows."""
    return read_figures(served, _names(options.shadow), logdir)


def _recording(served: Served, record: Path | None, logdir: Path | None) -> Path | None:
    """The file that was begun, if there is one. Raises FlightError, or LiveError where shadows have no place."""
    if served.shadows and logdir is None:
        raise LiveError("the curves of shadows need a folder; add --logdir FOLDER, or leave --shadow out")
    if record is None and logdir is not None and served.shadows:
        record = recording_in(folder_for(served.run, served.run.trace, logdir))
    return None if record is None else begin_recording(record, served.cluster, served.run)


def prepared(run: RunOptions, options: ServeOptions) -> Served:
    """All that can be wrong is told before anything starts."""
    check_addresses(options.guards, options.http_host, options.native)
    options.guards.check_files()
    run = replace(run, trace="live", initial_rps=run.initial_rps or 1.0)
    shadows = _shadows(run, options.shadow)
    file = run.file
    engine: EngineKind = options.engine or ("onnx" if file.models else "emulated")
    pipeline = with_load_s(file.pipeline, run.load_s)
    servers, pool = _servers(options, run, engine, file)
    cluster = cluster_of(run, pipeline, servers, pool)
    policy = policy_of(run, cluster)
    history = _history(run)
    make_policy(run.policy, pipeline, policy)
    for name in shadows:
        shadow = replace(run, policy=name, driver="twin")
        make_policy(name, pipeline, replace(policy, interval_s=interval_of(shadow)))
        habits_of(shadow, pipeline)
    if engine == "onnx":
        if options.launcher == "local":  # what other hosts have is for their cluster to say
            check_hosting(cluster, run.device)
        if not options.any_profile:
            _check_profiles(file, pool, run.device)
    _check_feasible(cluster, policy)
    served = replace(run, driver=engine, servers=servers)
    return Served(served, engine, file, cluster, policy, history, shadows, *_launcher(options, cluster))


def _launcher(options: ServeOptions, cluster: ClusterOptions) -> tuple[Launcher, int]:
    """And how many processes emulated workers share. Raises ClusterError."""
    if options.launcher == "local":
        return LocalLauncher(), EMULATED_HOSTS
    launcher = RayLauncher(cluster, options.address)
    # Where servers differ a process has one, since no host need have them all.
    return launcher, cluster.servers if cluster.pool else max(EMULATED_HOSTS, launcher.hosts)


def _shadows(run: RunOptions, names: str) -> tuple[str, ...]:
    """Their policies. A name is looked up before anything is compiled for the others. Raises RequestError for one that does
    not exist, LiveError for a calibration that nobody would use."""
    shadows = _names(names)
    if run.calibration is not None and not shadows:
        raise LiveError("a calibration is for the twins of shadows; add --shadow POLICIES, or leave --calibration out")
    for name in shadows:
        kind_of(name)
    return shadows


def _names(listed: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in listed.split(",") if name.strip()))


def _history(run: RunOptions) -> Path | None:
    """The file to go on with. Where there is none yet one begins, so that a disk that takes none is told of before anything
    starts. Raises HistoryError."""
    if run.history is None:
        return None
    file = Path(run.history).absolute()
    write_history(file, read_history(file) if file.exists() else History())
    return file


def _plane(
    options: ServeOptions, served: Served, journal: Path | None, recording: Path | None, logdir: Path | None
) -> LocalPlane:
    told = ["--policies", ",".join(served.shadows), "--logdir", str((logdir or Path()).absolute())]
    shadows = ("loki_rl.runs.recorded.shadows", str(recording), *told)
    return LocalPlane(
        served.cluster,
        engine=served.engine,
        pipeline_file=str(served.file.path),
        device=served.run.device,
        policy=served.run.policy,
        policy_options=on_plane(served.policy),
        layout=options.layout,
        launcher=served.launcher,
        worker_processes=served.worker_processes,
        native=options.native,
        http_port=options.http_port,
        http_host=options.http_host,
        http_processes=options.http_processes,
        grpc_port=options.grpc_port,
        guards=options.guards,
        journal=journal,
        recording=recording,
        beside={"shadows": shadows} if served.shadows else None,
        history=served.history,
        logs=options.logs,
        traces=options.traces,
    )


def _addresses(host: str, plane: LocalPlane, name: str, secure: bool) -> str:
    native = f" and {plane.native}" if plane.native else ""
    rpc = "" if plane.grpc_port is None else f" and grpc://{host}:{plane.grpc_port}"
    tls = "s" if secure else ""
    return f"{name} is ready at http{tls}://{host}:{plane.http_port}{rpc}{native}"


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
    return _workers(options, run, engine, file.pipeline.servers), pool


def _workers(options: ServeOptions, run: RunOptions, engine: EngineKind, usual: int) -> int:
    if options.workers_per_gpu is None:
        return usual if run.servers is None else run.servers
    devices = choose_devices(run.device) if engine == "onnx" else ()
    if not devices or not devices[0].on_gpu:
        where = "emulated workers" if engine == "emulated" else "the CPU"
        raise LiveError(f"--workers-per-gpu needs GPUs, and this would run on {where}; use --workers")
    count = options.workers_per_gpu * len(devices)
    if run.servers not in (None, count):
        raise LiveError(
            f"--workers {run.servers} is not --workers-per-gpu {options.workers_per_gpu} on {len(devices)} GPUs "
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
            f"{here[0]} ({here[1]}, ONNX Runtime {here[2]}); run 'loki-rl profile {file.argument} --as-served', or serve "
            "with --any-profile"
        )


def _stop_start(stopped: threading.Event, plane: LocalPlane) -> None:
    """Models that load may do so for ever. Once they are there clients may be served, and what they sent is not lost."""
    stopped.set()
    if not plane.warm:
        raise KeyboardInterrupt


def _on_signals(act: Callable[[], None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: act())
