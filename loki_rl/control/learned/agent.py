"""A trained agent at work: from observation and mask to one action, without torch; its file and its card."""

from __future__ import annotations

from math import isclose
from os.path import isfile
from pathlib import Path
from threading import Timer
from typing import Any, Protocol
from zipfile import ZipFile

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loki_rl.control.demand.tanh_network import Layers, forward, layers_in, named
from loki_rl.control.formulation.request import RequestError
from loki_rl.control.learned.observation import ACTIONS, MULTIPLIERS, OBSERVATION, ODDS
from loki_rl.decoding import UNREADABLE

MASK_RULE = 2
ILLEGAL = -1e8
# The policy of agents that hindsight has taught, and of rules.
LEARNED = "learned"
# An agent is not believed this far outside of what it saw in training (in units of the feature's range), nor before it has
# sat out so many decisions after.
OUTSIDE = 0.25
SIT_OUT = 3
METADATA = "loki_rl"
# Of a file, packed or not: a thousand times what a shipped one has.
MAX_BYTES = 64 << 20
# Longest that a network may take for one observation when it is loaded [s].
TRIAL_S = 2.0


class Card(Struct, frozen=True, kw_only=True):
    """What an agent was made for and how good it was there.

    environment: gymnasium id. learner: learned or ppo. pipelines: their names. interval_s: time between the plans that it
    was trained to adjust [s]. multipliers, odds: the action table. mask_rule: version of the mask. margin: how sure an
    ensemble must be (`preferences`). low, high: least and greatest observation in training. ranges: what training drew.
    gain, gap: saved cost J against the base on validation, and as a share of what clairvoyance would save; violations,
    excess: share of requests lost there, and what of it the base does not lose. training: every option of it. note: the
    command that repeats it."""

    environment: str
    learner: str
    pipelines: tuple[str, ...]
    interval_s: float
    features: tuple[str, ...]
    multipliers: tuple[float, ...]
    odds: tuple[float, ...]
    mask_rule: int
    margin: float
    low: tuple[float, ...]
    high: tuple[float, ...]
    ranges: dict[str, Any]
    gain: float
    gap: float
    violations: float
    excess: float
    training: dict[str, Any]
    note: str


def open_card(pipeline: str, interval_s: float) -> Card:
    """Of a rule that was not trained, so that no observation lies outside of what it knows."""
    far = 1e9
    return Card(
        environment="LokiRL/Cluster-v1", learner=LEARNED, pipelines=(pipeline,), interval_s=interval_s,
        features=("",) * OBSERVATION, multipliers=tuple(MULTIPLIERS.tolist()),
        odds=tuple(ODDS.tolist()), mask_rule=MASK_RULE, margin=0.0,
        low=(-far,) * OBSERVATION, high=(far,) * OBSERVATION, ranges={}, gain=0.0, gap=0.0, violations=0.0, excess=0.0,
        training={}, note="a rule",
    )  # fmt: skip


def check_use(card: Card, pipeline: str, interval_s: float) -> None:
    """Raises RequestError if an agent is to work for another pipeline, or at another interval [s], than it was trained for:
    what it observes would mean something else."""
    if pipeline not in card.pipelines:
        known = "', '".join(card.pipelines)
        raise RequestError(
            f"the agent was trained for pipeline '{known}', not '{pipeline}'; train one for that with 'loki-rl train', or "
            "take policy exact"
        )
    if not isclose(card.interval_s, interval_s):
        raise RequestError(
            f"the agent was trained for a plan every {card.interval_s:g} s, not every {interval_s:g} s; take --interval-s "
            f"{card.interval_s:g}, train one for that with 'loki-rl train', or take policy exact"
        )


def outside(card: Card, observations: NDArray[np.float32]) -> NDArray[np.bool_]:
    """[..., OBSERVATION] whether each feature lies outside of what the agent saw in training."""
    low, high = np.array(card.low), np.array(card.high)
    margin = OUTSIDE * np.maximum(high - low, 0.1)
    found: NDArray[np.bool_] = (observations < low - margin) | (observations > high + margin)
    return found


class Agent(Protocol):
    """Logits of all actions for one observation."""

    @property
    def card(self) -> Card: ...

    def logits(self, observation: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]: ...


