"""What the commands `forecaster train` and `forecaster score` do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Struct

from loki_rl.agents.train.demand_series import PARTS, from_trace, generated
from loki_rl.agents.train.forecaster import Samples, log_loss, samples_of, train_forecaster
from loki_rl.control.demand.exceedance_net import SHIPPED, ExceedanceNet, load_exceedance
from loki_rl.control.formulation.request import RequestError
from loki_rl.env.gym.cluster_options import SPLITS
from loki_rl.options import Count, Help, Seed
from loki_rl.traces.trace import load_trace

COMMAND = "loki-rl forecaster train --windows {windows} --held-out {held_out} --epochs {epochs} --seed {seed}{traces}"
# Moments of each window, from which some levels each are learnt.
EACH = 50


class ForecasterFlags(Struct, frozen=True, kw_only=True):
    """Flags of `forecaster train`."""

    out: Annotated[str, Help("Folder for exceedance.npz and its card.")] = "runs/forecaster"
    windows: Annotated[Count, Help("Windows to train on of each kind of generated demand and of each trace.")] = 60
    held_out: Annotated[Count, Help("Windows of each that choose the best epoch; as many test it.")] = 8
    epochs: Annotated[Count, Help("Passes over all samples.")] = 12
    seed: Seed = 0
    traces: Annotated[tuple[str, ...], Help("Learn from parts of this trace too; repeat it.", "--trace")] = ()


def run_train_forecaster(flags: ForecasterFlags) -> dict[str, Any]:
    """Train, write exceedance.npz and card.md, and compare with the belief that it corrects on test windows. Raises
    TraceError if a trace is too short."""
    train, validation, test = (
        _data(part, windows, flags.traces, flags.seed)
        for part, windows in zip(PARTS, (flags.windows, flags.held_out, flags.held_out), strict=True)
    )
    command = COMMAND.format(
        windows=flags.windows, held_out=flags.held_out, epochs=flags.epochs, seed=flags.seed,
        traces="".join(f" --trace {Path(trace).name}" for trace in flags.traces),
    )  # fmt: skip
    net = train_forecaster(train, validation, f"made by: {command}", flags.epochs, flags.seed)
    file = Path(flags.out) / "exceedance.npz"
    net.save(file)
    errors = compared(net, test)
    (file.parent / "card.md").write_text(card(command, len(train.weight), net.error, errors), encoding="utf-8")
    return {"model": str(file), "validation_error": net.error, "samples": len(train.weight), "test_errors": errors}


class ScoreFlags(Struct, frozen=True, kw_only=True):
    """Flags of `forecaster score`."""

    model: Annotated[str | None, Help("exceedance.npz of a training (default: the shipped one).")] = None
    windows: Annotated[Count, Help("Test windows of each kind of generated demand, or of the trace.")] = 8
    trace: Annotated[str | None, Help("The test part of this trace instead.")] = None


def run_score(flags: ScoreFlags) -> dict[str, Any]:
    """Errors on what no training saw. Raises RequestError if the model cannot be read, TraceError if the trace is too
    short."""
    file = Path(flags.model) if flags.model else SHIPPED
    try:
        net = load_exceedance(file)
    except (OSError, KeyError, ValueError) as error:
        raise RequestError(
            f"{file} cannot be read as a forecaster ({error}); make one with 'loki-rl forecaster train'"
        ) from error
    data = _data("test", flags.windows, (flags.trace,) if flags.trace else (), 0, made=not flags.trace)
    return {"model": str(file), "samples": len(data.weight), "test_errors": compared(net, data)}


def compared(net: ExceedanceNet, data: Samples) -> dict[str, float]:
    """Log loss for each family as a share of what the belief alone has, least first."""
    corrected, believed = log_loss(net, data), log_loss(None, data)
    families = {str(family): data.family == family for family in np.unique(data.family)}
    errors = {family: float(corrected[mine].sum() / believed[mine].sum()) for family, mine in families.items()}
    return dict(sorted(errors.items(), key=lambda row: row[1]))


def _data(part: str, windows: int, traces: tuple[str, ...], seed: int, made: bool = True) -> Samples:
    """Generated windows of a split, and its part of every trace."""
    first = SPLITS[part] + seed
    series = list(generated(windows, first)) if made else []
    for place, trace in enumerate(traces):
        series += from_trace(load_trace(trace), part, windows, first + place)
    return samples_of(series, EACH, first)


def card(command: str, samples: int, error: float, errors: dict[str, float]) -> str:
    """The card for people."""
    rows = [f"| {family} | {value:.2f} |" for family, value in errors.items()]
    return "\n".join(
        (
            "# Forecaster of demand",
            "",
            "Corrects how likely policy `exact` believes demand to exceed each level within the next seconds, from the",
            "counts of five minutes; two hidden layers, free of scale, so that it is made for no pipeline.",
            "",
            f"- Made by `{command}`: {samples:,} samples, demand of 10 to 1500 requests/s, leads of 5 to 30 s.",
            f"- Log loss on validation windows {error:.2f} of the belief's own. On test windows, which neither training",
            "  nor the choice of the epoch saw:",
            "",
            "| demand | log loss, belief alone = 1 |",
            "|---|---|",
            *rows,
            "",
            "On other demand: `loki-rl forecaster score --trace FILE`.",
            "",
        )
    )
