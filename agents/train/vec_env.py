"""The native batch of fluid clusters behind stable-baselines3's vector interface. Owns that translation alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from loki_rl.agents.train.privileged_critic import Foresight, critic_space
from loki_rl.control.learned.observation import ACTIONS
from loki_rl.env.fluid.batch import Batch, Pool


class ClusterVecEnv(VecEnv):
    """Batch of clusters on the windows of a pool; a finished cluster begins its next window in the same step.

    rewards: bounds of one. price: what a request lost more than the base loses costs beyond its share of cost J.
    """

    def __init__(self, pool: Pool, number: int, rewards: tuple[float, float], seed: int = 0) -> None:
        self.render_mode = None  # the parent asks for it
        self.num_envs = number
        super().__init__(number, critic_space(), Discrete(ACTIONS))
        self.pool, self.bounds = pool, rewards
        self.batch = Batch(pool, number)
        self.foresight = Foresight(pool)
        self.rng = np.random.default_rng(seed)
        self.returns = np.zeros(number)
        self.price = 0.0
        self._actions: NDArray[np.int64] = np.zeros(number, np.int64)

    def reset(self) -> NDArray[np.float32]:
        self._begin(np.arange(self.num_envs))
        return self._seen()

    def _begin(self, which: NDArray[np.int64]) -> None:
        windows = self.rng.integers(self.pool.size, size=len(which))
        self.pool.ensure(windows)
        self.foresight.ensure(windows)
        self.batch.start(which, windows)
        self.returns[which] = 0.0

    def step_async(self, actions: NDArray[np.int64]) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        self.batch.step(self._actions)
        self.returns += self.batch.rewards
        more = self.batch.lost - self.pool.base_lost[self.batch.window, self.batch.k - 1]
        rewards = (self.batch.rewards - self.price * more).clip(*self.bounds).astype(np.float32)
        done = self.batch.done
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        over = np.flatnonzero(done)
        last = self._seen() if len(over) else self.batch.observations
        for number in over:
            infos[number] = {
                "terminal_observation": last[number],
                "TimeLimit.truncated": True,
                "episode": {"r": float(self.returns[number]), "l": self.pool.options.intervals, "t": 0.0},
            }
        if len(over):
            self._begin(over)
        return self._seen(), rewards, done, infos

    def _seen(self) -> NDArray[np.float32]:
        coming = self.foresight.features[self.batch.window, self.batch.k]
        return np.concatenate((self.batch.observations, coming), axis=1)

    def close(self) -> None:
        """Nothing is open."""

    def action_masks(self) -> NDArray[np.bool_]:
        return self.batch.masks.astype(np.bool_)

    # -- what sb3 asks of each environment --------------------------------------------------------------------------------

    def has_attr(self, attr_name: str) -> bool:
        return attr_name == "action_masks"

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:  # noqa: ARG002
        assert method_name == "action_masks"
        return list(self.action_masks())

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:  # noqa: ARG002
        return [getattr(self, attr_name)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError("clusters of a batch have no attributes of their own")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:  # noqa: ARG002
        return [False] * self.num_envs

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        return [None] * self.num_envs
