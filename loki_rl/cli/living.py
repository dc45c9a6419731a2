"""Commands for a plane that stays up: serve, replay, top."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from loki_rl.cli import terminal
from loki_rl.cli.flags import (
    CompressOpt,
    DeviceOpt,
    DropOpt,
    FloorOpt,
    FromOpt,
    HeadroomOpt,
    IntervalOpt,
    JsonOpt,
    LoadOpt,
    LogdirOpt,
    MeanOpt,
    ModelOpt,
    PipelineArg,
    PolicyOpt,
    PoolOpt,
    ProfileOpt,
    QueueingOpt,
    ScaleOpt,
    SeedOpt,
    SloOpt,
    SolverOpt,
    ToOpt,
    TraceOpt,
    convert,
    need_models,
)
from loki_rl.cli.results import run_row, show_runs, write

if TYPE_CHECKING:
    from collections.abc import Callable


def serve(
    pipeline: PipelineArg,
    workers: Annotated[int | None, typer.Option(help="Servers (default: as in the pipeline file).")] = None,
    policy: PolicyOpt = "exact",
    engine: Annotated[str | None, typer.Option(help="onnx, or emulated (default: onnx if the file names models).")] = None,
    device: DeviceOpt = "auto",
    workers_per_gpu: Annotated[int | None, typer.Option(help="Workers on each GPU, instead of --workers.")] = None,
    parallel_loads: Annotated[int, typer.Option(help="Servers that may leave their model at once (0: all).")] = 0,
    http_port: Annotated[int, typer.Option(help="Open Inference Protocol over HTTP.")] = 8000,
    http_host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    http_processes: Annotated[int, typer.Option(help="Processes that share the HTTP port.")] = 1,
    grpc_port: Annotated[int | None, typer.Option(help="Also answer gRPC here (needs the extra loki-rl[grpc]).")] = None,
    public: Annotated[
        bool,
        typer.Option(
            "--public",
            help="Listen where other hosts can reach it, without keys or TLS: only behind something that guards it.",
        ),
    ] = False,
    drain_s: Annotated[float, typer.Option(help="Time to serve on after SIGTERM, while not ready any more [s].")] = 2.0,
    native: Annotated[str | None, typer.Option(help="Also answer native clients here, as tcp://127.0.0.1:PORT.")] = None,
    slo_ms: SloOpt = None,
    interval_s: IntervalOpt = 10.0,
    initial_rps: Annotated[float, typer.Option(help="Demand to be ready for at the start [1/s].")] = 1.0,
    demand_rps: Annotated[float | None, typer.Option(help="Demand that the static policy plans for [1/s].")] = None,
    drop: DropOpt = "reroute",
    load_s: LoadOpt = None,
    queueing: QueueingOpt = None,
    solver: SolverOpt = "search",
    headroom: HeadroomOpt = None,
    min_accuracy: FloorOpt = 0.0,
    seed: SeedOpt = 0,
    profile: ProfileOpt = None,
    pool: PoolOpt = None,
    model: ModelOpt = None,
    shadow: Annotated[bool, typer.Option("--shadow", help="Only write down what the agent would adjust.")] = False,
    any_profile: Annotated[bool, typer.Option("--any-profile", help="Use a profile that was measured elsewhere.")] = False,
    logs: Annotated[str, typer.Option(help="Keep the log of every process in this folder.")] = "",
    log_json: Annotated[bool, typer.Option("--log-json", help="Log one JSON object a line.")] = False,
    log_level: Annotated[str, typer.Option(help="info, or debug: how every request ended.")] = "info",
    otlp: Annotated[str, typer.Option(help="OTLP collector for traces of requests, as http://127.0.0.1:4318.")] = "",
    trace_ratio: Annotated[float, typer.Option(help="Share of the requests that are traced, 0 to 1.")] = 1.0,
    journal: Annotated[Path | None, typer.Option(help="Keep a journal of every process in this folder.")] = None,
    logdir: LogdirOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Serve a pipeline on this host until SIGTERM or Ctrl-C."""
    flags = {name: value for name, value in locals().items() if name not in ("as_json", "journal", "logdir")}
    from loki_rl.runs.live import ServeOptions, serve_until_stopped

    options = convert(flags, ServeOptions)
    need_models(pipeline, engine)
    served = serve_until_stopped(options, journal, _announce(as_json))
    write(served, logdir)
    terminal.say(run_row(served), as_json, lambda: show_runs([served]))


def _announce(as_json: bool) -> Callable[[str], None]:
    """Where the addresses are told once the plane is ready; stdout is for the result when it is JSON."""
    return terminal.note if as_json else terminal.line


def replay(
    url: Annotated[str, typer.Option(help="http://HOST:PORT, tcp://HOST:PORT or ipc://PATH.")],
    pipeline: Annotated[str, typer.Option(help="Pipeline that the server offers.")],
    trace: TraceOpt = "flash_crowd",
    payloads: Annotated[Path | None, typer.Option(help="Folder of files to send (default: rendered scenes).")] = None,
    slo_ms: SloOpt = None,
    mean_rps: MeanOpt = None,
    rate_scale: ScaleOpt = None,
    compress: CompressOpt = 1.0,
    from_s: FromOpt = 0.0,
    to_s: ToOpt = None,
    seed: SeedOpt = 0,
    logdir: LogdirOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Send a trace's requests to a running server, open loop, and account for every one."""
    flags = {name: value for name, value in locals().items() if name not in ("as_json", "logdir")}
    from loki_rl.runs.replays import ReplayOptions, replay_trace

    seen = replay_trace(convert(flags, ReplayOptions))
    write(seen, logdir)
    terminal.say(run_row(seen), as_json, lambda: show_runs([seen]))


def top(
    url: Annotated[str, typer.Option(help="http://HOST:PORT, tcp://HOST:PORT or ipc://PATH.")] = "http://127.0.0.1:8000",
    interval_s: Annotated[float, typer.Option(help="Time between two looks [s].", min=0.1)] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Show the figures since the start, and end.")] = False,
    as_json: JsonOpt = False,
) -> None:
    """Watch a running plane: demand, plan, queues, violations, accuracy and workers, until Ctrl-C."""
    from loki_rl.cli.top import Watch, source
    from loki_rl.cli.top_screen import screen

    watch = Watch()
    with source(url) as ask:
        seen = watch.see(ask())
        if once or as_json:
            terminal.say(msgspec.to_builtins(seen), as_json, lambda: terminal.shown(screen(seen)))
            return
        terminal.live(lambda: screen(watch.see(ask())), screen(seen), interval_s)
