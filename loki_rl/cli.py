"""The command line: what users type, and what they read. The only module that sees all others; it imports them lazily, so
that a command loads what it needs and no more."""

from __future__ import annotations

import sys
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar, cast

import msgspec
import typer

from loki_rl import terminal

if TYPE_CHECKING:
    from collections.abc import Callable

    from loki_rl.control.request import Queueing
    from loki_rl.core.plan import Plan
    from loki_rl.runs import RunOptions, RunResult

T = TypeVar("T")

app = typer.Typer(
    name="loki-rl",
    help="Serve ML inference pipelines under a latency SLO when demand outgrows the hardware.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
models_app = typer.Typer(help="Model repositories.", no_args_is_help=True, rich_markup_mode=None)
trace_app = typer.Typer(help="Demand traces.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(models_app, name="models")
app.add_typer(trace_app, name="trace")

PipelineArg = Annotated[str, typer.Argument(help="Pipeline file, or the name of one in pipelines/.")]
TraceOpt = Annotated[str, typer.Option(help="Trace file, or the name of one that ships.")]
ServersOpt = Annotated[int | None, typer.Option(help="Servers in the cluster (default: as in the pipeline file).")]
SloOpt = Annotated[float | None, typer.Option(help="End-to-end deadline [ms] (default: as in the pipeline file).")]
FloorOpt = Annotated[float, typer.Option(help="Least mean accuracy, 0..1.")]
QueueingOpt = Annotated[str | None, typer.Option(help="Latency model: tail or half-slo (default: the policy's own).")]
HeadroomOpt = Annotated[float | None, typer.Option(help="Share of demand added before planning.")]
PolicyOpt = Annotated[str, typer.Option(help="static, hardware, loki, exact, forecast or ppo.")]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
SeedOpt = Annotated[int, typer.Option(help="Seed of arrivals, fan-outs and service times.")]
IntervalOpt = Annotated[float, typer.Option(help="Time between plans [s].")]
DropOpt = Annotated[str, typer.Option(help="Dropping: none, last-task, per-task or reroute.")]
LoadOpt = Annotated[float | None, typer.Option(help="Time to load any model [s] (default: as in the pipeline file).")]
MeanOpt = Annotated[float | None, typer.Option(help="Scale the trace to this mean rate [1/s].")]
ScaleOpt = Annotated[float | None, typer.Option(help="Copies made of each request of the trace.")]
CompressOpt = Annotated[float, typer.Option(help="Play the trace this many times faster.")]
FromOpt = Annotated[float, typer.Option(help="Start of the window in the trace [s].")]
ToOpt = Annotated[float | None, typer.Option(help="End of the window in the trace [s].")]
LogdirOpt = Annotated[Path | None, typer.Option(help="Write a run folder for TensorBoard below this folder.")]
DeviceOpt = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:0,1.")]


class UsageError(ValueError):
    """Flags that do not fit together; the message says which and what to do."""


# -- plan -----------------------------------------------------------------------------------------------------------------


@app.command()
def plan(
    pipeline: PipelineArg,
    demand: Annotated[str, typer.Option(help="Requests per second, or FROM:TO:STEP for a ladder.")],
    servers: ServersOpt = None,
    slo_ms: SloOpt = None,
    min_accuracy: FloorOpt = 0.0,
    queueing: QueueingOpt = None,
    headroom: HeadroomOpt = None,
    plot: Annotated[Path | None, typer.Option(help="Draw a ladder's phases to this PNG.")] = None,
    as_json: JsonOpt = False,
) -> None:
    """The best use of the servers for a demand: hardware scaling, then accuracy scaling, then shedding."""
    from loki_rl.config import load_pipeline
    from loki_rl.control.allocator import allocate
    from loki_rl.control.ladder import ladder
    from loki_rl.control.request import Request

    loaded = load_pipeline(pipeline, slo_ms=slo_ms)
    demands = _demands(demand)
    request = Request(
        demand_rps=demands[0],
        servers=loaded.pipeline.servers if servers is None else servers,
        min_accuracy=min_accuracy,
        queueing=_queueing(queueing),
        headroom=headroom or 0.0,
    )
    if len(demands) == 1:
        found = allocate(loaded.pipeline, request)
        terminal.say(plan_row(found), as_json, lambda: terminal.plan(loaded.name, found))
        if found.mode == "infeasible":
            raise UsageError("; ".join(found.reasons))
        return
    plans = ladder(loaded.pipeline, request, demands)
    if plot is not None:
        from loki_rl.report import phases_png

        phases_png(plans, plot)
    terminal.say({"plans": [plan_row(one) for one in plans]}, as_json, lambda: terminal.ladder(loaded.name, plans))


@app.command()
def capacity(
    pipeline: PipelineArg,
    servers: ServersOpt = None,
    slo_ms: SloOpt = None,
    min_accuracy: FloorOpt = 0.0,
    queueing: QueueingOpt = None,
    headroom: HeadroomOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """The most requests per second that the servers can serve at an accuracy floor."""
    from loki_rl.config import load_pipeline
    from loki_rl.control.allocator import capacity as most

    loaded = load_pipeline(pipeline, slo_ms=slo_ms)
    found = most(
        loaded.pipeline,
        loaded.pipeline.servers if servers is None else servers,
        min_accuracy=min_accuracy,
        queueing=_queueing(queueing),
        headroom=headroom or 0.0,
    )
    row = {"max_qps": found.capacity_rps, **plan_row(found)}
    terminal.say(row, as_json, lambda: terminal.plan(loaded.name, found))


def plan_row(found: Plan) -> dict[str, Any]:
    """The JSON of a plan: the contract's keys, then the rest."""
    row: dict[str, Any] = msgspec.to_builtins(found)
    certificate = row.pop("certificate")
    del row["epoch"]
    return {**row, **certificate}


def _demands(text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(":")]
    except ValueError:
        numbers = []
    if len(numbers) == 1 and numbers[0] > 0 and isfinite(numbers[0]):
        return numbers
    if len(numbers) == 3 and 0 < numbers[0] <= numbers[1] < float("inf") and numbers[2] > 0:
        first, last, step = numbers
        return [first + k * step for k in range(int((last - first) / step + 1e-9) + 1)]
    raise UsageError(f"--demand must be a rate above 0 or FROM:TO:STEP, not '{text}'")


def _queueing(name: str | None) -> Queueing:
    from loki_rl.control.request import QUEUEINGS

    return cast("Queueing", _one_of("--queueing", name, QUEUEINGS) or "tail")


def _one_of(flag: str, value: str | None, allowed: tuple[str, ...]) -> str | None:
    if value is not None and value not in allowed:
        raise UsageError(f"{flag} must be one of {', '.join(allowed)}, not '{value}'")
    return value


# -- runs -----------------------------------------------------------------------------------------------------------------


@app.command()
def simulate(
    pipeline: Annotated[str | None, typer.Argument(help="Pipeline file, or the name of one in pipelines/.")] = None,
    trace: TraceOpt = "flash_crowd",
    policy: PolicyOpt = "exact",
    servers: ServersOpt = None,
    seed: SeedOpt = 0,
    slo_ms: SloOpt = None,
    interval_s: IntervalOpt = 10.0,
    drop: DropOpt = "reroute",
    load_s: LoadOpt = None,
    queueing: QueueingOpt = None,
    headroom: HeadroomOpt = None,
    min_accuracy: FloorOpt = 0.0,
    mean_rps: MeanOpt = None,
    rate_scale: ScaleOpt = None,
    compress: CompressOpt = 1.0,
    from_s: FromOpt = 0.0,
    to_s: ToOpt = None,
    logdir: LogdirOpt = None,
    config: Annotated[Path | None, typer.Option(help="Repeat the run of this run.json.")] = None,
    as_json: JsonOpt = False,
) -> None:
    """Play a trace against a policy in the event twin."""
    from loki_rl.runs import run_twin

    if config is not None:
        options = _read_config(config)
    else:
        options = run_options(
            pipeline=pipeline, trace=trace, policy=policy, servers=servers, seed=seed, slo_ms=slo_ms, interval_s=interval_s,
            drop=drop, load_s=load_s, queueing=queueing, headroom=headroom, min_accuracy=min_accuracy, mean_rps=mean_rps,
            rate_scale=rate_scale, compress=compress, from_s=from_s, to_s=to_s,
        )  # fmt: skip
    done = run_twin(options)
    _write(done, logdir)
    terminal.say(_row(done), as_json, lambda: _show_runs([done]))


def run_options(pipeline: str | None, **flags: Any) -> RunOptions:
    """Checked options of a run. Raises UsageError."""
    from loki_rl.runs import RunOptions

    if pipeline is None:
        raise UsageError("name a pipeline (or a run to repeat with --config)")
    return _convert({"pipeline": pipeline, **flags}, RunOptions)


def _convert(flags: dict[str, Any], kind: type[T]) -> T:
    """Flags as a struct; what is not allowed is named as the user typed it."""
    from loki_rl.control.request import QUEUEINGS
    from loki_rl.core.options import DROPS
    from loki_rl.serving.plane import ENGINES

    for name, allowed in (("drop", DROPS), ("queueing", QUEUEINGS), ("engine", ENGINES)):
        _one_of(f"--{name}", flags.get(name), allowed)
    try:
        return msgspec.convert(flags, kind)
    except msgspec.ValidationError as error:
        raise UsageError(str(error)) from error


def _read_config(path: Path) -> RunOptions:
    from loki_rl.runs import read_options

    try:
        return read_options(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise UsageError(f"{path} is not the run.json of a run: {error}") from error


def _write(done: RunResult, logdir: Path | None) -> None:
    if logdir is not None:
        from loki_rl.compare import write_result

        write_result(done, logdir)


@app.command()
def serve(
    pipeline: PipelineArg,
    workers: Annotated[int | None, typer.Option(help="Servers (default: as in the pipeline file).")] = None,
    policy: PolicyOpt = "exact",
    engine: Annotated[str | None, typer.Option(help="onnx, or emulated (default: onnx if the file names models).")] = None,
    device: DeviceOpt = "auto",
    http_port: Annotated[int, typer.Option(help="Open Inference Protocol over HTTP.")] = 8000,
    http_host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    native: Annotated[str | None, typer.Option(help="Also answer native clients here, as tcp://127.0.0.1:PORT.")] = None,
    slo_ms: SloOpt = None,
    interval_s: IntervalOpt = 10.0,
    initial_rps: Annotated[float, typer.Option(help="Demand to be ready for at the start [1/s].")] = 1.0,
    demand_rps: Annotated[float | None, typer.Option(help="Demand that the static policy plans for [1/s].")] = None,
    drop: DropOpt = "reroute",
    load_s: LoadOpt = None,
    queueing: QueueingOpt = None,
    headroom: HeadroomOpt = None,
    min_accuracy: FloorOpt = 0.0,
    seed: SeedOpt = 0,
    journal: Annotated[Path | None, typer.Option(help="Keep a journal of every process in this folder.")] = None,
    logdir: LogdirOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Serve a pipeline on this host until SIGTERM or Ctrl-C."""
    flags = {name: value for name, value in locals().items() if name not in ("as_json", "journal", "logdir")}
    from loki_rl.live import ServeOptions, serve_until_stopped

    options = _convert(flags, ServeOptions)
    served = serve_until_stopped(options, journal, _announce(as_json))
    _write(served, logdir)
    terminal.say(_row(served), as_json, lambda: _show_runs([served]))


def _announce(as_json: bool) -> Callable[[str], None]:
    """Where the addresses are told once the plane is ready; stdout is for the result when it is JSON."""
    return terminal.note if as_json else terminal.line


@app.command()
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
    from loki_rl.live import ReplayOptions, replay_trace

    flags["payloads"] = None if payloads is None else str(payloads)
    seen = replay_trace(_convert(flags, ReplayOptions))
    _write(seen, logdir)
    terminal.say(_row(seen), as_json, lambda: _show_runs([seen]))


def _row(done: RunResult) -> dict[str, Any]:
    from loki_rl.runs import row

    return row(done)


def _show_runs(results: list[RunResult]) -> None:
    from rich.console import Console

    from loki_rl.report import table

    Console().print(table(results))


# -- traces and models ----------------------------------------------------------------------------------------------------


@trace_app.command("stats")
def trace_stats_command(
    file: Annotated[str, typer.Argument(help="Trace file, or the name of one that ships.")],
    from_s: FromOpt = 0.0,
    to_s: ToOpt = None,
    compress: CompressOpt = 1.0,
    as_json: JsonOpt = False,
) -> None:
    """Mean, peak and burstiness of a trace."""
    from loki_rl.traces.stats import trace_stats
    from loki_rl.traces.trace import TraceOptions, load_trace

    stats = trace_stats(load_trace(file), TraceOptions(from_s=from_s, to_s=to_s, compress=compress))
    terminal.say(msgspec.to_builtins(stats), as_json, lambda: terminal.pairs(msgspec.to_builtins(stats)))


@models_app.command("fetch")
def models_fetch(
    name: Annotated[str, typer.Argument(help="Which models: reading.")],
    repository: Annotated[Path, typer.Option(help="Where to put them.")] = Path("models"),
    as_json: JsonOpt = False,
) -> None:
    """Fetch the models of a pipeline into a model repository; a second call needs no network."""
    from loki_rl.serving.models import fetch_reading

    _one_of("the models", name, ("reading",))
    with terminal.progress_bars() as progress:
        fetched = fetch_reading(repository, progress)
    row = msgspec.to_builtins(fetched, builtin_types=(), enc_hook=str)
    terminal.say(row, as_json, lambda: terminal.pairs(row))


@app.command()
def profile(
    pipeline: PipelineArg,
    device: DeviceOpt = "auto",
    scenes: Annotated[int, typer.Option(help="Rendered pictures for accuracy and as payloads.")] = 60,
    seed: SeedOpt = 1,
    budget_s: Annotated[float, typer.Option(help="Time per variant and batch size [s].")] = 0.3,
    clock: Annotated[str, typer.Option(help="wall, or cpu on a busy host without a GPU.")] = "wall",
    as_served: Annotated[bool, typer.Option(help="Rescale by what workers need while the whole plane runs.")] = False,
    out: Annotated[Path | None, typer.Option(help="Where to write it (default: as the pipeline file names).")] = None,
    as_json: JsonOpt = False,
) -> None:
    """Measure latency, load time, accuracy and fan-out of every variant on this device."""
    from loki_rl.config import load_pipeline
    from loki_rl.serving.profile import Request
    from loki_rl.serving.profile import profile as measure
    from loki_rl.serving.timing import Effort

    _one_of("--clock", clock, ("wall", "cpu"))
    loaded = load_pipeline(pipeline, need_profile=False)
    request = Request(device=device, scenes=scenes, seed=seed, effort=Effort(budget_s=budget_s), clock=clock)  # type: ignore[arg-type]
    with terminal.progress_bars() as progress:
        measured = measure(loaded, request, progress)
        target = out or loaded.profile
        if target is None:
            raise UsageError(f"pipeline '{loaded.name}' names no profile file; say where with --out")
        measured.save(target)
        if as_served:
            from loki_rl.serving.as_served import rescale

            measured = rescale(loaded.path, target, device, progress)
            measured.save(target)
    row = {"file": str(target), **msgspec.to_builtins(measured)}
    terminal.say(row, as_json, lambda: terminal.profile(row))


# -- learning -------------------------------------------------------------------------------------------------------------


@app.command()
def train(
    pipeline: PipelineArg,
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, TensorBoard files and the exported agent.")] = Path(
        "runs/train"
    ),
    steps: Annotated[int, typer.Option(help="Decisions to train for, at most.")] = 600_000,
    seed: SeedOpt = 0,
    seeds: Annotated[int, typer.Option(help="Training seeds, one after the other.")] = 1,
    servers: ServersOpt = None,
    trace: Annotated[str | None, typer.Option(help="Cut windows from this trace (default: bursty generator).")] = None,
    mean_rps: MeanOpt = None,
    windows: Annotated[int, typer.Option(help="Windows of demand to train on.")] = 256,
    validation: Annotated[int, typer.Option(help="Windows to validate on.")] = 48,
    randomise: Annotated[bool, typer.Option(help="Draw load time, service rate, servers and lag per window.")] = True,
    scale: Annotated[float, typer.Option(help="On the forecast quantile that the agent adjusts.")] = 1.1,
    give_up: Annotated[int, typer.Option(help="Validations without a better one before it stops.")] = 6,
    as_json: JsonOpt = False,
) -> None:
    """Train an agent in the fluid twin; a second call goes on where a killed one stopped."""
    flags = {name: value for name, value in locals().items() if name != "as_json"}
    from loki_rl.agents.commands import TrainFlags, run_train

    row = run_train(msgspec.convert({**flags, "out": str(out), "quiet": as_json}, TrainFlags))
    terminal.say(row, as_json, lambda: terminal.pairs({"pipeline": row["pipeline"], **row["agents"][-1]}))


@app.command()
def evaluate(
    pipeline: PipelineArg,
    models: Annotated[list[str] | None, typer.Option("--model", help="agent.npz of a training seed; repeat it.")] = None,
    windows: Annotated[int, typer.Option(help="Test windows.")] = 100,
    tuning: Annotated[int, typer.Option(help="Validation windows that every base is tuned on.")] = 32,
    servers: ServersOpt = None,
    trace: Annotated[str | None, typer.Option(help="Cut windows from this trace (default: bursty generator).")] = None,
    mean_rps: MeanOpt = None,
    load_s: LoadOpt = None,
    bursts: Annotated[float, typer.Option(help="Times as many bursts.")] = 1.0,
    heights: Annotated[float, typer.Option(help="Times as high bursts.")] = 1.0,
    randomise: Annotated[bool, typer.Option(help="Draw load time, service rate, servers and lag per window.")] = False,
    as_json: JsonOpt = False,
) -> None:
    """Agents against tuned bases and clairvoyance on windows that training never saw."""
    flags = {name: value for name, value in locals().items() if name not in ("as_json", "models")}
    from loki_rl.agents.commands import EvaluateFlags, run_evaluate

    row, text = run_evaluate(msgspec.convert({**flags, "models": tuple(models or ())}, EvaluateFlags))
    terminal.say(row, as_json, lambda: terminal.line(text))


def main() -> NoReturn:
    """Entry point. A mistake of the user ends with exit code 2 and one sentence; a fault of ours with its traceback."""
    try:
        app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except Exception as error:
        _die(_sentence(error))
    sys.exit(0)


def _sentence(error: Exception) -> str:
    """What a mistake of the user is told. Raises the error again if it is a fault of ours."""
    if hasattr(error, "format_message"):  # typer's own; it keeps the class to itself
        return str(error.format_message())
    if type(error).__module__.startswith("loki_rl"):
        return str(error)
    raise error


def _die(message: str) -> NoReturn:
    print(f"loki-rl: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
