"""Commands that play a trace from its first request to its last: simulate, compare, demo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import msgspec
import typer

from loki_rl.cli import terminal
from loki_rl.cli.flags import (
    POLICY_NAMES,
    CompressOpt,
    DeviceOpt,
    DropOpt,
    FaultsOpt,
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
    RoutingOpt,
    ScaleOpt,
    SeedOpt,
    ServersOpt,
    SloOpt,
    SolverOpt,
    ToOpt,
    TraceOpt,
    TracesOpt,
    UsageError,
    checked,
    need_models,
    one_of,
    run_options,
    split_names,
    writable,
)
from loki_rl.cli.results import run_row, show_runs, write

if TYPE_CHECKING:
    from loki_rl.reports.compare import Comparison
    from loki_rl.runs.run import Driver, RunOptions

DEFAULT_TRACES = ["flash_crowd"]
# Flags of `compare` that are no option of a single run.
NOT_OF_ONE_RUN = ("context", "suite", "trace", "policies", "seeds", "driver", "logdir", "jobs", "fresh", "as_json")
# Flags that a suite heeds; it brings traces, policies and all else of its own.
OF_A_SUITE = {
    "suite", "pipeline", "seeds", "seed", "servers", "interval_s", "load_s", "profile", "jobs", "logdir", "fresh",
    "as_json",
}  # fmt: skip


def simulate(
    context: typer.Context,
    pipeline: Annotated[str | None, typer.Argument(help="Pipeline file, or the name of one in pipelines/.")] = None,
    trace: TraceOpt = "flash_crowd",
    policy: PolicyOpt = "exact",
    servers: ServersOpt = None,
    pool: PoolOpt = None,
    seed: SeedOpt = 0,
    slo_ms: SloOpt = None,
    interval_s: IntervalOpt = 10.0,
    drop: DropOpt = "reroute",
    routing: RoutingOpt = "pull",
    load_s: LoadOpt = None,
    queueing: QueueingOpt = None,
    solver: SolverOpt = "search",
    headroom: HeadroomOpt = None,
    min_accuracy: FloorOpt = 0.0,
    mean_rps: MeanOpt = None,
    rate_scale: ScaleOpt = None,
    compress: CompressOpt = 1.0,
    from_s: FromOpt = 0.0,
    to_s: ToOpt = None,
    faults: FaultsOpt = None,
    profile: ProfileOpt = None,
    model: ModelOpt = None,
    logdir: LogdirOpt = None,
    config: Annotated[Path | None, typer.Option(help="Repeat the run of this run.json.")] = None,
    as_json: JsonOpt = False,
) -> None:
    """Play a trace against a policy in the event twin, or repeat any run."""
    from loki_rl.runs.run import RUNNERS

    if config is not None:
        _alone(context, "--config repeats a run as it was", {"config", "logdir", "as_json"})
        options = _read_config(config)
    else:
        options = run_options(
            pipeline=pipeline, trace=trace, policy=policy, servers=servers, pool=pool, seed=seed, slo_ms=slo_ms,
            interval_s=interval_s, drop=drop, routing=routing, load_s=load_s,
            queueing=queueing, solver=solver, headroom=headroom, min_accuracy=min_accuracy, mean_rps=mean_rps,
            rate_scale=rate_scale, compress=compress, from_s=from_s, to_s=to_s, faults=faults,
            profile=profile,
            model=model,
        )  # fmt: skip
    done = RUNNERS[options.driver](options)
    write(done, logdir)
    terminal.say(run_row(done), as_json, lambda: show_runs([done]))


def _alone(context: typer.Context, why: str, heard: set[str]) -> None:
    """What else is said would not be heard."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE" and name not in heard:
            flag = name if name == "pipeline" else f"--{name.replace('_', '-')}"
            raise UsageError(f"{why}; leave {flag} out")


def _read_config(path: Path) -> RunOptions:
    from loki_rl.runs.run import read_options

    try:
        return checked(read_options(path.read_bytes()))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise UsageError(f"{path} is not the run.json of a run: {error}") from error


