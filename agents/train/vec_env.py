"""Native batches of fluid clusters behind stable-baselines3's vector interface. Owns that translation alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from loki_rl.control.learned.observation import ACTIONS
from loki_rl.env.fluid.batch import Batch, Pool
from loki_rl.env.gym.spaces import observation_space


class ClusterVecEnv(VecEnv):
    """Batches of clusters on the windows of pools, one a pipeline; a finished cluster begins its next window in the same
    step.

    rewards: bounds of one. price: what a request lost more than the base loses costs beyond its share of cost J [J].
    """

    def __init__(self, pools: Sequence[Pool], number: int, rewards: tuple[float, float], price: float, seed: int) -> None:
        self.render_mode = None  # the parent asks for it
        parts = np.array_split(np.arange(number), len(pools))
        super().__init__(number, observation_space(), Discrete(ACTIONS))
        self.bounds, self.price, self.rng = rewards, price, np.random.default_rng(seed)
        self.batches = [(Batch(pool, len(part)), part) for pool, part in zip(pools, parts, strict=True)]
        self.returns = np.zeros(number)
        self._actions: NDArray[np.int64] = np.zeros(number, np.int64)

    def reset(self) -> NDArray[np.float32]:
        for batch, part in self.batches:
            self._begin(batch, np.arange(len(part)))
        self.returns[:] = 0.0
        return self._all("observations")

    def _begin(self, batch: Batch, which: NDArray[np.int64]) -> None:
        windows = self.rng.integers(batch.pool.size, size=len(which))
        batch.pool.ensure(windows)
        batch.start(which, windows)

    def _all(self, name: str) -> NDArray[Any]:
        return np.concatenate([getattr(batch, name) for batch, _ in self.batches])

    def step_async(self, actions: NDArray[np.int64]) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        rewards, done = np.zeros(self.num_envs, np.float32), np.zeros(self.num_envs, np.bool_)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for batch, part in self.batches:
            batch.step(self._actions[part])
            more = batch.lost - batch.pool.base_lost[batch.window, batch.k - 1]
            rewards[part], done[part] = (batch.rewards - self.price * more).clip(*self.bounds), batch.done
            self.returns[part] += batch.rewards
            for own in np.flatnonzero(batch.done):
                infos[part[own]] = self._end(batch, int(own), int(part[own]))
            if batch.done.any():
                self._begin(batch, np.flatnonzero(batch.done))
        self.returns[done] = 0.0
        return self._all("observations"), rewards, done, infos

    def _end(self, batch: Batch, own: int, number: int) -> dict[str, Any]:
        return {
            "terminal_observation": batch.observations[own].copy(),
            "TimeLimit.truncated": True,
            "episode": {"r": float(self.returns[number]), "l": batch.pool.options.intervals, "t": 0.0},
        }

    def close(self) -> None:
        """Nothing is open."""

    def action_masks(self) -> NDArray[np.bool_]:
        return self._all("masks").astype(np.bool_)

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
