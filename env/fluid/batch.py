"""A batch of fluid clusters with their windows of demand. Owns the arrays, when a window is made and what its base costs;
knows no gymnasium."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loki_rl.control.fast.model_arrays import Floats, Ints
from loki_rl.control.fast.table import Table
from loki_rl.control.learned.observation import ACTIONS, EXOGENOUS, OBSERVATION
from loki_rl.env.fluid.dynamics import EFFICIENCY as REALISED
from loki_rl.env.fluid.dynamics import FIGURES, LOSS_EXPONENT, LOST, new_clusters, scratch, waits_s
from loki_rl.env.fluid.step import start_all, step_all
from loki_rl.env.fluid.windows import Window, WindowOptions, make_window

# Fewer clusters than this are not worth a thread.
LANE = 64


class Base(Struct, frozen=True):
    """The non-learning controller that actions adjust. scale: on its demand for capacity; patience: intervals its plans
    should last."""

    scale: float = 1.0
    patience: float = 1.0


class Windows:
    """Windows by number, made when first used; window n has seed first_seed + n. Arrays [W, ...] as in Window."""

    def __init__(self, options: WindowOptions, models: int, size: int, first_seed: int) -> None:
        self.options, self.size, self.first_seed = options, size, first_seed
        steps = options.steps
        ticks = round(steps * options.interval_s / options.tick_s)
        self.ticks = np.zeros((size, ticks), np.float32)
        self.high, self.mean, self.floor, self.chance = (np.ones((size, steps + 1)) for _ in range(4))
        self.exogenous = np.zeros((size, steps + 1, EXOGENOUS))
        self.reference = np.ones(size)
        self.lag = np.zeros(size, np.int64)
        self.load_s = np.zeros((size, models))
        self.factor = np.ones(size)
        self.servers = np.zeros(size, np.int64)
        self.made = np.zeros(size, np.bool_)

    def window(self, number: int) -> Window:
        """The window of a number, made anew (arrival times are not kept)."""
        return make_window(self.options, self.first_seed + number)

    def ensure(self, numbers: Ints) -> None:
        """Make the windows that are not there yet."""
        if self.made[numbers].all():
            return
        for number in np.unique(numbers[~self.made[numbers]]):
            self._put(int(number), self.window(int(number)))
            self.made[number] = True

    def _put(self, number: int, window: Window) -> None:
        self.ticks[number], self.exogenous[number] = window.ticks, window.exogenous
        self.high[number], self.mean[number], self.floor[number] = window.high, window.mean, window.floor
        self.chance[number] = window.chance
        self.reference[number], self.lag[number] = window.reference, window.lag_s
        self.load_s[number], self.factor[number], self.servers[number] = window.load_s, window.factor, window.servers


class Pool:
    """Windows with a base, and what the base costs on them: base_cost [W, K + 1] in J, base_lost [W, K + 1] requests as a
    share of the mean interval's."""

    def __init__(self, table: Table, windows: Windows, base: Base) -> None:
        self.table, self.windows, self.base = table, windows, base
        self.options, self.size = windows.options, windows.size
        self.base_cost, self.base_lost = np.zeros((2, self.size, self.options.steps))
        self.costed = np.zeros(self.size, np.bool_)

    def ensure(self, numbers: Ints, costs: bool = True) -> None:
        """Make the windows that are not there yet and, unless nobody asks for rewards, what the base costs on them."""
        self.windows.ensure(numbers)
        if costs and not self.costed[numbers].all():
            new = np.unique(numbers[~self.costed[numbers]])
            self.costed[new] = True
            batch = Batch(self, len(new))
            batch.start(np.arange(len(new)), new)
            paid, lost = [batch.first_cost], [batch.lost]
            for _ in range(self.options.intervals):
                batch.step(np.full(len(new), -1))
                paid.append(batch.costs)
                lost.append(batch.lost)
            self.base_cost[new], self.base_lost[new] = np.stack(paid, axis=1), np.stack(lost, axis=1)


