"""What the critic sees beside the observation while it is trained: the demand to come and what the base will pay for it.
Bursts that nobody can foresee are then no noise to it (input-dependent baselines, Mao et al., ICLR 2019), and the gradient
stays unbiased, since no action changes them. Owns these features and the network that keeps them from the actor."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Space
from numpy.typing import NDArray
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.torch_layers import MlpExtractor

from loki_rl.control.learned.observation import OBSERVATION
from loki_rl.env.fluid.batch import Pool
from loki_rl.env.gym.spaces import observation_space

AHEAD = 4  # intervals; what an action does is over by then
PER_INTERVAL = 4
FORESIGHT = AHEAD * PER_INTERVAL
COST_SCALE, LOST_SCALE = 5.0, 10.0
MOST = 4.0


def critic_space() -> Space[NDArray[np.float32]]:
    """The observation, then the foresight."""
    box = observation_space()
    assert isinstance(box, Box)
    bound = np.full(FORESIGHT, MOST, np.float32)
    return Box(np.concatenate((box.low, -bound)), np.concatenate((box.high, bound)), dtype=np.float32)


class Foresight:
    """Features [W, K + 2, FORESIGHT] of the windows of a pool, made when first asked for: of each of the coming intervals
    the log ratios of mean and of busiest second to the expected demand, and what the base pays and loses in it."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        steps = pool.options.steps
        self.features = np.zeros((pool.size, steps + 1, FORESIGHT), np.float32)
        self.made = np.zeros(pool.size, np.bool_)

    def ensure(self, numbers: NDArray[np.int64]) -> None:
        """Make those that are not there yet; the windows and their base's costs must be."""
        new = np.unique(numbers[~self.made[numbers]])
        if len(new):
            self.features[new], self.made[new] = self._make(new), True

    def _make(self, new: NDArray[np.int64]) -> NDArray[np.float32]:
        pool, options = self.pool, self.pool.options
        per_second = round(1 / options.tick_s)
        seconds = pool.windows.arrays.ticks[new].reshape(len(new), -1, per_second).sum(axis=2)
        rates = seconds.reshape(len(new), options.steps, -1)
        coming = np.minimum(np.arange(options.steps + 1)[:, None] + np.arange(AHEAD), options.steps - 1)
        target = pool.windows.arrays.expected[new][:, :, None]
        parts = [
            np.log(np.maximum(rates.mean(axis=2), 0.5)[:, coming] / target),
            np.log(np.maximum(rates.max(axis=2), 0.5)[:, coming] / target),
            COST_SCALE * pool.base_cost[new][:, coming],
            LOST_SCALE * pool.base_lost[new][:, coming],
        ]
        found: NDArray[np.float32] = np.concatenate(parts, axis=2).clip(-MOST, MOST).astype(np.float32)
        return found


class Blinkered(MlpExtractor):
    """The actor's layers read the observation alone, the critic's all."""

    def __init__(self, feature_dim: int, net_arch: list[int], activation_fn: Any, device: Any) -> None:
        super().__init__(feature_dim, net_arch, activation_fn, device)
        self.policy_net[0] = torch.nn.Linear(OBSERVATION, net_arch[0]).to(device)

    def forward_actor(self, features: torch.Tensor) -> torch.Tensor:
        return super().forward_actor(features[:, :OBSERVATION])


class ForesightPolicy(MaskableActorCriticPolicy):
    """Actor and critic of MaskablePPO with a critic that sees what will come."""

    def _build_mlp_extractor(self) -> None:
        assert isinstance(self.net_arch, list)
        self.mlp_extractor = Blinkered(self.features_dim, self.net_arch, self.activation_fn, self.device)
