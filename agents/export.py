"""From a trained model to files that need no torch: .npz for this package, .onnx for others."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from msgspec.structs import asdict
from numpy.typing import NDArray

from loki_rl.agents.train.training import Progress, TrainOptions, actor_of
from loki_rl.control.demand.tanh_network import named
from loki_rl.control.learned.agent import ILLEGAL, MASK_RULE, METADATA, Card, NumpyAgent, card_text
from loki_rl.control.learned.observation import ACTIONS, MULTIPLIERS, OBSERVATION, ODDS
from loki_rl.env.fluid.batch import Pool
from loki_rl.env.gym.cluster_options import ONE_TASK, ClusterEnvOptions, pool_for, ranges_of
from loki_rl.env.gym.spaces import NAMES

OPSET, IR = 18, 10  # what onnxruntime has read since 1.20
SAMPLE = 32
# Flags of what is played, as the environment calls them.
PLAYED = (
    "servers", "trace", "from_s", "to_s", "compress", "mean_rps", "rate_scale", "load_s", "interval_s", "intervals"
)  # fmt: skip


def export(options: TrainOptions, progress: Progress, best: Path, folder: Path) -> NumpyAgent:
    """Write agent.npz, agent.onnx and card.md for the model in `best`; returns the torch-free agent."""
    from sb3_contrib import MaskablePPO

    model = MaskablePPO.load(best, device="cpu")
    agent = NumpyAgent(*actor_of(model), make_card(options, progress))
    folder.mkdir(parents=True, exist_ok=True)
    agent.save(folder / "agent.npz")
    write_onnx(agent, folder / "agent.onnx")
    (folder / "card.md").write_text(model_card(agent.card), encoding="utf-8")
    return agent


def make_card(options: TrainOptions, progress: Progress) -> Card:
    """What the files say about themselves; ranges of the observation come from training windows."""
    env = options.env
    pool = pool_for(env)
    low, high = observed(pool, min(SAMPLE, pool.size))
    ranges = asdict(ranges_of(env))
    return Card(
        environment="LokiRL/OneTask-v1" if env.pipeline == ONE_TASK else "LokiRL/Cluster-v1",
        pipeline=pool.table.fleet.pipeline.name,
        features=NAMES,
        multipliers=tuple(MULTIPLIERS.tolist()),
        odds=tuple(ODDS.tolist()),
        mask_rule=MASK_RULE,
        low=low,
        high=high,
        ranges=ranges,
        training=msgspec.to_builtins(options),
        gain=progress.best.gain,
        gap=progress.best.gap,
        excess=progress.best.excess,
        violations=progress.best.violations,
        steps=progress.steps,
        note=f"made by: {command(options)}",
    )


def command(options: TrainOptions) -> str:
    """The command line of a training; flags that it leaves out stood at their defaults."""
    env = options.env
    asked = {
        "steps": options.steps, "seed": options.seed, "windows": env.windows, "validation": options.validation,
        **{name: getattr(env, name) for name in PLAYED if getattr(env, name) != getattr(ClusterEnvOptions(), name)},
    }  # fmt: skip
    words = [f"--{name.replace('_', '-')} {value}" for name, value in asked.items()]
    return " ".join(["loki-rl train", env.pipeline, *words, *([] if env.randomise else ["--no-randomise"])])


def observed(pool: Pool, windows: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Least and greatest observation over some windows, under actions drawn at random from the legal ones."""
    from loki_rl.agents.evaluate.rollouts import play

    rng = np.random.default_rng(0)
    low, high = np.full(OBSERVATION, np.inf), np.full(OBSERVATION, -np.inf)

    def wander(observations: NDArray[np.float32], masks: NDArray[np.int8]) -> NDArray[np.int64]:
        np.minimum(low, observations.min(axis=0), out=low)
        np.maximum(high, observations.max(axis=0), out=high)
        chosen: NDArray[np.int64] = np.argmax(rng.random(masks.shape) * masks, axis=1)
        return chosen

    play(pool, wander, windows=windows)
    return tuple(low.tolist()), tuple(high.tolist())


def write_onnx(agent: NumpyAgent, path: Path) -> None:
    """The same layers as a graph: observation and mask in, logits and action out."""
    import onnx

    helper, kinds = onnx.helper, onnx.TensorProto
    arrays = named(agent.weights, agent.biases) | {"illegal": np.array(ILLEGAL, np.float32)}
    nodes, last, seen = [], len(agent.weights) - 1, "observation"
    for i in range(last + 1):
        nodes += [
            helper.make_node("MatMul", [seen, f"w{i}"], [f"m{i}"]),
            helper.make_node("Add", [f"m{i}", f"b{i}"], [f"a{i}"]),
        ]
        seen = f"a{i}"
        if i < last:
            nodes.append(helper.make_node("Tanh", [seen], [f"h{i}"]))
            seen = f"h{i}"
    nodes.append(helper.make_node("Where", ["mask", seen, "illegal"], ["logits"]))
    nodes.append(helper.make_node("ArgMax", ["logits"], ["action"], axis=1, keepdims=0))
    graph = helper.make_graph(
        nodes, "agent",
        [helper.make_tensor_value_info("observation", kinds.FLOAT, ["batch", OBSERVATION]),
         helper.make_tensor_value_info("mask", kinds.BOOL, ["batch", ACTIONS])],
        [helper.make_tensor_value_info("logits", kinds.FLOAT, ["batch", ACTIONS]),
         helper.make_tensor_value_info("action", kinds.INT64, ["batch"])],
        [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    helper.set_model_props(made, {METADATA: card_text(agent.card)})
    onnx.checker.check_model(made, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(made, str(path))


def _foresight(card: Card) -> str:
    if card.gap > 1:
        return "knowing the future would save less"
    return f"that is {100 * card.gap:.0f} % of what knowing the future would save"


def model_card(card: Card) -> str:
    """The card as text for people."""
    verdict = "saves" if card.gain > 0 else "does not save anything:"
    return "\n".join(
        (
            f"# Agent for *{card.pipeline}*",
            "",
            f"Adjusts the demand that the allocator plans for, in {card.environment}. MaskablePPO on the fluid twin "
            f"with the quick allocator table, {card.steps} decisions; {card.note}.",
            "",
            f"- On validation windows it {verdict} {card.gain:.4f} of cost J against `exact`; {_foresight(card)}.",
            f"- It loses {100 * card.violations:.2f} % of the requests there; the base loses "
            f"{100 * (card.violations - card.excess):.2f} %.",
            f"- Drawn in training: {card.ranges}.",
            "- Trained and validated in the fluid twin. Policy `exact` decides where an observation lies outside of",
            "  the training range and where counts are stale.",
            "",
        )
    )
