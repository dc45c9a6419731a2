"""A batch of fluid clusters with their windows of demand, made when first used, and what the base costs on them."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from loki_rl.control.fast.model_arrays import Floats, Ints
from loki_rl.control.fast.objective_kernels import SLICES
from loki_rl.control.fast.table import Table
from loki_rl.control.learned.observation import ACTIONS, EXOGENOUS, NO_ADJUSTMENT, OBSERVATION
from loki_rl.env.fluid.dynamics import FIGURES, LOST, new_rules, scratch
from loki_rl.env.fluid.means import Means, no_means
from loki_rl.env.fluid.step import Episodes, World, hold_all, start_all, step_all, unnamed
from loki_rl.env.fluid.swaps import new_clusters
from loki_rl.env.fluid.windows import Window, WindowOptions, Windows, make_window

# Fewer clusters than this are not worth a thread.
LANE = 64


class WindowPool:
    """Windows by number, made when first used; window n has seed first_seed + n."""

    def __init__(self, options: WindowOptions, models: int, size: int, first_seed: int) -> None:
        self.options, self.size, self.first_seed = options, size, first_seed
        steps, ticks = options.steps, round(options.steps * options.interval_s / options.tick_s)
        to_rps, chance = np.ones((2, size, steps + 1, SLICES))
        expected, mean, floor, horizon_s = np.ones((4, size, steps + 1))
        self.lag_s, self.servers = np.zeros((2, size), np.int64)
        self.arrays = Windows(
            np.zeros((size, ticks), np.float32), to_rps, chance, expected, mean, floor, horizon_s,
            np.zeros((size, steps + 1, EXOGENOUS)), np.ones(size), self.lag_s,
        )  # fmt: skip
        self.load_s, self.factor = np.zeros((size, models)), np.ones(size)
        self.made = np.zeros(size, np.bool_)

    def window(self, number: int) -> Window:
        """The window of a number, made anew (arrival times are not kept)."""
        return make_window(self.options, self.first_seed + number)

    def ensure(self, numbers: Ints) -> None:
        """Make the windows that are not there yet."""
        for number in np.unique(numbers[~self.made[numbers]]).tolist():
            window = self.window(number)
            for name in Windows._fields:
                getattr(self.arrays, name)[number] = getattr(window.row, name)
            self.load_s[number], self.factor[number], self.servers[number] = window.load_s, window.factor, window.servers
            self.made[number] = True


class Pool:
    """Windows and what the base, which adjusts nothing, costs on them: base_cost [W, K + 1] in J, base_lost [W, K + 1]
    requests as a share of the mean interval's. means: how the clusters differ from what is planned with."""

    def __init__(self, table: Table, windows: WindowPool, means: Means | None = None) -> None:
        self.table, self.windows = table, windows
        self.means = means or no_means(table.fleet.models)
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
                batch.step(np.full(len(new), NO_ADJUSTMENT))
                paid.append(batch.costs)
                lost.append(batch.lost)
            self.base_cost[new], self.base_lost[new] = np.stack(paid, axis=1), np.stack(lost, axis=1)


class Batch:
    """E clusters on windows of a pool, stepped together, in one thread for each core (or `lanes`) if there are enough of
    them; the results are the same for any number.

    observations [E, OBSERVATION], masks [E, ACTIONS], rewards [E], figures [E, FIGURES] and k [E] (next decision) are
    overwritten by every step.
    """

    def __init__(self, pool: Pool, number: int, deep: bool = False, lanes: int | None = None) -> None:
        self.pool, self.number = pool, number
        self.lanes = lanes or max(1, min(len(os.sched_getaffinity(0)), number // LANE))
        self._threads = ThreadPoolExecutor(self.lanes - 1) if self.lanes > 1 else None
        self.observations = np.zeros((number, OBSERVATION), np.float32)
        self.masks = np.zeros((number, ACTIONS), np.int8)
        self.window, self.k, self.last = np.zeros((3, number), np.int64)
        self.rewards, self.first_cost = np.zeros((2, number))
        self.figures = np.zeros((number, FIGURES))
        episodes = self._episodes = Episodes(
            self.window, self.k, self.last, self.figures, self.rewards, self.first_cost, self.observations, self.masks
        )
        table, fleet = pool.table, pool.table.fleet
        self.clusters, rules = new_clusters(fleet, number, table.servers), new_rules(fleet)
        physical = fleet.physical * pool.means.speed
        worlds = [
            World(
                fleet.rates, physical, fleet.net, table.library, table.memo(lane), self.clusters, pool.windows.arrays,
                rules, deep, table.most_rps, table.servers, pool.options.interval_s, pool.base_cost,
            )
            for lane in range(self.lanes)
        ]  # fmt: skip
        self._lanes = [(unnamed(w), unnamed(episodes), unnamed(scratch(fleet, table.servers))) for w in worlds]
        self._bounds = [number * lane // self.lanes for lane in range(self.lanes + 1)]

    def start(self, which: Ints, windows: Ints) -> None:
        """Begin episodes: clusters `which` on these windows, with the base's first plan warm and its interval played."""
        pool, c = self.pool.windows, self.clusters
        self.window[which], self.k[which], self.last[which] = windows, 0, NO_ADJUSTMENT
        c.model[which], c.want[which], c.serves[which] = -1, -1, -1
        c.left[which], c.hold[which], c.queue[which] = 0.0, 0.0, 0.0
        c.servers[which], c.factor[which] = pool.servers[windows], pool.factor[windows]
        c.load_s[which] = pool.load_s[windows] * self.pool.means.load
        parts = np.array_split(np.asarray(which, np.int64), self.lanes)
        self._in_lanes(lambda lane: start_all(parts[lane], *self._lanes[lane]))

    def step(self, actions: NDArray[np.integer]) -> None:
        """Carry out one action per cluster."""
        moves, bounds = np.asarray(actions, np.int64), self._bounds
        self._in_lanes(lambda lane: step_all(bounds[lane], bounds[lane + 1], moves, *self._lanes[lane]))

    def hold(self, actions: NDArray[np.integer], decisions: int) -> Floats:
        """Carry out the same action for so many decisions, or to the end of the episode; none wherever it is not legal.
        Returns [E, 2]: cost J, and requests lost as shares of the mean interval's, in all of them together."""
        moves, bounds, totals = np.asarray(actions, np.int64), self._bounds, np.zeros((self.number, 2))
        self._in_lanes(lambda lane: hold_all(bounds[lane], bounds[lane + 1], moves, decisions, totals, *self._lanes[lane]))
        return totals

    def copy(self, source: Ints, targets: Ints, other: Batch | None = None) -> None:
        """Clusters `targets` become what clusters `source` (of another batch of the same pool, if one is named) are now, so
        that each may go on in its own way."""
        origin = other or self
        for mine, theirs in ((self.clusters, origin.clusters), (self._episodes, origin._episodes)):
            for name in mine._fields:
                getattr(mine, name)[targets] = getattr(theirs, name)[source]

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
        found: Floats = self.figures[:, LOST] / self.pool.windows.arrays.reference[self.window]
        return found

    @property
    def done(self) -> NDArray[np.bool_]:
        """[E] whether the episode is over."""
        over: NDArray[np.bool_] = self.k > self.pool.options.intervals
        return over
