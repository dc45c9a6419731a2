"""From a trained model to files that need no torch: .npz for this package, .onnx for others."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct
from msgspec.structs import asdict
from numpy.typing import NDArray

from loki_rl.agents.evaluate.rollouts import play
from loki_rl.agents.train.fine_tuning import TrainOptions
from loki_rl.agents.train.teacher import TeachOptions
from loki_rl.agents.train.validation import Score
from loki_rl.control.demand.tanh_network import Layers, named
from loki_rl.control.learned.agent import ILLEGAL, MASK_RULE, METADATA, Card, NumpyAgent, card_text
from loki_rl.control.learned.observation import ACTIONS, MULTIPLIERS, OBSERVATION, ODDS
from loki_rl.env.fluid.batch import Pool
from loki_rl.env.gym.cluster_options import ONE_TASK, ClusterEnvOptions, pool_for, ranges_of
from loki_rl.env.gym.spaces import NAMES

OPSET, IR = 18, 10  # what onnxruntime has read since 1.20
SAMPLE = 32
# Flags of what is played, as the environment calls them.
PLAYED = (
    "servers", "trace", "from_s", "to_s", "compress", "mean_rps", "rate_scale", "load_s", "interval_s", "intervals",
    "calibration",
)  # fmt: skip


class Trained(Struct, frozen=True, eq=False):
    """What a training has kept. learner: learned or ppo; teach: what was played; options: all of the training; weights,
    biases, margin: as in `preferences`; verdict: the score in words, beside what it is compared with."""

    learner: str
    teach: TeachOptions
    options: TeachOptions | TrainOptions
    weights: Layers
    biases: Layers
    margin: float
    score: Score
    verdict: str


def export(trained: Trained, folder: Path) -> NumpyAgent:
    """Write agent.npz, agent.onnx and card.md; returns the torch-free agent."""
    agent = NumpyAgent(trained.weights, trained.biases, make_card(trained))
    agent.save(folder / "agent.npz")
    write_onnx(agent, folder / "agent.onnx")
    (folder / "card.md").write_text(model_card(agent.card, trained.verdict), encoding="utf-8")
    return agent


def make_card(trained: Trained) -> Card:
    """What the files say about themselves; ranges of the observation come from training windows."""
    env, score, pools = trained.teach.env, trained.score, [pool_for(world) for world in trained.teach.worlds]
    seen = [observed(pool, min(SAMPLE, pool.size)) for pool in pools]
    return Card(
        environment="LokiRL/OneTask-v1" if env.pipeline == ONE_TASK else "LokiRL/Cluster-v1",
        learner=trained.learner,
        pipelines=tuple(pool.table.fleet.pipeline.name for pool in pools),
        interval_s=env.interval_s,
        features=NAMES,
        multipliers=tuple(MULTIPLIERS.tolist()),
        odds=tuple(ODDS.tolist()),
        mask_rule=MASK_RULE,
        margin=trained.margin,
        low=tuple(np.min([low for low, _ in seen], axis=0).tolist()),
        high=tuple(np.max([high for _, high in seen], axis=0).tolist()),
        ranges=asdict(ranges_of(env)),
        training=msgspec.to_builtins(trained.options),
        gain=score.gain,
        gap=score.gap,
        excess=score.excess,
        violations=score.violations,
        note=f"made by: {command(trained)}",
    )


def command(trained: Trained) -> str:
    """The command line of a training; flags that it leaves out stood at their defaults."""
    teach, env = trained.teach, trained.teach.env
    asked = {
        "learner": trained.learner, "states": teach.states, "rounds": teach.rounds, "seed": teach.seed,
        "windows": env.windows, "validation": teach.validation,
        **({"steps": trained.options.steps} if isinstance(trained.options, TrainOptions) else {}),
        **{name: getattr(env, name) for name in PLAYED if getattr(env, name) != getattr(ClusterEnvOptions(), name)},
    }  # fmt: skip
    words = [f"--{name.replace('_', '-')} {value}" for name, value in asked.items()]
    words += [f"--also {name}" for name in teach.pipelines]
    return " ".join(["loki-rl train", env.pipeline, *words, *([] if env.randomise else ["--no-randomise"])])


def observed(pool: Pool, windows: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Least and greatest observation over some windows, under actions drawn at random from the legal ones."""
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
    """The same layers as a graph: observation and mask in, logits (of `preferences`) and action out."""
    import onnx

    helper, kinds = onnx.helper, onnx.TensorProto
    arrays = named(agent.weights, agent.biases) | {
        "illegal": np.array(ILLEGAL, np.float32), "margin": np.array(agent.card.margin, np.float32),
        "shape": np.array([-1, agent.weights[-1].shape[1] // ACTIONS, ACTIONS], np.int64),
        "members": np.array([1], np.int64),
    }  # fmt: skip
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
    nodes += [
        helper.make_node("Reshape", [seen, "shape"], ["each"]),
        helper.make_node("ReduceMean", ["each", "members"], ["mean"]),
        helper.make_node("Sub", ["each", "mean"], ["off"]),
        helper.make_node("Mul", ["off", "off"], ["square"]),
        helper.make_node("ReduceMean", ["square", "members"], ["variance"], keepdims=0),
        helper.make_node("Sqrt", ["variance"], ["spread"]),
        helper.make_node("Mul", ["spread", "margin"], ["doubt"]),
        helper.make_node("ReduceMean", ["each", "members"], ["level"], keepdims=0),
        helper.make_node("Sub", ["level", "doubt"], ["preferred"]),
        helper.make_node("Where", ["mask", "preferred", "illegal"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["action"], axis=1, keepdims=0),
    ]
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


HOW = {
    "learned": "Hindsight regression with policy iteration: what every action would have cost on the same future.",
    "ppo": "MaskablePPO that began as the first member of the hindsight-trained ensemble.",
}


def model_card(card: Card, verdict: str) -> str:
    """The card as text for people."""
    return "\n".join(
        (
            f"# Agent for *{', '.join(card.pipelines)}*",
            "",
            f"Adjusts the room that policy `exact` keeps beyond the demand it expects, in {card.environment}. "
            f"{HOW[card.learner]} {card.note[0].upper()}{card.note[1:]}.",
            "",
            f"- On validation windows {verdict}.",
            f"- That is {100 * card.gap:.0f} % of what `clairvoyant` saves there.",
            f"- Drawn in training: {card.ranges}.",
            "- Trained and validated in the fluid twin. Policy `exact` decides where an observation lies outside of the",
            "  training range and where counts are stale.",
            "",
        )
    )