def act(agent: Agent, observation: NDArray[np.float32], mask: NDArray[np.bool_]) -> int:
    """The most likely legal action: deterministic, no exploration."""
    return int(np.argmax(np.where(mask, agent.logits(observation, mask), ILLEGAL)))


def preferences(weights: Layers, biases: Layers, margin: float, observations: NDArray[np.float32]) -> NDArray[np.float32]:
    """[..., ACTIONS] for observations [..., OBSERVATION]: the mean of what the members of an ensemble say, whose outputs lie
    side by side, less `margin` times their spread. A network alone is an ensemble of one."""
    said = forward(weights, biases, observations)
    each = said.reshape(*said.shape[:-1], -1, ACTIONS)
    found: NDArray[np.float32] = each.mean(axis=-2) - margin * each.std(axis=-2)
    return found


class NumpyAgent(Struct, frozen=True, eq=False):
    """Layers of a tanh network, the last one linear."""

    weights: Layers
    biases: Layers
    card: Card

    def logits(self, observation: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:  # noqa: ARG002
        return preferences(self.weights, self.biases, self.card.margin, observation)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        card = np.array(card_text(self.card))
        np.savez_compressed(path, **named(self.weights, self.biases), card=card)  # type: ignore[arg-type]


class OnnxAgent:
    """The same network in onnxruntime, from the interchange file."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.card = read_card(self.session.get_modelmeta().custom_metadata_map.get(METADATA, ""), path)
        self._try_out(onnxruntime.RunOptions())

    def _try_out(self, options: Any) -> None:
        """Ours takes microseconds; a file may hold a network that never ends."""
        watch = Timer(TRIAL_S, setattr, (options, "terminate", True))
        watch.daemon = True
        watch.start()
        try:
            self.session.run(["logits"], _inputs(np.zeros(OBSERVATION, np.float32), np.ones(ACTIONS, np.bool_)), options)
        finally:
            watch.cancel()

    def logits(self, observation: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self.session.run(["logits"], _inputs(observation, mask))[0][0]
        return found


def _inputs(observation: NDArray[np.float32], mask: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    return {"observation": observation[None], "mask": mask[None]}


def card_text(card: Card) -> str:
    return msgspec.json.encode(card).decode()


def read_card(text: str, path: Path) -> Card:
    """Raises RequestError if the file does not say what it is, or is for another environment or action table."""
    try:
        card = msgspec.json.decode(text, type=Card)
    except (*UNREADABLE, KeyError, TypeError, ValueError) as error:
        raise RequestError(f"{path} does not say what it was trained for ({error}); export it again") from error
    fits = len(card.features) == OBSERVATION and card.mask_rule == MASK_RULE
    table = (card.multipliers, card.odds) == (tuple(MULTIPLIERS.tolist()), tuple(ODDS.tolist()))
    if not (fits and table and card.environment.startswith("LokiRL/")):
        raise RequestError(f"{path} was trained for {card.environment} with another observation or action table; train anew")
    return card


def load_agent(path: Path) -> Agent:
    """An agent from its .npz or .onnx file. Raises RequestError with one sentence."""
    if not isfile(path):
        raise RequestError(f"there is no model file {path}; train one with 'loki-rl train'")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES >> 20} MB")
        agent = OnnxAgent(path) if path.suffix == ".onnx" else _numpy_agent(path)
        with np.errstate(all="ignore"):
            found = agent.logits(np.zeros(OBSERVATION, np.float32), np.ones(ACTIONS, np.bool_))
        fits = found.shape == (ACTIONS,) and bool(np.isfinite(found).all())
    except RequestError:
        raise
    except Exception as error:
        # What numpy, zipfile, zlib and ONNX Runtime raise for a damaged file is no list that ends.
        raise RequestError(f"{path} cannot be read as an agent: {str(error) or type(error).__name__}") from error
    if not fits:
        raise RequestError(f"{path} holds a network of another shape; train anew")
    return agent


def _numpy_agent(path: Path) -> NumpyAgent:
    with ZipFile(path) as packed:
        if sum(part.file_size for part in packed.infolist()) > MAX_BYTES:
            raise ValueError(f"it unpacks to more than {MAX_BYTES >> 20} MB")
    with np.load(path, allow_pickle=False) as file:
        weights, biases = layers_in(file, np.float32)
        return NumpyAgent(weights, biases, read_card(str(file["card"]), path))
