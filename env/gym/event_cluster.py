"""One cluster in the event twin, whose actors run until they ask for a plan, and the caller answers."""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from loki_rl.control.allocator.allocate import allocate
from loki_rl.control.allocator.switching import SERVERS, VIOLATION
from loki_rl.control.demand.belief import Coming
from loki_rl.control.fast.model_arrays import Floats, Ints
from loki_rl.control.fast.table import Table
from loki_rl.control.learned.observation import ACTIONS, NO_ADJUSTMENT, adjusted, fill_mask, observation
from loki_rl.core.effects import Effect, Solve
from loki_rl.core.messages import Arrived, Outcome, Planned
from loki_rl.core.options import ClusterOptions
from loki_rl.core.plan import Plan, Snapshot
from loki_rl.env.fluid.batch import Pool
from loki_rl.env.fluid.dynamics import ACCURACY as QUALITY
from loki_rl.env.fluid.dynamics import ARRIVALS as ARRIVED
from loki_rl.env.fluid.dynamics import FIGURES, LOADS, LOSS, LOST, OK, USED
from loki_rl.env.fluid.windows import Window
from loki_rl.env.gym.cluster_options import ClusterEnvOptions, calibration_of, planner_of
from loki_rl.env.simulate import with_load_s
from loki_rl.env.world import ActorSlot, Habits, World, slowest_load_s

BASE = "exact"  # plans here, whoever adjusts what it plans for


class PausedWorld(World):
    """A World that keeps the question when the controller asks for a plan."""

    def __init__(self, options: ClusterOptions, start: float, habits: Habits | None = None) -> None:
        self.pending: Snapshot | None = None
        self.asking: ActorSlot | None = None
        super().__init__(options, _nobody, start=start, habits=habits)

    def _carry_out(self, slot: ActorSlot, effect: Effect, now: float) -> None:
        if isinstance(effect, Solve):
            self.pending, self.asking = effect.snapshot, slot
        else:
            super()._carry_out(slot, effect, now)

    def answer(self, plan: Plan) -> None:
        """The plan that the controller waits for."""
        assert self.asking is not None
        self.kernel.push(self.kernel.now + self.thought_s(), self.asking, Planned(plan))
        self.pending = self.asking = None


def _nobody(snapshot: Snapshot) -> Plan:  # noqa: ARG001  (a World wants a policy)
    raise AssertionError("the world pauses instead of asking a policy")


class EventTwin:
    """One cluster of a pool in the event twin, with what a fluid Batch of one has. paired: whether the base plays every
    window first, so that a reward is what it pays less the cost, and not minus the cost alone."""

    def __init__(self, pool: Pool, options: ClusterEnvOptions) -> None:
        self.pool, self.options, self.paired = pool, options, True
        self.masks = np.zeros((1, ACTIONS), np.int8)
        self.rewards = np.zeros(1)
        self._base_costs: list[float] = []

    def start(self, _: Ints, windows: Ints) -> None:
        """Begin an episode on this window, with the base's first plan warm and its interval played."""
        number = int(windows[0])
        self._begin(number)
        self._base_costs = [0.0] * (self.options.intervals + 1)
        if self.paired:
            self._base_costs = [self._cluster.cost(), *(self._decide(NO_ADJUSTMENT) for _ in range(self.options.intervals))]
            self._begin(number)
        self._observe()

    def _begin(self, number: int) -> None:
        window = self.pool.windows.window(number)
        self._cluster = EventCluster(self.pool.table, window, self.options, number)
        self._number, self._k, self._last = number, 0, NO_ADJUSTMENT
        self._decide(NO_ADJUSTMENT)

    def step(self, actions: NDArray[np.integer]) -> None:
        """Carry out one action."""
        self._last = int(actions[0])
        self.rewards[0] = self._base_costs[self._k] - self._decide(self._last)
        self._observe()

    def _decide(self, action: int) -> float:
        """What the next interval costs."""
        window = self._cluster.window
        self._cluster.decide(adjusted(window.comings[self._k], action), float(window.row.horizon_s[self._k]))
        self._k += 1
        return self._cluster.cost()

    def _observe(self) -> None:
        window, table, k = self._cluster.window, self.pool.table, self._k
        row, coming = window.row, window.comings[k]
        seen = observation(
            table, self._cluster.snapshot, row.exogenous[k], coming.expected_rps, self._last, window.servers,
            float(window.load_s.max()), float(row.lag_s),
        )  # fmt: skip
        self.observations = seen[None]
        most_rps = table.most_rps * window.servers / table.servers
        fill_mask(self.masks[0], coming.expected_rps, coming.slices[-1].to_rps, float(row.floor[k]), most_rps)

    @property
    def figures(self) -> Floats:
        """[1, FIGURES] of the last interval."""
        return self._cluster.figures[None]


class EventCluster:
    """Plays a window. figures [FIGURES]: of the last interval, as the fluid twin counts them; a request that is still open
    counts in the interval in which it ends."""

    def __init__(self, table: Table, window: Window, options: ClusterEnvOptions, seed: int) -> None:
        load_s = float(window.load_s.max())
        pipeline = with_load_s(table.fleet.pipeline, load_s)
        self.window, self.interval_s = window, options.interval_s
        self._planner = planner_of(pipeline, window.servers, options)
        cluster = ClusterOptions(pipeline, window.servers, seed=seed, interval_s=options.interval_s)
        found = calibration_of(options)
        habits = None if found is None else Habits(found, BASE)
        self.world = PausedWorld(cluster, -slowest_load_s(cluster, habits) - 1.0, habits)
        self.figures, self._totals = np.zeros((2, FIGURES))
        self._next = 0
        self._gateway = self.world.slots["gateway"]
        self.world.begin(0.0)
        self._until_asked()

    @property
    def snapshot(self) -> Snapshot:
        assert self.world.pending is not None
        return self.world.pending

    def decide(self, coming: Coming, horizon_s: float) -> None:
        """Answer with the exact allocator's plan for these, and play until the next question. The first plan is warm."""
        request = self._planner.moving(self.snapshot, coming, horizon_s)
        if self.world.controller.plan is None:
            request = replace(request, current=(), load_s=0.0)
        self.world.answer(allocate(self._planner.pipeline, request))
        self._until_asked()
        self._count()

    def _until_asked(self) -> None:
        """Every event up to the next question; arrivals enter in their order."""
        world, times = self.world, self.window.times
        while world.pending is None:
            if self._next < len(times) and (world.kernel.next_time or 0.0) >= times[self._next]:
                time = float(times[self._next])
                world.kernel.push(time, self._gateway, Arrived([self._next], [0.0]))
                self._next += 1
            else:
                world.step()

    def _count(self) -> None:
        tally, best = self.world.gateway.tally, self._planner.pipeline.best_accuracy
        totals = np.zeros(FIGURES)
        for second in tally.seconds.values():
            ok = second.outcomes[Outcome.OK]
            totals[ARRIVED] += second.arrivals
            totals[OK] += ok
            totals[LOST] += sum(second.outcomes) - ok
            totals[QUALITY] += second.accuracy_sum
            totals[LOSS] += ok - second.accuracy_sum / best
            totals[USED] += second.servers
            totals[LOADS] += second.loads
        self.figures = totals - self._totals
        self.figures[USED] /= self.interval_s
        self._totals = totals

    def cost(self) -> float:
        """Cost J of the last interval (docs/glossary.md), relative to the window's mean arrivals per interval."""
        figures = self.figures
        lost = VIOLATION * figures[LOST] + figures[LOSS]
        return float(lost / self.window.row.reference + SERVERS * figures[USED] / self.window.servers)
