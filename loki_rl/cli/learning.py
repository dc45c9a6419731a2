"""Commands about agents: train, evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from loki_rl import terminal
from loki_rl.cli.flags import JsonOpt, LoadOpt, MeanOpt, PipelineArg, SeedOpt, ServersOpt


def train(
    pipeline: PipelineArg,
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, TensorBoard files and the exported agent.")] = Path(
        "runs/train"
    ),
    steps: Annotated[int, typer.Option(help="Decisions to train for, at most.")] = 1_000_000,
    seed: SeedOpt = 0,
    seeds: Annotated[int, typer.Option(help="Training seeds, one after the other.")] = 1,
    servers: ServersOpt = None,
    trace: Annotated[str | None, typer.Option(help="Cut windows from this trace (default: bursty generator).")] = None,
    mean_rps: MeanOpt = None,
    windows: Annotated[int, typer.Option(help="Windows of demand to train on.")] = 512,
    validation: Annotated[int, typer.Option(help="Windows to validate on.")] = 48,
    randomise: Annotated[bool, typer.Option(help="Draw load time, service rate, servers and lag per window.")] = True,
    scale: Annotated[float, typer.Option(help="On the demand to have capacity for, which the agent adjusts.")] = 0.9,
    give_up: Annotated[int, typer.Option(help="Validations without a better one before it stops.")] = 12,
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
    tuning: Annotated[int, typer.Option(help="Validation windows that every base is tuned on.")] = 32,
    servers: ServersOpt = None,
    trace: Annotated[str | None, typer.Option(help="Cut windows from this trace (default: bursty generator).")] = None,
    mean_rps: MeanOpt = None,
    load_s: LoadOpt = None,
    bursts: Annotated[float, typer.Option(help="Times as many bursts.")] = 1.0,
    heights: Annotated[float, typer.Option(help="Times as high bursts.")] = 1.0,
    randomise: Annotated[bool, typer.Option(help="Draw load time, service rate, servers and lag per window.")] = False,
    deep: Annotated[bool, typer.Option(help="The thorough search of the allocator table (slower).")] = False,
    as_json: JsonOpt = False,
) -> None:
    """Agents against tuned bases and clairvoyance on windows that training never saw."""
    flags = {name: value for name, value in locals().items() if name not in ("as_json", "models")}
    from loki_rl.agents.commands import EvaluateFlags, run_evaluate

    row, text = run_evaluate(msgspec.convert({**flags, "models": tuple(models or ())}, EvaluateFlags))
    terminal.say(row, as_json, lambda: terminal.line(text))
