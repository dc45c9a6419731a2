"""The cluster as a gymnasium environment: the contract of observations, actions, reward and options."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Discrete, Space
from numpy.typing import NDArray

from loki_rl.control.fast.model_arrays import Floats
from loki_rl.control.learned.observation import ACTIONS, MULTIPLIERS, NO_ADJUSTMENT
from loki_rl.env.fluid.batch import Batch
from loki_rl.env.gym.cluster_options import ONE_TASK, SPLITS, ClusterEnvOptions, OptionError, chosen_windows, pool_for
from loki_rl.env.gym.event_cluster import EventTwin
from loki_rl.env.gym.render import Frame, ansi, picture
from loki_rl.env.gym.spaces import known_action, observation_space, single_info

Observation = NDArray[np.float32]


class ClusterEnv(gym.Env[Observation, np.int64]):
    """Adjust what a serving cluster is planned for, every control interval.

    **Description.** Requests with a deadline arrive at a cluster that serves a pipeline of models. Every `interval_s` the
    policy `exact` says what demand may come: what is expected, and five slices of the demand with the chance of each. A
    switch-aware allocator makes a plan for them. The agent adjusts the slices above what is expected. Swapping a model costs
    its load time without service.

    **Actions.** Discrete(24): action a multiplies that part of each slice's end which exceeds the expected demand by (0,
    .25, .5, .75, 1, 1.25, 1.5, 2)[a % 8], and the odds that such slices come by (1, .25, 4)[a // 8]. Action 4 adjusts
    nothing and is always legal. `action_masks()` and `info["action_mask"]` give the legal ones: the last slice must not end
    below the last two seconds' rate, as far as the cluster can serve that, and where nothing is left above the expected
    demand there are no odds. Others, taken all the same, are carried out as they stand. Anything outside of the space
    raises InvalidAction.

    **Observations.** Box of float32, `loki_rl.env.gym.spaces.NAMES` in order, free of the scale of demand: log ratios of 14
    bins of recent demand (1 to 10 s wide, newest first) to the expected demand; noise of a second; how long demand has
    been in its regime (in 32 s); log of the expected demand over what the cluster serves most accurately; log ratios of the
    ends of slices to the expected demand; how rare each is (0 sure, 1 one in a thousand); log ratio of the mean; horizon
    that plans should pay over (in minutes); log capacity, ready and as planned, over the expected demand; share of servers
    loading; longest remaining load, load time (in 20 s); backlog [s]; share of servers used; last multiplier - 1; log of the
    last odds; servers over nominal; age of the counts (in 2 s); log of the largest demand over the expected.

    **Reward.** Cost of the base (the same belief without adjustment) in this interval of the same window, minus the cost of
    the cluster: 0 is the base, more is better. Cost = (5 requests lost + sum over the others of 1 - accuracy / best) / mean
    arrivals per interval + 0.1 servers used / servers.

    **Start and end.** An episode is a window of demand chosen by the seed; the base's first plan is warm, and its first
    interval is over. It is truncated after `intervals` decisions; nothing terminates it. A step before the first reset, or
    after the end, raises ResetNeeded.

    **Options.** Keywords: those of `loki_rl.env.gym.cluster_options.ClusterEnvOptions`; `render_mode`, of a single cluster:
    `ansi` (text) or `rgb_array` (a picture, [height, width, 3]). Raises OptionError for others.
    `reset(options={"window": n})` chooses the window. With fidelity `event` the core's own actors play and the exact
    allocator plans (slower by far), and at reset the base plays the window once; with `reset(options={"paired": False})` it
    does not, and the reward is minus the cost.

    **Version history.** v1: a decision each second on the belief of `exact`, and servers that stay until plans have wanted
    them elsewhere for a while (v0: every ten seconds on a forecast).
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
        event = self.options.fidelity == "event"
        self._twin = EventTwin(self.pool, self.options) if event else Batch(self.pool, 1, self.options.deep)
        self._number = 0
        self._k = 0
        self._last = NO_ADJUSTMENT

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode: its first observation [len(NAMES)], and its infos. seed: of the window; options: as above."""
        super().reset(seed=seed)
        chosen = None if options is None else options.get("window")
        drawn = self.np_random.integers(self.pool.size) if chosen is None else chosen
        windows = chosen_windows(drawn, 1, self.pool)
        self._number = int(windows[0])
        self._k, self._last, self.frames = 1, NO_ADJUSTMENT, []
        self.pool.ensure(windows)
        if isinstance(self._twin, EventTwin):
            self._twin.paired = options is None or options.get("paired", True)
        self._twin.start(np.array([0]), windows)
        self._draw()
        return self._twin.observations[0].copy(), self._info()

    def step(self, action: np.int64 | int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Play one control interval: observation [len(NAMES)], reward, terminated (never), truncated, infos. Raises
        ResetNeeded, and InvalidAction for an action outside of the space."""
        if not 0 < self._k <= self.options.intervals:
            raise ResetNeeded("no episode is under way: it has not begun or is over; call reset before the next step")
        self._last = known_action(action)
        self._twin.step(np.array((self._last,)))
        self._k += 1
        self._draw()
        over = self._k > self.options.intervals
        return self._twin.observations[0].copy(), self._twin.rewards.item(0), False, over, self._info()

    def action_masks(self) -> NDArray[np.bool_]:
        """[ACTIONS] legal actions."""
        legal: NDArray[np.bool_] = self._twin.masks[0].astype(np.bool_)
        return legal

    def render(self) -> str | NDArray[np.uint8] | None:
        """The episode so far, as text or as a picture."""
        if self.render_mode == "ansi":
            return ansi(self.frames, self.pool.table.servers)
        return picture(self.frames, self.pool.table.servers) if self.render_mode == "rgb_array" else None

    @property
    def figures(self) -> Floats:
        """[FIGURES] of the last interval (env.fluid)."""
        found: Floats = self._twin.figures[0]
        return found

    def _draw(self) -> None:
        if self.render_mode is not None:
            arrays, k = self.pool.windows.arrays, self._k - 1
            expected, top = float(arrays.expected[self._number, k]), float(arrays.to_rps[self._number, k, -1])
            target = expected + float(MULTIPLIERS[self._last % len(MULTIPLIERS)]) * max(0.0, top - expected)
            self.frames.append(Frame(self.figures.copy(), target, self.options.interval_s))

    def _info(self) -> dict[str, Any]:
        seed = SPLITS[self.options.split] + self._number
        return {"action_mask": self._twin.masks[0].copy(), "window_seed": seed, **single_info(self.figures)}


class OneTaskEnv(ClusterEnv):
    """ClusterEnv on a pipeline of one task with five variants (`cluster_options.one_task`): small enough to study.

    **Version history.** As ClusterEnv.
    """

    def __init__(self, render_mode: str | None = None, **options: Any) -> None:
        super().__init__(render_mode, **{"pipeline": ONE_TASK, **options})
