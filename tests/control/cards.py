"""Agents made up for a test: what they say of themselves, and a network that always wants the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from loki_rl.control.learned.agent import MASK_RULE, Card, NumpyAgent
from loki_rl.control.learned.observation import ACTIONS, MULTIPLIERS, NO_ADJUSTMENT, OBSERVATION, ODDS


def made_up(pipeline: str, low: float = -9.0, high: float = 9.0, interval_s: float = 1.0) -> Card:
    return Card(
        environment="LokiRL/Cluster-v1", learner="learned", pipelines=(pipeline,), interval_s=interval_s,
        features=tuple(f"f{i}" for i in range(OBSERVATION)), multipliers=tuple(MULTIPLIERS.tolist()),
        odds=tuple(ODDS.tolist()), mask_rule=MASK_RULE, margin=0.0, low=(low,) * OBSERVATION, high=(high,) * OBSERVATION,
        ranges={}, gain=0.0, gap=0.0, violations=0.0, excess=0.0, training={}, note="made up",
    )  # fmt: skip


def always(action: int, card: Card) -> NumpyAgent:
    """A network of one layer."""
    bias = np.zeros(ACTIONS, np.float32)
    bias[action] = 5.0
    return NumpyAgent((np.zeros((OBSERVATION, ACTIONS), np.float32),), (bias,), card)


def agent_file(folder: Path, pipeline: str, action: int = NO_ADJUSTMENT, interval_s: float = 1.0) -> str:
    """Its file."""
    file = folder / "agent.npz"
    always(action, made_up(pipeline, interval_s=interval_s)).save(file)
    return str(file)
