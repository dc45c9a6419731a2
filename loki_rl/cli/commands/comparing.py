"""The command that sets policies side by side: compare."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal, cast, get_args

import click
from msgspec.structs import replace

from loki_rl.cli import terminal
from loki_rl.cli.flags import FaultsFile, Fields, Json, RecordingFile, UsageError, alone, cluster_of, split_names
from loki_rl.cli.provenance import tell_profile
from loki_rl.cli.results import need_models, own_folder, played_again
from loki_rl.env.faults import load_faults
from loki_rl.files.user_folders import writable
from loki_rl.options import Count, Help
from loki_rl.paper.suite import paper_suite
from loki_rl.ray_cluster import AUTO, ClusterAddress, LauncherName
from loki_rl.reports.compare import Comparison, build_cases, document
from loki_rl.reports.compare import compare as side_by_side
from loki_rl.reports.report import summary_lines, table
from loki_rl.runs.batch_runner import play
from loki_rl.runs.options import POLICY_NAMES, Driver, RunOptions
from loki_rl.runs.run import RUNNERS

# What a suite heeds; it brings traces, policies and all else of its own.
OF_A_SUITE = {
    "suite", "pipeline", "seeds", "seed", "servers", "interval_s", "load_s", "profile", "jobs", "logdir", "fresh",
    "as_json", "launcher", "address",
}  # fmt: skip


def compare(
    options: Annotated[RunOptions | None, Fields(without=("trace", "policy", "driver"))],
    trace: Annotated[
        tuple[str, ...], Help("Trace file, or the name of one that ships (flash_crowd, diurnal, mmpp); may be repeated.")
    ] = ("flash_crowd",),
    policies: Annotated[str, Help(f"Separated by commas, of {POLICY_NAMES}.")] = "static,hardware,loki,exact",
    suite: Annotated[
        Literal["paper"] | None, Help("paper: the Loki paper's evaluation, instead of runs of your own.")
    ] = None,
    seeds: Annotated[Count, Help("Runs of each policy on each trace, with seeds from --seed on.")] = 1,
    driver: Annotated[str, Help("twin, emulated or onnx, or several separated by commas.")] = "twin",
    faults: FaultsFile = None,
    journal: RecordingFile = None,
    logdir: Annotated[Path, Help("Folder for run folders and report.")] = Path("runs"),
    jobs: Annotated[Count | None, Help("Runs of the twin at once (default: one per core).")] = None,
    launcher: Annotated[
        LauncherName, Help("Where runs of the twin are made: on this host (local), or on a Ray cluster (ray).")
    ] = "local",
    address: ClusterAddress = AUTO,
    fresh: Annotated[bool, Help("Run again what the log folder already holds.")] = False,
    as_json: Json = False,
) -> None:
    """Play the same requests against several policies, in the twin or on planes of this host, and set them side by side."""
    writable(logdir)
    cluster = cluster_of(launcher, address)
    recorded = None
    if journal is not None:
        options, recorded = played_again(journal)
        trace = (options.trace,)
    if options is None:
        raise UsageError("name a pipeline (or a recording to play with --journal)")
    if faults is not None:
        options = replace(options, faults=load_faults(faults))
    each = range(options.seed, options.seed + seeds)
    if suite is not None:
        alone("--suite brings its own runs", OF_A_SUITE)
        tell_profile(options.file)
        with terminal.run_bar() as progress:
            play_all = partial(play, run=RUNNERS, jobs=jobs, progress=progress, fresh=fresh, cluster=cluster)
            report = paper_suite(replace(options, trace="diurnal", policy="loki"), logdir, each, play_all)
        terminal.say(report, as_json, lambda: terminal.line(Path(str(report["report"])).read_text(encoding="utf-8")))
        return
    names, drivers = split_names("--policies", policies), split_names("--driver", driver, get_args(Driver))
    if "onnx" in drivers:
        need_models(options, "onnx")
    tell_profile(options.file)
    cases = build_cases(options, policies=names, traces=trace, seeds=each, drivers=cast("list[Driver]", drivers))
    logdir = own_folder(options, logdir)
    with terminal.run_bar() as progress:
        found = side_by_side(cases, RUNNERS, logdir, jobs, progress, fresh, recorded, cluster)
    terminal.say(document(found), as_json, lambda: _show_comparison(found, logdir))
    if found.failures:
        terminal.note("\n".join(f"failed: {failure}" for failure in found.failures))
        raise click.exceptions.Exit(1)


def _show_comparison(found: Comparison, logdir: Path) -> None:
    if found.results:
        terminal.shown(table(found.shown))
    if len({done.trace for done in found.results}) > 1:
        terminal.line("\n".join(summary_lines(found.results)))
    if found.reused:
        terminal.line(f"reused: {found.reused} of {len(found.results)} runs, made before with the same options and code")
    terminal.line(f"report: {found.report}")
    terminal.line(f"as one page: {found.report.with_suffix('.html')}")
    terminal.line(f"curves: tensorboard --logdir {logdir}")
