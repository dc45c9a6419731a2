"""The cluster as a gymnasium environment. Owns the documented contract of observations, actions, reward and options; the
dynamics are the fluid twin's or the event twin's."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Discrete, Space
from numpy.typing import NDArray

from loki_rl.control.demand.capacity_target import Demand
from loki_rl.control.fast.model_arrays import Floats
from loki_rl.control.learned.observation import ACTIONS, adjusted, fill_mask, observation
from loki_rl.env.fluid.batch import Batch
from loki_rl.env.fluid.dynamics import FIGURES
from loki_rl.env.gym.cluster_options import ONE_TASK, SPLITS, ClusterEnvOptions, OptionError, pool_for
from loki_rl.env.gym.event_cluster import EventCluster
from loki_rl.env.gym.render import Frame, ansi, picture
from loki_rl.env.gym.spaces import observation_space, single_info

Observation = NDArray[np.float32]


class ClusterEnv(gym.Env[Observation, np.int64]):
    """Adjust what a serving cluster is planned for, every control interval.

    **Description.** Requests with a deadline arrive at a cluster that serves a pipeline of models. Every `interval_s` a
    forecaster says how much demand to expect, and a switch-aware allocator makes a plan for it. The agent adjusts the two
    numbers that the allocator is given. Swapping a model costs its load time without service.

    **Actions.** Discrete(20): action a multiplies the demand for capacity by (.7, .8, .9, 1, 1.1, 1.2, 1.3, 1.45, 1.6,
    1.8)[a % 10] and the intervals that the plan should last by (1, 8)[a // 10]. Action 3 is "no adjustment" and always
    legal. `action_masks()` and `info["action_mask"]` give the legal ones: targets below the last two seconds' rate, and
    repeats beyond the cluster's largest demand, are not.

    **Observations.** Box of float32, `loki_rl.env.gym.spaces.NAMES` in order: log ratios of 14 bins of recent demand (1 to
    10 s wide, newest first) to its smoothed level; noise; log of the level over what the cluster serves most accurately; log
    ratios of the forecast mean and of the quantiles .5 to .98 of the busiest three seconds; recent error of the forecaster;
    log capacity, ready and as planned, over the base's target; share of servers loading; longest remaining load, load time
    (in 20 s); backlog [s]; share of servers used; last multiplier - 1; last patience; servers over nominal; age of the
    counts (in 2 s); log of the largest demand over the target.

    **Reward.** Cost of the non-learning base (the same estimate without adjustment) in this interval of the same window,
    minus the cost of the cluster: 0 is the base, more is better. Cost = (5 requests lost + sum over the others of 1 -
    accuracy / best) / mean arrivals per interval + 0.1 servers used / servers.

    **Start and end.** An episode is a window of demand chosen by the seed; the base's first plan is warm, and its first
    interval is over. It is truncated after `intervals` decisions; nothing terminates it.

    **Options** (keywords): those of `loki_rl.env.gym.cluster_options.ClusterEnvOptions`. `reset(options={"window": n})`
    chooses the window. With fidelity `event` the core's own actors play and the exact allocator plans (slower by far), and
    at reset the base plays the window once; with `reset(options={"paired": False})` it does not, and the reward is minus the
    cost.

    **Version history.** v0: first.
    """

    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}  # noqa: RUF012  (gymnasium's own name)

    def __init__(self, render_mode: str | None = None, **options: Any) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise OptionError(f"render_mode must be one of {self.metadata['render_modes']}, not '{render_mode}'")
        self.render_mode = render_mode
        self.options = ClusterEnvOptions(**options)
        self.pool = pool_for(self.options)
        self.observation_space: Space[Observation] = observation_space()
        self.action_space = Discrete(ACTIONS)
        self.frames: list[Frame] = []
        self._batch = Batch(self.pool, 1, self.options.deep) if self.options.fidelity == "fluid" else None
        self._event: EventCluster | None = None
        self._number = 0
        self._k = 0
        self._last = -1
        self._base_costs: list[float] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        chosen = None if options is None else options.get("window")
        self._number = int(self.np_random.integers(self.pool.size)) if chosen is None else int(chosen)
        self.pool.ensure(np.array([self._number]))
        self._k, self._last, self.frames = 1, -1, []
        if self._batch is not None:
            self._batch.start(np.array([0]), np.array([self._number]))
        else:
            paired = options is None or options.get("paired", True)
            self._base_costs = self._base_plays() if paired else [0.0] * (self.options.intervals + 1)
            self._event = self._begin_event()
        self._draw()
        return self._observation(), self._info()

    def step(self, action: np.int64 | int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        if self._batch is not None:
            self._batch.step(np.array((action,)))
            reward = self._batch.rewards.item(0)
        else:
            reward = self._base_costs[self._k] - self._decide(int(action))
        self._k, self._last = self._k + 1, int(action)
        self._draw()
        return self._observation(), reward, False, self._k > self.options.intervals, self._info()

    def action_masks(self) -> NDArray[np.bool_]:
        """[20] legal actions."""
        return self._mask().astype(np.bool_)

    def _mask(self) -> NDArray[np.int8]:
        """A copy of the legal actions."""
        if self._batch is not None:
            known: NDArray[np.int8] = self._batch.masks[0].copy()
            return known
        mask = np.zeros(ACTIONS, np.int8)
        windows = self.pool.windows.arrays
        high, floor = windows.high[self._number, self._k] * self.options.scale, windows.floor[self._number, self._k]
        share = float(self.pool.windows.servers[self._number]) / self.pool.table.servers
        fill_mask(mask, float(high), float(floor), self.pool.table.most_rps * share)
        return mask

    def render(self) -> str | NDArray[np.uint8] | None:
        """The episode so far, as text or as a picture."""
        if self.render_mode == "ansi":
            return ansi(self.frames, self.pool.table.servers)
        return picture(self.frames, self.pool.table.servers) if self.render_mode == "rgb_array" else None

    # -- what happened --------------------------------------------------------------------------------------------------

    @property
    def figures(self) -> Floats:
        """[FIGURES] of the last interval (env.fluid)."""
        if self._batch is not None:
            found: Floats = self._batch.figures[0]
            return found
        return np.zeros(FIGURES) if self._event is None else self._event.figures

    def _draw(self) -> None:
        if self.render_mode is not None:
            high = float(self.pool.windows.arrays.high[self._number, self._k - 1]) * self.options.scale
            target, _ = adjusted(self._last, high, 1.0, 1.0)
            self.frames.append(Frame(self.figures.copy(), target, self.options.interval_s))

    def _info(self) -> dict[str, Any]:
        seed = SPLITS[self.options.split] + self._number
        return {"action_mask": self._mask(), "window_seed": seed, **single_info(self.figures)}

    def _observation(self) -> Observation:
        if self._batch is not None:
            known: Observation = self._batch.observations[0].copy()
            return known
        assert self._event is not None
        window, pool = self._event.window, self.pool.windows.arrays
        high = float(pool.high[self._number, self._k]) * self.options.scale
        return observation(
            self.pool.table, self._event.snapshot, pool.exogenous[self._number, self._k], high, self._last, window.servers,
            float(window.load_s.max()), float(window.lag_s),
        )  # fmt: skip

    # -- fidelity event -------------------------------------------------------------------------------------------------

    def _begin_event(self) -> EventCluster:
        cluster = EventCluster(
            self.pool.table,
            self.pool.windows.window(self._number),
            self.options.interval_s,
            self._number,
            self.options.solver,
        )
        cluster.decide(*self._target(-1, 0))
        return cluster

    def _target(self, action: int, k: int) -> tuple[Demand, float]:
        windows = self.pool.windows.arrays
        high, mean, chance = (float(known[self._number, k]) for known in (windows.high, windows.mean, windows.chance))
        demand, patience = adjusted(action, high, self.options.scale, self.options.patience)
        return Demand(mean, demand, chance), patience

    def _decide(self, action: int) -> float:
        assert self._event is not None
        self._event.decide(*self._target(action, self._k))
        return self._event.cost()

    def _base_plays(self) -> list[float]:
        """What the base costs in each interval of this window."""
        self._event = self._begin_event()
        costs = [self._event.cost()]
        for k in range(1, self.options.intervals + 1):
            self._event.decide(*self._target(-1, k))
            costs.append(self._event.cost())
        return costs


class OneTaskEnv(ClusterEnv):
    """ClusterEnv on a pipeline of one task with five variants (`cluster_options.one_task`): small enough to study.

    **Version history.** v0: first.
    """

    def __init__(self, render_mode: str | None = None, **options: Any) -> None:
        super().__init__(render_mode, **{"pipeline": ONE_TASK, **options})
