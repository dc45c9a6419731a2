"""The command line: what users type, and what they read. The only module that sees all others; it imports them lazily, so
that a command loads what it needs and no more."""

from __future__ import annotations

import sys
from math import inf, isfinite
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar, cast

import msgspec
import typer
from msgspec.structs import replace

from loki_rl import terminal

if TYPE_CHECKING:
    from collections.abc import Callable

    from loki_rl.compare import Comparison
    from loki_rl.control.request import Queueing
    from loki_rl.core.plan import Plan
    from loki_rl.runs import Driver, RunOptions, RunResult
    from loki_rl.traces.trace import Trace, TraceOptions

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
TracesOpt = Annotated[list[str], typer.Option(help="Trace file, or the name of one that ships; may be repeated.")]
PolicyOpt = Annotated[str, typer.Option(help="static, hardware, loki or exact.")]
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
DeviceOpt = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:0,1.")]

FaultsOpt = Annotated[Path | None, typer.Option(help="YAML file of what goes wrong in the twin: crashes, slow servers ...")]
ProfileOpt = Annotated[Path | None, typer.Option(help="Profile to use instead of the one the pipeline file names.")]

DEFAULT_TRACES = ["flash_crowd"]
SUITE_FLAGS = {
    "suite", "pipeline", "seeds", "seed", "servers", "interval_s", "load_s", "profile", "jobs", "logdir", "as_json",
}  # fmt: skip
# Flags of `compare` that are no option of a single run.
NOT_OF_ONE_RUN = ("context", "suite", "trace", "policies", "seeds", "driver", "logdir", "jobs", "fresh", "as_json")
# Longest ladder of plans: at up to a tenth of a second each, the user should not take it for a hang.
MAX_LADDER = 1000
# What these options may be at least. An interval far below a solve would never let the controller rest.
LEAST = {"servers": 1, "workers": 1, "interval_s": 0.1, "load_s": 0.0}


class UsageError(ValueError):
    """Flags that do not fit together; the message says which and what to do."""


def _writable(folder: Path | None) -> Path | None:
    """The folder, made if need be: it is better to know before a run than after it."""
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise UsageError(f"nothing can be written to {folder}: {error.strerror}; name another folder") from error
    return folder


LogdirOpt = Annotated[
    Path | None, typer.Option(help="Write a run folder for TensorBoard below this folder.", callback=_writable)
]


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
    profile: ProfileOpt = None,
    plot: Annotated[Path | None, typer.Option(help="Draw a ladder's phases to this PNG.")] = None,
    as_json: JsonOpt = False,
) -> None:
    """The best use of the servers for a demand: hardware scaling, then accuracy scaling, then shedding."""
    from loki_rl.config import load_pipeline
    from loki_rl.control.allocator import allocate
    from loki_rl.control.ladder import ladder
    from loki_rl.control.request import Request

    loaded = load_pipeline(pipeline, profile=profile, slo_ms=slo_ms)
    demands = _demands(demand)
    if plot is not None and len(demands) == 1:
        raise UsageError("--plot draws a ladder of plans; give --demand as FROM:TO:STEP")
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
        from loki_rl.plots import phases_png

        phases_png(plans, plot, f"{loaded.name}: optimal plans by demand")
    terminal.say({"plans": [plan_row(one) for one in plans]}, as_json, lambda: terminal.ladder(loaded.name, plans))


@app.command()
def capacity(
    pipeline: PipelineArg,
    servers: ServersOpt = None,
    slo_ms: SloOpt = None,
    min_accuracy: FloorOpt = 0.0,
    queueing: QueueingOpt = None,
    headroom: HeadroomOpt = None,
    profile: ProfileOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """The most requests per second that the servers can serve at an accuracy floor."""
    from loki_rl.config import load_pipeline
    from loki_rl.control.allocator import capacity as most

    loaded = load_pipeline(pipeline, profile=profile, slo_ms=slo_ms)
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
        count = int((last - first) / step + 1e-9) + 1
        if count > MAX_LADDER:
            raise UsageError(f"--demand {text} asks for {count} plans, more than {MAX_LADDER}; take a larger step")
        return [first + k * step for k in range(count)]
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
    context: typer.Context,
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
    faults: FaultsOpt = None,
    profile: ProfileOpt = None,
    logdir: LogdirOpt = None,
    config: Annotated[Path | None, typer.Option(help="Repeat the run of this run.json.")] = None,
    as_json: JsonOpt = False,
) -> None:
    """Play a trace against a policy in the event twin, or repeat any run."""
    from loki_rl.runs import RUNNERS

    if config is not None:
        _alone(context, "--config repeats a run as it was", {"config", "logdir", "as_json"})
        options = _read_config(config)
    else:
        options = run_options(
            pipeline=pipeline, trace=trace, policy=policy, servers=servers, seed=seed, slo_ms=slo_ms, interval_s=interval_s,
            drop=drop, load_s=load_s, queueing=queueing, headroom=headroom, min_accuracy=min_accuracy, mean_rps=mean_rps,
            rate_scale=rate_scale, compress=compress, from_s=from_s, to_s=to_s, faults=faults,
            profile=profile,
        )  # fmt: skip
    done = RUNNERS[options.driver](options)
    _write(done, logdir)
    terminal.say(_row(done), as_json, lambda: _show_runs([done]))


