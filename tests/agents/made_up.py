"""Examples with savings that are known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from loki_rl.agents.evaluate.counterfactuals import Examples
from loki_rl.control.learned.observation import ACTIONS, NO_ADJUSTMENT, OBSERVATION


def planted(saved: NDArray[np.floating], observations: NDArray[np.floating], share: float, seed: int = 0) -> Examples:
    """saved [n, ACTIONS], of which each is known with a chance of `share`, from windows of ten states each."""
    rng = np.random.default_rng(seed)
    known = np.where(rng.random(saved.shape) < share, saved, np.nan).astype(np.float32)
    known[:, NO_ADJUSTMENT] = 0.0
    legal = np.ones(saved.shape, np.bool_)
    window, k = np.divmod(np.arange(len(saved)), 10)
    return Examples(observations.astype(np.float32), legal, known, window, k)


def drawn(states: int, seed: int = 0) -> NDArray[np.floating]:
    return np.random.default_rng(seed).uniform(-1, 1, (states, OBSERVATION))


def nothing(states: int) -> NDArray[np.floating]:
    """Every action but one costs as much as it may."""
    saved = np.full((states, ACTIONS), -1.0)
    saved[:, NO_ADJUSTMENT] = 0.0
    return saved