class Batch:
    """E clusters on windows of a pool, stepped together, in one thread for each core (or `lanes`) if there are enough of
    them; the results are the same for any number.

    observations [E, OBSERVATION], masks [E, ACTIONS], rewards [E], figures [E, FIGURES] and k [E] (next decision) are
    overwritten by every step.
    """

    def __init__(
        self, pool: Pool, number: int, deep: bool = False, exponent: float = LOSS_EXPONENT, lanes: int | None = None
    ) -> None:
        self.pool, self.number = pool, number
        self.lanes = lanes or max(1, min(len(os.sched_getaffinity(0)), number // LANE))
        self._threads = ThreadPoolExecutor(self.lanes - 1) if self.lanes > 1 else None
        table, options = pool.table, pool.options
        fleet = table.fleet
        self.clusters = new_clusters(fleet, number, pool.table.servers)
        self.window = np.zeros(number, np.int64)
        self.k = np.zeros(number, np.int64)
        self.last = np.full(number, -1, np.int64)
        self.observations = np.zeros((number, OBSERVATION), np.float32)
        self.masks = np.zeros((number, ACTIONS), np.int8)
        self.rewards = np.zeros(number)
        self.figures = np.zeros((number, FIGURES))
        self.first_cost = np.zeros(number)
        physical, waits = fleet.physical * REALISED, waits_s(fleet)
        own = [(*table.lane(lane), *scratch(fleet, table.servers)) for lane in range(self.lanes)]
        self._tables = [(fleet.rates, physical, fleet.net, library, memo, deep) for library, memo, _, _ in own]
        self._rooms = [
            (waits, work, spots, np.zeros((3, fleet.models)), np.zeros(fleet.models)) for _, _, work, spots in own
        ]
        self._bounds = [number * lane // self.lanes for lane in range(self.lanes + 1)]
        c = self.clusters
        self._clusters = (c.model, c.left, c.want, c.old, c.queue, c.tokens, c.split, c.servers, c.load_s, c.factor)
        p = pool.windows
        self._windows = (p.ticks, p.high, p.mean, p.floor, p.exogenous, p.reference, pool.base_cost, p.lag, p.chance)
        self._settings = (
            pool.base.scale, pool.base.patience, table.most_rps, table.servers, options.tick_s, options.interval_s, exponent,
        )  # fmt: skip

    def start(self, which: Ints, windows: Ints) -> None:
        """Begin episodes: clusters `which` on these windows, with the base's first plan warm and its interval played."""
        pool, c = self.pool.windows, self.clusters
        self.window[which], self.k[which], self.last[which] = windows, 0, -1
        c.model[which], c.left[which], c.want[which], c.old[which], c.queue[which] = -1, 0.0, -1, -1, 0.0
        c.servers[which], c.factor[which] = pool.servers[windows], pool.factor[windows]
        c.load_s[which] = pool.load_s[windows]
        parts = np.array_split(np.asarray(which, np.int64), self.lanes)

        def begin(lane: int) -> None:
            start_all(
                parts[lane], self.window, self.k, self._tables[lane], self._clusters, self._windows, self._settings,
                *self._rooms[lane], self.figures, self.first_cost, self.observations, self.masks,
            )  # fmt: skip

        self._in_lanes(begin)

    def step(self, actions: NDArray[np.integer]) -> None:
        """Carry out one action per cluster (-1: the base's own target and patience)."""
        moves = np.asarray(actions, np.int64)

        def move(lane: int) -> None:
            step_all(
                self._bounds[lane], self._bounds[lane + 1], moves, self.window, self.k, self.last, self._tables[lane],
                self._clusters, self._windows, self._settings, *self._rooms[lane], self.figures, self.rewards,
                self.observations, self.masks,
            )  # fmt: skip

        self._in_lanes(move)

    def _in_lanes(self, run: Callable[[int], None]) -> None:
        """Lane 0 in this thread, the others beside it."""
        others = self._threads.map(run, range(1, self.lanes)) if self._threads else ()
        run(0)
        for _ in others:
            pass

    @property
    def costs(self) -> Floats:
        """[E] cost J of the last interval."""
        found: Floats = self.pool.base_cost[self.window, self.k - 1] - self.rewards
        return found

    @property
    def lost(self) -> Floats:
        """[E] requests lost in the last interval, as a share of the mean interval's."""
        found: Floats = self.figures[:, LOST] / self.pool.windows.reference[self.window]
        return found

    @property
    def done(self) -> NDArray[np.bool_]:
        """[E] whether the episode is over."""
        over: NDArray[np.bool_] = self.k > self.pool.options.intervals
        return over