def run_options(pipeline: str | None, faults: Path | None = None, **flags: Any) -> RunOptions:
    """Checked options of a run, with the content of the file of faults. Raises UsageError or ConfigError."""
    from loki_rl.env.faults import load_faults
    from loki_rl.runs import RunOptions

    if pipeline is None:
        raise UsageError("name a pipeline (or a run to repeat with --config)")
    options = _convert({"pipeline": pipeline, **flags}, RunOptions)
    return options if faults is None else replace(options, faults=load_faults(faults))


def _convert(flags: dict[str, Any], kind: type[T]) -> T:
    """Flags as a struct; what is not allowed is named as the user typed it."""
    flags = {name: str(value) if isinstance(value, Path) else value for name, value in flags.items()}
    from loki_rl.control.request import QUEUEINGS
    from loki_rl.core.options import DROPS
    from loki_rl.serving.logs import LEVELS
    from loki_rl.serving.plane import ENGINES

    choices = (("drop", DROPS), ("queueing", QUEUEINGS), ("engine", ENGINES), ("log_level", LEVELS))
    for name, allowed in choices:
        _one_of(f"--{name.replace('_', '-')}", flags.get(name), allowed)
    try:
        return _checked(msgspec.convert(flags, kind))
    except msgspec.ValidationError as error:
        raise UsageError(str(error)) from error


def _checked(options: T) -> T:
    for name, least in LEAST.items():
        value = getattr(options, name, None)
        if value is not None and not least <= value < inf:
            raise UsageError(f"{name} must be finite and at least {least:g}, not {value:g}")
    return options


def _alone(context: typer.Context, why: str, heard: set[str]) -> None:
    """What else is said would not be heard."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE" and name not in heard:
            flag = name if name == "pipeline" else f"--{name.replace('_', '-')}"
            raise UsageError(f"{why}; leave {flag} out")


def _read_config(path: Path) -> RunOptions:
    from loki_rl.runs import read_options

    try:
        return _checked(read_options(path.read_bytes()))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise UsageError(f"{path} is not the run.json of a run: {error}") from error


def _write(done: RunResult, logdir: Path | None) -> None:
    if logdir is not None:
        from loki_rl.run_folder import save

        save(done, logdir)


@app.command()
def compare(
    context: typer.Context,
    pipeline: PipelineArg,
    trace: TracesOpt = DEFAULT_TRACES,
    policies: Annotated[str, typer.Option(help="Policies, separated by commas.")] = "static,hardware,loki,exact",
    suite: Annotated[
        str | None, typer.Option(help="paper: the Loki paper's evaluation, instead of runs of your own.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each policy on each trace, with seeds from --seed on.")] = 1,
    driver: Annotated[str, typer.Option(help="twin, emulated or onnx, or several separated by commas.")] = "twin",
    logdir: Annotated[Path, typer.Option(help="Folder for run folders and report.", callback=_writable)] = Path("runs"),
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs of the twin at once (default: one per core).")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run again what the log folder already holds.")] = False,
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
    faults: FaultsOpt = None,
    device: DeviceOpt = "auto",
    profile: ProfileOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Play the same requests against several policies, in the twin or on planes of this host, and set them side by side."""
    flags = {name: value for name, value in locals().items() if name not in NOT_OF_ONE_RUN}
    from loki_rl import compare as side_by_side
    from loki_rl.runs import RUNNERS

    if suite is not None:
        _one_of("--suite", suite, ("paper",))
        _alone(context, "--suite brings its own runs", SUITE_FLAGS)
        _paper(run_options(**flags, trace="diurnal", policy="loki"), logdir, range(seed, seed + seeds), jobs, as_json)
        return

    names, drivers = _names("--policies", policies), _names("--driver", driver)
    for name in drivers:
        _one_of("--driver", name, tuple(RUNNERS))
        if name == "onnx":
            _need_models(pipeline, name)
    cases = side_by_side.build_cases(
        run_options(**flags, trace=trace[0], policy=names[0]),
        policies=names,
        traces=trace,
        seeds=range(seed, seed + seeds),
        drivers=cast("list[Driver]", drivers),
    )
    found = side_by_side.compare(cases, RUNNERS, logdir, jobs, lambda step: terminal.note(str(step)), fresh)
    terminal.say(side_by_side.document(found), as_json, lambda: _show_comparison(found, logdir))
    if found.failures:
        terminal.note("\n".join(f"failed: {failure}" for failure in found.failures))
        raise typer.Exit(1)


