"""What the commands `forecaster train` and `forecaster score` do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from msgspec import Struct

from loki_rl.agents.train.forecaster import ForecastData, error_of, from_trace, joined, synthetic, train_forecaster
from loki_rl.control.demand.forecast import FORECASTERS, Forecaster
from loki_rl.control.demand.forecast_learned import SHIPPED, load_net
from loki_rl.control.formulation.request import RequestError
from loki_rl.env.gym.cluster_options import SPLITS
from loki_rl.options import Count, Help, Seed
from loki_rl.traces.trace import load_trace

PARTS = tuple(SPLITS)
COMMAND = "loki-rl forecaster train --windows {windows} --validation {validation} --epochs {epochs} --seed {seed}{traces}"


class ForecasterFlags(Struct, frozen=True, kw_only=True):
    """Flags of `forecaster train`."""

    out: Annotated[str, Help("Folder for quantiles.npz and its card.")] = "runs/forecaster"
    windows: Annotated[Count, Help("Generated windows of 15 minutes to train on.")] = 400
    validation: Annotated[Count, Help("Windows that choose the best epoch; as many test it.")] = 60
    epochs: Annotated[Count, Help("Passes over all samples.")] = 30
    seed: Seed = 0
    traces: Annotated[tuple[str, ...], Help("Train on the first part of this trace too; repeat it.", "--trace")] = ()


def run_train_forecaster(flags: ForecasterFlags) -> dict[str, Any]:
    """Train, write quantiles.npz and card.md, and compare with the classical forecasters on test windows."""
    train, validation, test = (
        _data(part, windows, flags.traces)
        for part, windows in zip(PARTS, (flags.windows, flags.validation, flags.validation), strict=True)
    )
    command = COMMAND.format(
        windows=flags.windows, validation=flags.validation, epochs=flags.epochs, seed=flags.seed,
        traces="".join(f" --trace {Path(trace).name}" for trace in flags.traces),
    )  # fmt: skip
    net = train_forecaster(train, validation, f"made by: {command}", flags.epochs, flags.seed)
    file = Path(flags.out) / "quantiles.npz"
    net.save(file)
    errors = compared({**FORECASTERS, "quantile": net}, test)
    (file.parent / "card.md").write_text(card(command, len(train.lead), net.error, errors), encoding="utf-8")
    return {"model": str(file), "validation_error": net.error, "samples": len(train.lead), "test_errors": errors}


class ScoreFlags(Struct, frozen=True, kw_only=True):
    """Flags of `forecaster score`."""

    model: Annotated[str | None, Help("quantiles.npz of a training (default: the shipped one).")] = None
    windows: Annotated[Count, Help("Generated test windows.")] = 60
    trace: Annotated[str | None, Help("The last part of this trace instead.")] = None


def run_score(flags: ScoreFlags) -> dict[str, Any]:
    """Errors of all forecasters on what no training saw. Raises RequestError if the model cannot be read."""
    file = Path(flags.model) if flags.model else SHIPPED
    try:
        net = load_net(file)
    except (OSError, KeyError, ValueError) as error:
        raise RequestError(f"{file} cannot be read as a forecaster: {error}") from error
    traces = (flags.trace,) if flags.trace else ()
    data = _data("test", 0 if flags.trace else flags.windows, traces)
    return {"model": str(file), "samples": len(data.lead), "test_errors": compared({**FORECASTERS, "quantile": net}, data)}


def compared(forecasters: dict[str, Forecaster], data: ForecastData) -> dict[str, float]:
    """Mean pinball error of each relative to demand, least first."""
    errors = {name: error_of(forecaster, data) for name, forecaster in forecasters.items()}
    return dict(sorted(errors.items(), key=lambda row: row[1]))


def _data(part: str, windows: int, traces: tuple[str, ...]) -> ForecastData:
    """Generated windows of a split, and its part of every trace."""
    sets = [synthetic(windows, SPLITS[part])] if windows else []
    return joined(sets + [from_trace(load_trace(trace), part) for trace in traces])


def card(command: str, samples: int, error: float, errors: dict[str, float]) -> str:
    """The card for people."""
    rows = [f"| {name} | {100 * value:.2f} % |" for name, value in errors.items()]
    return "\n".join(
        (
            "# Forecaster of demand",
            "",
            "Mean demand of the next seconds and the quantiles .5 to .98 of their busiest three, from the counts of the",
            "last minute; two hidden layers, free of scale, so that it is made for no pipeline.",
            "",
            f"- Made by `{command}`: {samples:,} samples, demand of 5 to 1000 requests/s, leads of 10.5 to 30 s.",
            f"- Pinball error on validation windows {100 * error:.2f} % of demand. On test windows, which neither",
            "  training nor the choice of the epoch saw:",
            "",
            "| forecaster | pinball error |",
            "|---|---|",
            *rows,
            "",
            f"Best: {min(errors, key=lambda name: errors[name])}. On other demand the order may differ: "
            "`loki-rl forecaster score --trace FILE`.",
            "",
        )
    )