def compare(
    context: typer.Context,
    pipeline: PipelineArg,
    trace: TracesOpt = DEFAULT_TRACES,
    policies: Annotated[str, typer.Option(help=f"Separated by commas, of {POLICY_NAMES}.")] = "static,hardware,loki,exact",
    suite: Annotated[
        str | None, typer.Option(help="paper: the Loki paper's evaluation, instead of runs of your own.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each policy on each trace, with seeds from --seed on.")] = 1,
    driver: Annotated[str, typer.Option(help="twin, emulated or onnx, or several separated by commas.")] = "twin",
    logdir: Annotated[Path, typer.Option(help="Folder for run folders and report.", callback=writable)] = Path("runs"),
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs of the twin at once (default: one per core).")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run again what the log folder already holds.")] = False,
    servers: ServersOpt = None,
    seed: SeedOpt = 0,
    slo_ms: SloOpt = None,
    interval_s: IntervalOpt = 10.0,
    drop: DropOpt = "reroute",
    routing: RoutingOpt = "pull",
    load_s: LoadOpt = None,
    queueing: QueueingOpt = None,
    solver: SolverOpt = "search",
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
    model: ModelOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Play the same requests against several policies, in the twin or on planes of this host, and set them side by side."""
    flags = {name: value for name, value in locals().items() if name not in NOT_OF_ONE_RUN}
    from loki_rl.reports import compare as side_by_side
    from loki_rl.runs.run import RUNNERS

    if suite is not None:
        one_of("--suite", suite, ("paper",))
        _alone(context, "--suite brings its own runs", OF_A_SUITE)
        options = run_options(**flags, trace="diurnal", policy="loki")
        _paper(options, logdir, range(seed, seed + seeds), jobs, fresh, as_json)
        return
    names, drivers = split_names("--policies", policies), split_names("--driver", driver)
    for name in drivers:
        one_of("--driver", name, tuple(RUNNERS))
        if name == "onnx":
            need_models(pipeline, name)
    cases = side_by_side.build_cases(
        run_options(**flags, trace=trace[0], policy=names[0]),
        policies=names,
        traces=trace,
        seeds=range(seed, seed + seeds),
        drivers=cast("list[Driver]", drivers),
    )
    with terminal.run_bar() as progress:
        found = side_by_side.compare(cases, RUNNERS, logdir, jobs, progress, fresh)
    terminal.say(side_by_side.document(found), as_json, lambda: _show_comparison(found, logdir))
    if found.failures:
        terminal.note("\n".join(f"failed: {failure}" for failure in found.failures))
        raise typer.Exit(1)


def _paper(options: RunOptions, logdir: Path, seeds: range, jobs: int | None, fresh: bool, as_json: bool) -> None:
    from loki_rl.paper.suite import paper_suite

    with terminal.run_bar() as progress:
        found = paper_suite(options, logdir, seeds, jobs, progress, fresh)
    terminal.say(found, as_json, lambda: terminal.line(Path(str(found["report"])).read_text(encoding="utf-8")))


def _show_comparison(found: Comparison, logdir: Path) -> None:
    from loki_rl.reports.report import summary_lines

    if found.results:
        show_runs(found.results)
    if len({done.trace for done in found.results}) > 1:
        terminal.line("\n".join(summary_lines(found.results)))
    if found.reused:
        terminal.line(f"reused: {found.reused} of {len(found.results)} runs, made before with the same options and code")
    terminal.line(f"report: {found.report}")
    terminal.line(f"as one page: {found.report.with_suffix('.html')}")
    terminal.line(f"curves: tensorboard --logdir {logdir}")


def demo(
    folder: Annotated[Path, typer.Option(help="Where to write.", callback=writable)] = Path("demo"),
    device: DeviceOpt = "auto",
    as_json: JsonOpt = False,
) -> None:
    """The main job: real models and 20 emulated workers meet a flash crowd, in plane and twin."""
    from loki_rl.cli.demo import Stage
    from loki_rl.cli.demo import demo as play

    show = terminal.rich_note if as_json else terminal.rich
    results = play(Stage(folder, device, show, terminal.progress_bars))
    terminal.say({"results": [run_row(done) for done in results]}, as_json, lambda: None)
