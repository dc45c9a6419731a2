"""Commands about agents and forecasters: train, evaluate, forecaster train, forecaster score."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import click

from loki_rl.agents.commands import EvaluateFlags, TrainFlags, check_exported, run_evaluate, run_train
from loki_rl.agents.forecast_commands import ForecasterFlags, ScoreFlags, run_score, run_train_forecaster
from loki_rl.agents.seeds import SeedRun, best_of, train_seeds
from loki_rl.cli import terminal
from loki_rl.cli.flags import Json, cluster_of
from loki_rl.cli.provenance import tell_profile
from loki_rl.env.gym.cluster_options import ONE_TASK
from loki_rl.files.config import load_pipeline
from loki_rl.files.user_folders import writable
from loki_rl.options import Count, Help
from loki_rl.ray_cluster import AUTO, ClusterAddress, LauncherName


def train(
    options: TrainFlags,
    seeds: Annotated[Count, Help("Trainings, with seeds from --seed on, each in a folder of its own.")] = 1,
    launcher: Annotated[
        LauncherName, Help("Where --seeds are trained: on this host (local), or on a Ray cluster (ray).")
    ] = "local",
    address: ClusterAddress = AUTO,
    jobs: Annotated[Count | None, Help("Trainings at once on this host (default: one per core).")] = None,
    as_json: Json = False,
) -> None:
    """Train an agent in the fluid twin, and export it where it is worth more than the policy that it adjusts; a second call
    goes on where a killed one stopped."""
    writable(Path(options.out))
    _tell_profiles(options.pipeline, *options.pipelines)
    cluster = cluster_of(launcher, address)
    if seeds > 1 or cluster:
        runs = train_seeds(options, seeds, jobs, cluster, lambda one: terminal.note(_seed_line(one)))
        _say_seeds(runs, as_json)
        return
    row = run_train(options, quiet=as_json)
    told = {name: value for name, value in row.items() if value not in ("", None)}
    terminal.say(row, as_json, lambda: terminal.pairs(told))
    check_exported(row)


def _tell_profiles(*pipelines: str) -> None:
    for name in pipelines:
        if name != ONE_TASK:  # which is no file
            tell_profile(load_pipeline(name, need_profile=False))


def _say_seeds(runs: list[SeedRun], as_json: bool) -> None:
    best = best_of(runs)
    rows = [one.row if one.row is not None else {"failed": one.sentence} for one in runs]
    found = {
        "seeds": [{"seed": one.seed, **row} for one, row in zip(runs, rows, strict=True)],
        "best": None if best is None or best.row is None else best.row["model"],
    }
    terminal.say(found, as_json, lambda: terminal.line(f"best on validation windows: {found['best'] or 'none is exported'}"))
    if any(one.row is None for one in runs):
        raise click.exceptions.Exit(1)


def _seed_line(one: SeedRun) -> str:
    """What came of a seed."""
    if one.row is None:
        return f"seed {one.seed}: failed: {one.sentence}"
    gain, excess = one.row["validation_gain"], one.row["validation_excess_violations"]
    said = f"gain {gain:.4f} J, {100 * excess:+.3f} points of violations on validation windows"
    return f"seed {one.seed}: {said}; {one.row['model'] or 'not exported'}"


def evaluate(options: EvaluateFlags, as_json: Json = False) -> None:
    """Agents beside `exact`, constants, the best rule of one threshold and clairvoyance, on windows no training saw."""
    writable(None if options.out is None else Path(options.out))
    _tell_profiles(options.pipeline)
    with terminal.progress_bars() as progress:
        row, text = run_evaluate(options, progress)
    terminal.say(row, as_json, lambda: terminal.line(text))


def forecaster_train(options: ForecasterFlags, as_json: Json = False) -> None:
    """Train the forecaster of policy `forecast`, and compare it with the belief of `exact`."""
    writable(Path(options.out))
    _say_errors(run_train_forecaster(options), as_json)


def forecaster_score(options: ScoreFlags, as_json: Json = False) -> None:
    """Errors of the forecaster on demand that no training saw, those of the belief that it corrects being 1."""
    _say_errors(run_score(options), as_json)


def _say_errors(row: dict[str, Any], as_json: bool) -> None:
    rest = {name: value for name, value in row.items() if name != "test_errors"}
    errors = {f"error on {family}": f"{error:.2f}" for family, error in row["test_errors"].items()}
    terminal.say(row, as_json, lambda: terminal.pairs(rest | errors))
