"""Many fluid clusters behind gymnasium's vector interface; spaces, reward and options are documented at ClusterEnv."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from loki_rl.control.learned.observation import ACTIONS, NO_ADJUSTMENT
from loki_rl.env.fluid.batch import Batch
from loki_rl.env.gym.cluster_options import ONE_TASK, ClusterEnvOptions, OptionError, chosen_windows, pool_for
from loki_rl.env.gym.spaces import flat_info, known_actions, observation_space

Observations = NDArray[np.float32]
Array = NDArray[Any]


class ClusterVectorEnv(VectorEnv[Observations, NDArray[np.int64], Array]):
    """`num_envs` clusters, each as ClusterEnv with the same options; the same seed plays the same episode.

    Autoreset mode NEXT_STEP: the step after the last one of an episode ignores its action and returns the first observation
    of the next. A seed (one, or one per cluster) chooses windows; clusters without one choose at random. Raises as
    ClusterEnv does, but that an episode which is over needs no reset.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012  (gymnasium's own name)

    def __init__(self, num_envs: int = 1, **options: Any) -> None:
        options.pop("render_mode", None)
        self.options = ClusterEnvOptions(**options)
        if self.options.fidelity != "fluid":
            raise OptionError("a vector environment has fidelity fluid; make single environments for fidelity event")
        self.num_envs = num_envs
        self.pool = pool_for(self.options)
        self.batch = Batch(self.pool, num_envs, self.options.deep)
        self.single_observation_space = observation_space()
        self.single_action_space = Discrete(ACTIONS)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._generators = [np.random.default_rng() for _ in range(num_envs)]
        self._begun, self._over = False, np.zeros(num_envs, np.bool_)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Begin an episode in every cluster. options: {"window": number or numbers} chooses the windows."""
        seeds = [None] * self.num_envs if seed is None else self._seeds(seed)
        for number, one in enumerate(seeds):
            if one is not None:
                self._generators[number] = np.random.default_rng(one)
        everyone = np.arange(self.num_envs)
        chosen = None if options is None else options.get("window")
        self._begin(everyone, None if chosen is None else chosen_windows(chosen, self.num_envs, self.pool))
        self._begun = True
        return self.batch.observations.copy(), self._info()

    def _seeds(self, seed: int | Sequence[int | None]) -> Sequence[int | None]:
        return [seed + number for number in range(self.num_envs)] if isinstance(seed, int) else seed

    def _begin(self, which: NDArray[np.int64], windows: NDArray[np.int64] | None = None) -> None:
        if windows is None:
            windows = np.array([self._generators[e].integers(self.pool.size) for e in which], np.int64)
        self.pool.ensure(windows)
        self.batch.start(which, windows)
        self._over[which] = False

    def step(self, actions: NDArray[np.int64]) -> tuple[Observations, Array, Array, Array, dict[str, Any]]:
        """Play one control interval in every cluster. actions: [num_envs]. Observations [num_envs, len(NAMES)]; rewards,
        terminated (never) and truncated, [num_envs] each; infos. Raises ResetNeeded before the first reset, and
        InvalidAction for actions outside of the space."""
        if not self._begun:
            raise ResetNeeded("no episode has begun; call reset before the first step")
        fresh, moved = np.flatnonzero(self._over), known_actions(actions, self.num_envs)
        if len(fresh):
            # They do not move now: their new episode begins with the observation that is returned.
            kept = ~self._over
            self._step_some(moved, kept)
            self._begin(fresh)
        else:
            self.batch.step(moved)
        rewards = self.batch.rewards.copy()
        rewards[fresh] = 0.0
        self._over = self.batch.done
        return self.batch.observations.copy(), rewards, np.zeros(self.num_envs, np.bool_), self._over.copy(), self._info()

    def _step_some(self, actions: NDArray[np.int64], kept: NDArray[np.bool_]) -> None:
        """A step of those that are inside an episode; the others wait at its start."""
        over = np.flatnonzero(~kept)
        self.batch.k[over] = 1
        self.batch.step(np.where(kept, actions, NO_ADJUSTMENT))

    def action_masks(self) -> NDArray[np.bool_]:
        """[num_envs, actions] legal actions (the name that sb3-contrib looks for)."""
        return self.batch.masks.astype(np.bool_)

    def _info(self) -> dict[str, Any]:
        return {"action_mask": self.batch.masks.copy(), **flat_info(self.batch.figures)}


class OneTaskVectorEnv(ClusterVectorEnv):
    """`num_envs` clusters as OneTaskEnv."""

    def __init__(self, num_envs: int = 1, **options: Any) -> None:
        super().__init__(num_envs, **{"pipeline": ONE_TASK, **options})
