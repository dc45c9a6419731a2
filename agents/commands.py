"""What the commands `train` and `evaluate` do."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from loki_rl.agents.evaluate.evaluation import Asked, evaluate
from loki_rl.agents.evaluate.report import as_json, table, write
from loki_rl.agents.export import Trained, export
from loki_rl.agents.train.fine_tuning import BEST, TrainOptions, fine_tune
from loki_rl.agents.train.teacher import TeachOptions, network_of, teach
from loki_rl.agents.train.validation import Score
from loki_rl.control.formulation.request import RequestError
from loki_rl.control.learned.agent import NumpyAgent, check_use, load_agent
from loki_rl.env.gym.cluster_options import ClusterEnvOptions, table_of
from loki_rl.errors import FailureError, UserError
from loki_rl.options import (
    CalibrationFile,
    Count,
    Help,
    Interval,
    Intervals,
    LoadTime,
    PipelineName,
    Positive,
    Randomise,
    Seed,
    Servers,
    WindowTrace,
)
from loki_rl.progress import Steps, unseen_steps
from loki_rl.traces.trace import TraceOptions

# Without numba it would work, and take days.
NEEDED = {"learned": ("numba", "onnx", "torch"), "ppo": ("numba", "onnx", "torch", "sb3_contrib")}


class TrainFlags(TraceOptions, frozen=True, kw_only=True):
    """Flags of `train`."""

    pipeline: PipelineName
    out: Annotated[str, Help("Folder for checkpoints, TensorBoard files and the exported agent.")] = "runs/train"
    learner: Annotated[
        Literal["learned", "ppo"], Help("Hindsight regression (learned), or MaskablePPO that starts from its network (ppo).")
    ] = "learned"
    pipelines: Annotated[tuple[str, ...], Help("Train the same agent for this pipeline too; repeat it.", "--also")] = ()
    states: Annotated[Count, Help("States judged in each round, with every action on the same future.")] = 8000
    rounds: Annotated[Count, Help("Rounds of policy iteration.")] = 3
    steps: Annotated[Count, Help("Decisions of ppo, at most.")] = 400_000
    seed: Seed = 0
    servers: Servers = None
    trace: WindowTrace = None
    load_s: LoadTime = None
    calibration: CalibrationFile = None
    interval_s: Interval = 1.0
    intervals: Intervals = 120
    windows: Annotated[Count, Help("Windows of demand to train on.")] = 512
    validation: Annotated[Count, Help("Windows to validate on, of each pipeline.")] = 256
    randomise: Randomise = True
    force: Annotated[bool, Help("Export the agent even where it is no better than what it began with.")] = False


class TrainingError(UserError):
    """Training is not installed; the message says what is missing and how to get it."""


class LosingAgentError(FailureError):
    """A trained agent is not better than what it began with, and is not exported; the message gives both figures."""


def need_training(learner: str) -> None:
    """Raise TrainingError where what training needs is not installed: that should not be learnt after minutes."""
    absent = [name for name in NEEDED[learner] if find_spec(name) is None]
    if absent:
        raise TrainingError(f"training needs {', '.join(absent)}; install it with: pip install 'loki-rl[train]'")


def run_train(flags: TrainFlags, quiet: bool) -> dict[str, Any]:
    """Train, then export what is better than its base, and of ppo than its teacher; a second call goes on where a killed one
    stopped. Returns the JSON of the command, in which `refused` says why an agent was not exported."""
    need_training(flags.learner)
    options = teach_options(flags)
    name = table_of(options.env).fleet.pipeline.name
    folder = Path(flags.out) / name / flags.learner
    trained, better = _taught(options, folder) if flags.learner == "learned" else _tuned(options, flags, folder, quiet)
    exported = flags.force or better
    if exported:
        export(trained, folder)
    return {
        "pipeline": name,
        "learner": flags.learner,
        "folder": str(folder),
        "model": str(folder / "agent.onnx") if exported else None,
        "validation_gain": trained.score.gain,
        "validation_gap_closed": trained.score.gap,
        "validation_violations": trained.score.violations,
        "validation_excess_violations": trained.score.excess,
        "refused": "" if exported else f"the agent in {folder} is not exported: on validation windows {trained.verdict}",
    }


def _taught(options: TeachOptions, folder: Path) -> tuple[Trained, bool]:
    progress = teach(options, folder)
    best = progress.best
    network = network_of(folder)
    return Trained("learned", options, options, *network, progress.margin, best, str(best)), best.worth > 0


def _tuned(options: TeachOptions, flags: TrainFlags, folder: Path, quiet: bool) -> tuple[Trained, bool]:
    """What PPO makes of the teacher beside it, which is trained first where it is not there."""
    from sb3_contrib import MaskablePPO

    from loki_rl.agents.train.fine_tuning import LATEST, actor_of

    teacher = folder.parent / "learned"
    taught = teach(options, teacher)
    asked = TrainOptions(teach=options, steps=flags.steps, evaluate_every=min(50_000, flags.steps))
    progress = fine_tune(asked, taught, teacher, folder, quiet=quiet)
    better = progress.best.worth > taught.best.worth
    best: Score = progress.best if better else max((score for _, score in progress.history), key=lambda one: one.worth)
    said = f"{best}; its teacher {taught.best}"
    model = MaskablePPO.load(folder / (BEST if better else LATEST), device="cpu")
    return Trained("ppo", options, asked, *actor_of(model), 0.0, best, said), better and best.worth > 0


def check_exported(row: dict[str, Any]) -> None:
    """Raises LosingAgentError if an agent was not exported."""
    if row["refused"]:
        raise LosingAgentError(f"{row['refused']}; train on more --states or other windows, or export with --force")


def teach_options(flags: TrainFlags) -> TeachOptions:
    env = msgspec.convert(flags, ClusterEnvOptions, from_attributes=True)
    return TeachOptions(
        env=env, pipelines=flags.pipelines, rounds=flags.rounds, states=flags.states, validation=flags.validation,
        seed=flags.seed,
    )  # fmt: skip


class EvaluateFlags(TraceOptions, frozen=True, kw_only=True):
    """Flags of `evaluate`."""

    pipeline: PipelineName
    models: Annotated[tuple[str, ...], Help("agent.npz of a training; repeat it.", "--model")] = ()
    windows: Annotated[Count, Help("Test windows of the fluid twin.")] = 100
    validation: Annotated[Count, Help("Validation windows that rules are chosen on.")] = 256
    servers: Servers = None
    trace: WindowTrace = None
    load_s: LoadTime = None
    calibration: CalibrationFile = None
    interval_s: Interval = 1.0
    intervals: Intervals = 120
    randomise: Randomise = False
    events: Annotated[
        Annotated[int, Meta(ge=0)], Help("Windows of each family in the event twin, the judge (8 s each and method).")
    ] = 0
    level: Annotated[Positive, Help("Mean demand there [1/s].")] = 131.0
    traces: Annotated[tuple[str, ...], Help("A trace that is a family of its own there; repeat it.", "--family")] = ()
    out: Annotated[str | None, Help("Folder for report and TensorBoard files.")] = None


def run_evaluate(flags: EvaluateFlags, progress: Steps = unseen_steps) -> tuple[dict[str, Any], str]:
    """The report as JSON and as text. progress: is told what is done, and its share. Raises RequestError if a model cannot
    be read or is for something else."""
    agents = [_numpy(Path(path)) for path in flags.models]
    options = msgspec.convert(flags, ClusterEnvOptions, from_attributes=True)
    for agent in agents:
        check_use(agent.card, table_of(options).fleet.pipeline.name, options.interval_s)
    named = {f"{agent.card.learner} {place}": agent for place, agent in enumerate(agents)}
    report = evaluate(options, named, msgspec.convert(flags, Asked, from_attributes=True), progress)
    if flags.out is not None:
        write(report, Path(flags.out))
    return as_json(report), table(report)


def _numpy(path: Path) -> NumpyAgent:
    agent = load_agent(path.with_suffix(".npz") if path.suffix == ".onnx" else path)
    if not isinstance(agent, NumpyAgent):
        raise RequestError(f"{path} must be the .npz file that lies beside agent.onnx")
    return agent
