"""Whether the forms of an agent choose alike."""

from __future__ import annotations

from typing import Any

import numpy as np

from loki_rl.agents.train.privileged_critic import FORESIGHT
from loki_rl.control.learned.agent import Agent, act
from loki_rl.control.learned.observation import ACTIONS, NO_ADJUSTMENT, OBSERVATION


def agreement(agent: Agent, model: Any, pairs: int, seed: int = 0) -> float:
    """Share of random (observation, mask) pairs on which an agent and the sb3 model choose the same action."""
    rng = np.random.default_rng(seed)
    observations = rng.uniform(-2, 2, (pairs, OBSERVATION)).astype(np.float32)
    masks = rng.random((pairs, ACTIONS)) < 0.6
    masks[:, NO_ADJUSTMENT] = True
    unseen = np.zeros((pairs, FORESIGHT), np.float32)
    expected, _ = model.predict(np.concatenate((observations, unseen), axis=1), action_masks=masks, deterministic=True)
    same = sum(act(agent, o, m) == e for o, m, e in zip(observations, masks, expected, strict=True))
    return float(same) / pairs
