"""What the commands `train` and `evaluate` do. Owns their options and output; the command line only passes flags on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from loki_rl.agents.evaluate.evaluation import Asked, evaluate
from loki_rl.agents.evaluate.methods import tune
from loki_rl.agents.evaluate.report import as_json, table, write
from loki_rl.agents.train.training import BEST, TrainOptions, train
from loki_rl.control.formulation.request import RequestError
from loki_rl.control.learned.agent import NumpyAgent, load_agent
from loki_rl.env.gym.cluster_options import ClusterEnvOptions


class TrainFlags(Struct, frozen=True, kw_only=True):
    """Flags of `train`. steps: decisions in all; seeds: training seeds, one after the other; randomise: draw load time,
    service rate, servers, lag and lost counts per window; allowed: requests
    lost beyond the base's."""

    pipeline: str
    out: str = "runs/train"
    steps: int = 400_000
    seed: int = 0
    seeds: int = 1
    servers: int | None = None
    trace: str | None = None
    mean_rps: float | None = None
    windows: int = 512
    validation: int = 96
    randomise: bool = True
    give_up: int = 25
    allowed: float = 0.0001
    quiet: bool = False


def run_train(flags: TrainFlags) -> dict[str, Any]:
    """Train, then export; a second call goes on where a killed one stopped. Returns the JSON of the command."""
    rows, env = [], tuned_env(flags)
    for seed in range(flags.seed, flags.seed + flags.seeds):
        folder = Path(flags.out) / flags.pipeline / f"seed{seed}"
        options = train_options(flags, env, seed)
        progress = train(options, folder, quiet=flags.quiet)
        from loki_rl.agents.export import export

        agent = export(options, progress, folder / BEST, folder)
        rows.append(
            {
                "seed": seed,
                "folder": str(folder),
                "model": str(folder / "agent.onnx"),
                "steps": progress.steps,
                "validation_gain": agent.card.gain,
                "validation_gap_closed": agent.card.gap,
                "validation_violations": agent.card.violations,
                "validation_excess_violations": agent.card.excess,
            }
        )
    return {"pipeline": flags.pipeline, "agents": rows}


def tuned_env(flags: TrainFlags) -> ClusterEnvOptions:
    """The training windows with the base that an agent adjusts, tuned as evaluations tune it."""
    env = ClusterEnvOptions(
        pipeline=flags.pipeline,
        servers=flags.servers,
        trace=flags.trace,
        mean_rps=flags.mean_rps,
        windows=flags.windows,
        randomise=flags.randomise,
    )
    tuned = tune(env, "forecast", flags.validation)
    return replace(env, scale=tuned.scale, patience=tuned.patience)


def train_options(flags: TrainFlags, env: ClusterEnvOptions, seed: int) -> TrainOptions:
    return TrainOptions(
        env=env, steps=flags.steps, seed=seed, validation=flags.validation, give_up=flags.give_up, allowed=flags.allowed,
        evaluate_every=min(20_000, flags.steps),
    )  # fmt: skip


class EvaluateFlags(Struct, frozen=True, kw_only=True):
    """Flags of `evaluate`. models: .npz files of agents, one per training seed; windows: test windows; tuning: validation
    windows that every base is tuned on; load_s, bursts, heights, trace: of all windows; deep: the allocator table's thorough
    search for the main table; shifts, shift_traces: the shift matrix; events: windows of the event twin; out: folder for
    report, picture and TensorBoard files."""

    pipeline: str
    models: tuple[str, ...] = ()
    windows: int = 100
    tuning: int = 32
    servers: int | None = None
    trace: str | None = None
    mean_rps: float | None = None
    load_s: float | None = None
    bursts: float = 1.0
    heights: float = 1.0
    randomise: bool = False
    deep: bool = False
    shifts: bool = False
    shift_traces: tuple[str, ...] = ()
    events: int = 0
    out: str | None = None


def run_evaluate(flags: EvaluateFlags) -> tuple[dict[str, Any], str]:
    """The report as JSON and as text. Raises RequestError if a model cannot be read."""
    agents = [_numpy(Path(path)) for path in flags.models]
    options = ClusterEnvOptions(
        pipeline=flags.pipeline,
        servers=flags.servers,
        trace=flags.trace,
        mean_rps=flags.mean_rps,
        load_s=flags.load_s,
        bursts=flags.bursts,
        heights=flags.heights,
        randomise=flags.randomise,
    )
    asked = Asked(
        windows=flags.windows, tuning=flags.tuning, deep=flags.deep, shifts=flags.shifts, traces=flags.shift_traces,
        events=flags.events,
    )  # fmt: skip
    report = evaluate(options, agents, asked)
    if flags.out is not None:
        write(report, Path(flags.out))
    return as_json(report), table(report)


def _numpy(path: Path) -> NumpyAgent:
    agent = load_agent(path.with_suffix(".npz"))
    if not isinstance(agent, NumpyAgent):
        raise RequestError(f"{path} must be the .npz file that lies beside agent.onnx")
    return agent
