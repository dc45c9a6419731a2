"""Commands about agents and forecasters: train, evaluate, forecaster train, forecaster score."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from loki_rl.cli import terminal
from loki_rl.cli.flags import JsonOpt, LoadOpt, MeanOpt, PipelineArg, SeedOpt, ServersOpt


def train(
    pipeline: PipelineArg,
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, TensorBoard files and the exported agent.")] = Path(
        "runs/train"
    ),
    steps: Annotated[int, typer.Option(min=1, help="Decisions to train for, at most.")] = 400_000,
    seed: SeedOpt = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Training seeds, one after the other.")] = 1,
    servers: ServersOpt = None,
    trace: Annotated[str | None, typer.Option(help="Cut windows from this trace (default: bursty generator).")] = None,
    mean_rps: MeanOpt = None,
    windows: Annotated[int, typer.Option(help="Windows of demand to train on.")] = 512,
    validation: Annotated[int, typer.Option(min=1, help="Windows to validate on.")] = 96,
    randomise: Annotated[bool, typer.Option(help="Draw load time, service rate, servers and lag per window.")] = True,
    give_up: Annotated[int, typer.Option(min=1, help="Validations without a better one before it stops.")] = 25,
    allowed: Annotated[float, typer.Option(min=0.0, help="Share of requests it may lose beyond the base's.")] = 0.0001,
    as_json: JsonOpt = False,
) -> None:
    """Train an agent in the fluid twin; a second call goes on where a killed one stopped."""
    flags = {name: value for name, value in locals().items() if name != "as_json"}
    from loki_rl.agents.commands import TrainFlags, run_train

    row = run_train(msgspec.convert({**flags, "out": str(out), "quiet": as_json}, TrainFlags))
    terminal.say(row, as_json, lambda: terminal.pairs({"pipeline": row["pipeline"], **row["agents"][-1]}))


def evaluate(
    pipeline: PipelineArg,
    models: Annotated[list[str] | None, typer.Option("--model", help="agent.npz of a training seed; repeat it.")] = None,
    windows: Annotated[int, typer.Option(help="Test windows.")] = 100,
    tuning: Annotated[int, typer.Option(min=1, help="Validation windows that every base is tuned on.")] = 32,
    servers: ServersOpt = None,
    trace: Annotated[str | None, typer.Option(help="Cut windows from this trace (default: bursty generator).")] = None,
    mean_rps: MeanOpt = None,
    load_s: LoadOpt = None,
    bursts: Annotated[float, typer.Option(help="Times as many bursts.")] = 1.0,
    heights: Annotated[float, typer.Option(help="Times as high bursts.")] = 1.0,
    randomise: Annotated[bool, typer.Option(help="Draw load time, service rate, servers and lag per window.")] = False,
    deep: Annotated[bool, typer.Option(help="The thorough search of the allocator table (slower).")] = False,
    shifts: Annotated[bool, typer.Option(help="The shift matrix: load times, bursts, traces, another pipeline.")] = False,
    shift_traces: Annotated[
        list[str] | None, typer.Option("--shift-trace", help="A trace of another family for it; repeat it.")
    ] = None,
    events: Annotated[int, typer.Option(min=0, help="Test windows to play in the event twin too (half a minute each).")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for report, picture and TensorBoard files.")] = None,
    as_json: JsonOpt = False,
) -> None:
    """Agents against tuned bases and clairvoyance on windows that training never saw."""
    flags = {name: value for name, value in locals().items() if name not in ("as_json", "models", "shift_traces", "out")}
    from loki_rl.agents.commands import EvaluateFlags, run_evaluate

    row, text = run_evaluate(
        msgspec.convert(
            {
                **flags,
                "models": tuple(models or ()),
                "shift_traces": tuple(shift_traces or ()),
                "out": None if out is None else str(out),
            },
            EvaluateFlags,
        )
    )
    terminal.say(row, as_json, lambda: terminal.line(text))


def forecaster_train(
    out: Annotated[Path, typer.Option(help="Folder for quantiles.npz and its card.")] = Path("runs/forecaster"),
    windows: Annotated[int, typer.Option(help="Generated windows of 15 minutes to train on.")] = 400,
    validation: Annotated[int, typer.Option(help="Windows that choose the best epoch; as many test it.")] = 60,
    epochs: Annotated[int, typer.Option(help="Passes over all samples.")] = 30,
    seed: SeedOpt = 0,
    traces: Annotated[
        list[str] | None, typer.Option("--trace", help="Train on the first part of this trace too; repeat it.")
    ] = None,
    as_json: JsonOpt = False,
) -> None:
    """Train the forecaster of policy `forecast`, and compare it with classical ones."""
    from loki_rl.agents.forecast_commands import ForecasterFlags, run_train_forecaster

    row = run_train_forecaster(
        ForecasterFlags(
            out=str(out), windows=windows, validation=validation, epochs=epochs, seed=seed, traces=tuple(traces or ())
        )
    )
    terminal.say(row, as_json, lambda: _errors(row))


def forecaster_score(
    model: Annotated[str | None, typer.Option(help="quantiles.npz of a training (default: the shipped one).")] = None,
    windows: Annotated[int, typer.Option(help="Generated test windows.")] = 60,
    trace: Annotated[str | None, typer.Option(help="The last part of this trace instead.")] = None,
    as_json: JsonOpt = False,
) -> None:
    """Errors of all forecasters on demand that no training saw."""
    from loki_rl.agents.forecast_commands import ScoreFlags, run_score

    row = run_score(ScoreFlags(model=model, windows=windows, trace=trace))
    terminal.say(row, as_json, lambda: _errors(row))


def _errors(row: dict[str, Any]) -> None:
    """Errors of forecasters for people."""
    rest = {name: value for name, value in row.items() if name != "test_errors"}
    terminal.pairs(rest | {f"error of {name}": f"{100 * error:.2f} %" for name, error in row["test_errors"].items()})