def _paper(options: RunOptions, logdir: Path, seeds: range, jobs: int | None, as_json: bool) -> None:
    from loki_rl.compare import cores
    from loki_rl.suite import paper_suite

    found = paper_suite(options, logdir, seeds, jobs or cores(), terminal.note)
    terminal.say(found, as_json, lambda: terminal.line(Path(str(found["report"])).read_text(encoding="utf-8")))


def _need_models(pipeline: str, engine: str | None) -> None:
    """Models that are not there would only be missed by workers, after a minute of waiting for them."""
    from loki_rl.config import load_pipeline
    from loki_rl.serving.adapters.adapter import adapter_class
    from loki_rl.serving.repository import ModelError
    from loki_rl.serving.stored import find_model

    file = load_pipeline(pipeline, need_profile=False)
    if engine == "onnx" and not file.models:
        raise UsageError(f"pipeline '{file.name}' names no models, so nothing but emulated workers can serve it")
    for spec in file.models.values():
        adapter_class(spec.adapter)
        try:
            if engine != "emulated":
                find_model(file.repository, spec.model)
        except ModelError as error:
            raise UsageError(f"{error}; run 'loki-rl models fetch reading', or correct 'repository'") from None


def _names(flag: str, text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError(f"{flag} names nothing; separate several by commas")
    return names


def _show_comparison(found: Comparison, logdir: Path) -> None:
    if found.results:
        _show_runs(found.results)
    terminal.line(f"report: {found.report}")
    terminal.line(f"curves: tensorboard --logdir {logdir}")


@app.command()
def serve(
    pipeline: PipelineArg,
    workers: Annotated[int | None, typer.Option(help="Servers (default: as in the pipeline file).")] = None,
    policy: PolicyOpt = "exact",
    engine: Annotated[str | None, typer.Option(help="onnx, or emulated (default: onnx if the file names models).")] = None,
    device: DeviceOpt = "auto",
    http_port: Annotated[int, typer.Option(help="Open Inference Protocol over HTTP.")] = 8000,
    http_host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    http_processes: Annotated[int, typer.Option(help="Processes that share the HTTP port.")] = 1,
    grpc_port: Annotated[int | None, typer.Option(help="Also answer gRPC here (needs the extra loki-rl[grpc]).")] = None,
    drain_s: Annotated[float, typer.Option(help="Time to serve on after SIGTERM, while not ready any more [s].")] = 2.0,
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
    profile: ProfileOpt = None,
    any_profile: Annotated[bool, typer.Option("--any-profile", help="Use a profile that was measured elsewhere.")] = False,
    logs: Annotated[str, typer.Option(help="Keep the log of every process in this folder.")] = "",
    log_json: Annotated[bool, typer.Option("--log-json", help="Log one JSON object a line.")] = False,
    log_level: Annotated[str, typer.Option(help="info, or debug: how every request ended.")] = "info",
    journal: Annotated[Path | None, typer.Option(help="Keep a journal of every process in this folder.")] = None,
    logdir: LogdirOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Serve a pipeline on this host until SIGTERM or Ctrl-C."""
    flags = {name: value for name, value in locals().items() if name not in ("as_json", "journal", "logdir")}
    from loki_rl.live import ServeOptions, serve_until_stopped

    options = _convert(flags, ServeOptions)
    _need_models(pipeline, engine)
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

    seen = replay_trace(_convert(flags, ReplayOptions))
    _write(seen, logdir)
    terminal.say(_row(seen), as_json, lambda: _show_runs([seen]))


@app.command()
def top(
    url: Annotated[str, typer.Option(help="http://HOST:PORT, tcp://HOST:PORT or ipc://PATH.")] = "http://127.0.0.1:8000",
    interval_s: Annotated[float, typer.Option(help="Time between two looks [s].", min=0.1)] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Show the figures since the start, and end.")] = False,
    as_json: JsonOpt = False,
) -> None:
    """Watch a running plane: demand, plan, queues, violations, accuracy and workers, until Ctrl-C."""
    from loki_rl.top import Watch, source
    from loki_rl.top_screen import screen

    watch = Watch()
    with source(url) as ask:
        seen = watch.see(ask())
        if once or as_json:
            terminal.say(msgspec.to_builtins(seen), as_json, lambda: terminal.shown(screen(seen)))
            return
        terminal.live(lambda: screen(watch.see(ask())), screen(seen), interval_s)


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
    from_s: Annotated[float | None, typer.Option(help="Start of the window in the trace [s].")] = None,
    to_s: ToOpt = None,
    compress: CompressOpt = 1.0,
    mean_rps: MeanOpt = None,
    rate_scale: ScaleOpt = None,
    seed: SeedOpt = 0,
    as_json: JsonOpt = False,
) -> None:
    """Mean, peak and burstiness of a trace, and a small plot."""
    from loki_rl.traces.trace import TraceOptions, load_trace

    options = TraceOptions(from_s=from_s, to_s=to_s, compress=compress, mean_rps=mean_rps, rate_scale=rate_scale)
    _say_trace(load_trace(file), options, seed, {}, as_json)


@trace_app.command("generate")
def trace_generate(
    kind: Annotated[str, typer.Argument(help="flash_crowd, diurnal, ramp, bursts, steps or mmpp.")],
    out: Annotated[Path, typer.Option(help="File to write, .csv or .csv.gz.")],
    seconds: Annotated[int, typer.Option(help="Length [s].")] = 600,
    base_rps: Annotated[float, typer.Option(help="Lowest rate [1/s].")] = 10.0,
    peak: Annotated[float, typer.Option(help="Highest rate over the lowest.")] = 4.7,
    period_s: Annotated[float | None, typer.Option(help="Period of what repeats [s] (default: as the kind has it).")] = None,
    idc: Annotated[float, typer.Option(help="Variance over mean of the counts given the rate; 1 is Poisson.")] = 1.0,
    seed: SeedOpt = 0,
    as_json: JsonOpt = False,
) -> None:
    """Make a trace: the same file for the same arguments."""
    from loki_rl.traces.generate import generate
    from loki_rl.traces.trace import TraceOptions, save_trace

    made = generate(kind, seconds, base_rps, seed, peak=peak, idc=idc, period_s=period_s)
    save_trace(made, out)
    _say_trace(made, TraceOptions(), seed, {"file": str(out)}, as_json)


def _say_trace(trace: Trace, options: TraceOptions, seed: int, head: dict[str, Any], as_json: bool) -> None:
    from loki_rl.traces.arrivals import arrivals
    from loki_rl.traces.sketch import sketch
    from loki_rl.traces.stats import trace_stats

    stats = trace_stats(trace, options, seed)
    row = {**head, **msgspec.to_builtins(stats)}

    def show() -> None:
        for text in sketch(arrivals(trace, options, seed), stats.length_s, stats.bin_s):
            terminal.line(text)
        windows = {f"idc in {one.window_s:g} s": one.idc for one in stats.idc_windows}
        pairs = {name: value for name, value in row.items() if name != "idc_windows" and value != ""}
        terminal.pairs(pairs | windows)
        if trace.synthetic:
            terminal.line(trace.synthetic)

    terminal.say(row, as_json, show)


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
    quick: Annotated[bool, typer.Option("--quick", help="Times alone; accuracies of the known profile.")] = False,
    as_served: Annotated[bool, typer.Option(help="Rescale by what workers need while the whole plane runs.")] = False,
    out: Annotated[Path | None, typer.Option(help="Where to write it (default: as the pipeline file names).")] = None,
    as_json: JsonOpt = False,
) -> None:
    """Measure latency, load time, accuracy and fan-out of every variant on this device."""
    from loki_rl.config import load_pipeline
    from loki_rl.serving.profile import Request, quick_request
    from loki_rl.serving.profile import profile as measure
    from loki_rl.serving.timing import Effort

    _one_of("--clock", clock, ("wall", "cpu"))
    _need_models(pipeline, "onnx")
    loaded = load_pipeline(pipeline, need_profile=quick)
    if quick and loaded.measured is None:
        raise UsageError(f"pipeline '{loaded.name}' names no profile file whose accuracies --quick could take")
    effort = Effort(budget_s=budget_s)
    request = (
        quick_request(loaded, loaded.measured, device)
        if loaded.measured is not None
        else Request(device=device, scenes=scenes, seed=seed, effort=effort, clock=clock)  # type: ignore[arg-type]
    )
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


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where to write.", callback=_writable)] = Path("demo"),
    device: DeviceOpt = "auto",
    as_json: JsonOpt = False,
) -> None:
    """The main job: real models and 20 emulated workers meet a flash crowd, in plane and twin."""
    from loki_rl.demo import Stage
    from loki_rl.demo import demo as play

    show = terminal.rich_note if as_json else terminal.rich
    results = play(Stage(folder, device, show, terminal.progress_bars))
    terminal.say({"results": [_row(done) for done in results]}, as_json, lambda: None)


def main() -> NoReturn:
    """Entry point. A mistake of the user ends with exit code 2 and one sentence; a fault of ours with its traceback."""
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except Exception as error:
        _die(_sentence(error))
    sys.exit(code or 0)


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
