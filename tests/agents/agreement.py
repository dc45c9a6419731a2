"""Whether the forms of an agent choose alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loki_rl.control.learned.agent import Agent, act
from loki_rl.control.learned.observation import ACTIONS, NO_ADJUSTMENT, OBSERVATION

Choose = Callable[[NDArray[np.float32], NDArray[np.bool_]], int]


def pairs(number: int, seed: int = 0) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
    """Random observations and masks."""
    rng = np.random.default_rng(seed)
    for _ in range(number):
        mask = rng.random(ACTIONS) < 0.6
        mask[NO_ADJUSTMENT] = True
        yield rng.uniform(-2, 2, OBSERVATION).astype(np.float32), mask


def agreement(agent: Agent, other: Choose, number: int) -> float:
    """Share of random pairs on which both choose the same action."""
    return float(np.mean([act(agent, *pair) == other(*pair) for pair in pairs(number)]))


def of_model(model: Any) -> Choose:
    """What a model of stable-baselines3 chooses."""
    return lambda seen, mask: int(model.predict(seen, action_masks=mask, deterministic=True)[0])
