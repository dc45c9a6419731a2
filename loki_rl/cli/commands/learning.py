"""Commands about agents and forecasters: train, evaluate, forecaster train, forecaster score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loki_rl.agents.commands import EvaluateFlags, TrainFlags, check_exported, run_evaluate, run_train
from loki_rl.agents.forecast_commands import ForecasterFlags, ScoreFlags, run_score, run_train_forecaster
from loki_rl.cli import terminal
from loki_rl.cli.flags import Json, writable


def train(options: TrainFlags, as_json: Json = False) -> None:
    """Train an agent in the fluid twin, and export it where it is worth more than the policy that it adjusts; a second call
    goes on where a killed one stopped."""
    writable(Path(options.out))
    row = run_train(options, quiet=as_json)
    told = {name: value for name, value in row.items() if value not in ("", None)}
    terminal.say(row, as_json, lambda: terminal.pairs(told))
    check_exported(row)


def evaluate(options: EvaluateFlags, as_json: Json = False) -> None:
    """Agents beside `exact`, constants, the best rule of one threshold and clairvoyance, on windows no training saw."""
    writable(None if options.out is None else Path(options.out))
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
