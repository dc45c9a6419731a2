"""A trained agent as a controller would use it, for many clusters: wherever it is not believed, the base decides."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from loki_rl.agents.evaluate.rollouts import greedy
from loki_rl.control.learned.agent import SIT_OUT, NumpyAgent, outside
from loki_rl.control.learned.observation import NO_ADJUSTMENT


class GuardedAgent:
    """Decides for rows of observations, always of the same clusters in the same order."""

    def __init__(self, agent: NumpyAgent) -> None:
        self.card = agent.card
        self._choose = greedy(agent.weights, agent.biases, agent.card.margin)
        self._sitting_out: NDArray[np.int64] | None = None

    def __call__(self, observations: NDArray[np.float32], masks: NDArray[np.int8]) -> NDArray[np.int64]:
        if self._sitting_out is None:
            self._sitting_out = np.zeros(len(observations), np.int64)
        doubted = outside(self.card, observations).any(axis=1)
        self._sitting_out = np.where(doubted, SIT_OUT, np.maximum(0, self._sitting_out - 1))
        return np.where(self._sitting_out == 0, self._choose(observations, masks), NO_ADJUSTMENT)
