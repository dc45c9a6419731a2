"""What the commands `train` and `evaluate` do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from loki_rl.agents.evaluate.evaluation import Asked, evaluate
from loki_rl.agents.evaluate.report import as_json, table, write
from loki_rl.agents.export import export
from loki_rl.agents.train.training import BEST, TrainOptions, train, worth
from loki_rl.control.formulation.request import RequestError
from loki_rl.control.learned.agent import NumpyAgent, check_use, load_agent
from loki_rl.env.gym.cluster_options import ClusterEnvOptions, table_of
from loki_rl.errors import UserError
from loki_rl.options import (
    Count,
    Help,
    Interval,
    Intervals,
    LoadTime,
    NotNegative,
    PipelineName,
    Positive,
    Randomise,
    Seed,
    Servers,
    WindowTrace,
)
from loki_rl.traces.trace import TraceOptions


class TrainFlags(TraceOptions, frozen=True, kw_only=True):
    """Flags of `train`."""

    pipeline: PipelineName
    out: Annotated[str, Help("Folder for checkpoints, TensorBoard files and the exported agent.")] = "runs/train"
    steps: Annotated[Count, Help("Decisions to train for, at most.")] = 400_000
    seed: Seed = 0
    seeds: Annotated[Count, Help("Training seeds, one after the other.")] = 1
    servers: Servers = None
    trace: WindowTrace = None
    load_s: LoadTime = None
    interval_s: Interval = 1.0
    intervals: Intervals = 120
    windows: Annotated[Count, Help("Windows of demand to train on.")] = 512
    validation: Annotated[Count, Help("Windows to validate on.")] = 96
    randomise: Randomise = True
    give_up: Annotated[Count, Help("Validations without a better one before it stops.")] = 25
    allowed: Annotated[NotNegative, Help("Share of requests it may lose beyond the base's.")] = 0.0001
    force: Annotated[bool, Help("Export the agent even where its base is better off alone.")] = False


class LosingAgentError(UserError):
    """A trained agent is worth less than the base it adjusts, and is not exported; the message gives both figures."""


def run_train(flags: TrainFlags, quiet: bool) -> dict[str, Any]:
    """Train, then export what is better than its base; a second call goes on where a killed one stopped. Returns the JSON of
    the command, in which `refused` says why an agent was not exported."""
    env = msgspec.convert(flags, ClusterEnvOptions, from_attributes=True)
    name = table_of(env).fleet.pipeline.name
    agents = [
        _trained(train_options(flags, env, seed), Path(flags.out) / name / f"seed{seed}", flags.force, quiet)
        for seed in range(flags.seed, flags.seed + flags.seeds)
    ]
    return {"pipeline": name, "agents": agents}


def _trained(options: TrainOptions, folder: Path, force: bool, quiet: bool) -> dict[str, Any]:
    progress = train(options, folder, quiet=quiet)
    best, exported = progress.best, force or worth(options, progress.best) > 0
    if exported:
        export(options, progress, folder / BEST, folder)
    return {
        "seed": options.seed,
        "folder": str(folder),
        "model": str(folder / "agent.onnx") if exported else None,
        "steps": progress.steps,
        "validation_gain": best.gain,
        "validation_gap_closed": best.gap,
        "validation_violations": best.violations,
        "validation_excess_violations": best.excess,
        "refused": "" if exported else f"the agent in {folder} is not exported: on validation windows {best}",
    }


def check_exported(row: dict[str, Any]) -> None:
    """Raises LosingAgentError if an agent of a training was not exported."""
    refused = [agent["refused"] for agent in row["agents"] if agent["refused"]]
    if refused:
        raise LosingAgentError(f"{'; '.join(refused)}; train for more --steps or on other windows, or export with --force")


def train_options(flags: TrainFlags, env: ClusterEnvOptions, seed: int) -> TrainOptions:
    return TrainOptions(
        env=env, steps=flags.steps, seed=seed, validation=flags.validation, give_up=flags.give_up, allowed=flags.allowed,
        evaluate_every=min(20_000, flags.steps),
    )  # fmt: skip


class EvaluateFlags(TraceOptions, frozen=True, kw_only=True):
    """Flags of `evaluate`."""

    pipeline: PipelineName
    models: Annotated[tuple[str, ...], Help("agent.npz of a training seed; repeat it.", "--model")] = ()
    windows: Annotated[Count, Help("Test windows.")] = 100
    tuning: Annotated[Count, Help("Validation windows that every base is tuned on.")] = 32
    servers: Servers = None
    trace: WindowTrace = None
    load_s: LoadTime = None
    interval_s: Interval = 1.0
    intervals: Intervals = 120
    bursts: Annotated[NotNegative, Help("Times as many bursts.")] = 1.0
    heights: Annotated[Positive, Help("Times as high bursts.")] = 1.0
    randomise: Randomise = False
    deep: Annotated[bool, Help("The thorough search of the allocator table (slower).")] = False
    shifts: Annotated[bool, Help("The shift matrix: load times, bursts, traces, another pipeline.")] = False
    traces: Annotated[
        tuple[str, ...], Help("A trace of another family for the shift matrix; repeat it.", "--shift-trace")
    ] = ()
    events: Annotated[
        Annotated[int, Meta(ge=0)], Help("Test windows to play in the event twin too (half a minute each).")
    ] = 0
    out: Annotated[str | None, Help("Folder for report, picture and TensorBoard files.")] = None


def run_evaluate(flags: EvaluateFlags) -> tuple[dict[str, Any], str]:
    """The report as JSON and as text. Raises RequestError if a model cannot be read or is for something else."""
    agents = [_numpy(Path(path)) for path in flags.models]
    # Bases are tuned with the quick search, whatever the test windows are played with.
    options = replace(msgspec.convert(flags, ClusterEnvOptions, from_attributes=True), deep=False)
    for agent in agents:
        check_use(agent.card, table_of(options).fleet.pipeline.name, options.interval_s)
    report = evaluate(options, agents, msgspec.convert(flags, Asked, from_attributes=True))
    if flags.out is not None:
        write(report, Path(flags.out))
    return as_json(report), table(report)


def _numpy(path: Path) -> NumpyAgent:
    agent = load_agent(path.with_suffix(".npz"))
    if not isinstance(agent, NumpyAgent):
        raise RequestError(f"{path} must be the .npz file that lies beside agent.onnx")
    return agent
