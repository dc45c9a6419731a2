"""The router of one task whose workers pull from one queue. Decides which worker gets which batch when it asks for one; all
else is every router's."""

from __future__ import annotations

from math import inf

from loki_rl.core.effects import Effect, Send
from loki_rl.core.messages import Pressure, router
from loki_rl.core.options import ClusterOptions
from loki_rl.core.plan import Plan
from loki_rl.core.router import Router
from loki_rl.core.routing.credits import Kind, Puller, Times
from loki_rl.core.routing.standby import Standby

ONLY = [0]  # where all items stand in one lane
OWNS, OTHER, STANDS_BY = range(3)  # the turns of workers that ask at the same time
# An item whose soft deadline is nearer than this many batches goes to whoever pulls: passed over once more it would be late.
# Measured at load 1.2 on traffic: without it 15.5 % of the requests are lost, with it 14.1 %.
BATCHES_AHEAD = 2.0


class PullRouter(Router):
    """Actor at address `router:<task>` where ClusterOptions.routing is "pull".

    The router forms a batch at the moment of a credit (late binding): for the variant that the plan means for what waits,
    else the most accurate. Variants that stand by take what would be late otherwise.
    """

    def __init__(self, options: ClusterOptions, task: int, incarnation: int = 0) -> None:
        super().__init__(options, task, incarnation)
        self.standby = Standby()

    def _follow(self, plan: Plan, now: float) -> None:
        super()._follow(plan, now)
        self.standby.adopt(self.shares.mix)

    def _dispatch(self, now: float, effects: list[Effect]) -> None:
        self.flow.unbar_at = self.due_at = inf
        if self.again.waiting and self.pullers.idle:
            self._give_again(now, effects)
        queue, idle = self.queue, self.pullers.idle
        if queue.waiting and idle:
            standing = self.standby.among(self.pullers)
            unable: set[Kind] = set()
            while queue.waiting and idle and (puller := self._next(unable, standing)) is not None:
                overloaded = self._overloaded(now)
                lanes = self._lanes(puller, overloaded, puller.variant in standing, now)
                if not lanes or not self._give(puller, queue, overloaded, now, effects, lanes):
                    unable.add(puller.kind)
        self._press(now, effects)

    def _next(self, unable: set[Kind], standing: frozenset[int]) -> Puller | None:
        """Of the workers with a credit, one whose variant the plan means for what waits, then of the most accurate variant,
        then the one that has waited longest; those that stand by last. unable: those that found nothing for them."""
        if len(self.pullers.idle) == 1 and not unable:
            return next(iter(self.pullers.idle.values()))
        best: Puller | None = None
        least = (inf, inf)
        for puller in self.pullers.idle.values():
            if best is not None and puller.variant == best.variant:
                continue
            if not unable or puller.kind not in unable:
                variant = puller.variant
                turn = STANDS_BY if variant in standing else OWNS if self.shares.owns_any(variant, self.queue) else OTHER
                place = (turn, self.rank[variant])
                if best is None or place < least:
                    best, least = puller, place
        return best

    def _lanes(self, puller: Puller, overloaded: bool, spare: bool, now: float) -> list[int]:
        """Where to look for items: what the plan means for the variant, or if there is none, whatever it may take. spare: it
        stands by."""
        variant = puller.variant
        if len(self.queue.lanes) == 1 and not self.flow.pressed and not spare:
            return ONLY
        lanes = self.queue.filled()
        if self.flow.pressed:
            lanes = [lane for lane in lanes if not self.flow.bars(lane, variant, now)]
        if overloaded:
            return lanes
        if spare:
            return self._due(puller.times, lanes, now)
        if self._urgent(puller.times, lanes, now):
            return lanes
        return self.shares.own(variant, lanes) or lanes

    def _urgent(self, times: Times, lanes: list[int], now: float) -> bool:
        """Whether what waits first should not be passed over: it would not be early if the batch after this one had it."""
        seconds = times[min(self.queue.waiting, len(times) - 1)]
        return any(self.queue.lanes[lane][0].place - now < BATCHES_AHEAD * seconds for lane in lanes)

    def _due(self, times: Times, lanes: list[int], now: float) -> list[int]:
        """The lanes for one that stands by, once it may wait no longer: then a batch that it began later, or what the
        others would have left by then, would be late."""
        if not lanes:
            return lanes
        queue = self.queue
        seconds = times[min(queue.waiting, len(times) - 1)]
        first = min([queue.lanes[lane][0].place for lane in lanes])
        due_at = min(first, queue.newest_soft - self.drain_s()) - seconds
        if due_at <= now:
            return lanes
        self.due_at = min(self.due_at, due_at)
        return []

    def _rescue_s(self, puller: Puller, overloaded: bool) -> float:
        """Service time [s] of the fastest other variant that pulls here, or the same on another type of server, for a batch
        like the next one; infinite if none.

        Under overload only of those that are free. Items kept for a busy one go on without slack or not at all: at load 1.2
        that cost 55 % of the requests of traffic-published, where plain dropping costs 36 % and this rule 25 %.
        """
        if not self.reroute:
            return inf
        kinds = self.pullers.kinds
        if overloaded:
            kinds = {other.kind for other in self.pullers.idle.values()}
        waiting, own = self.queue.waiting, (puller.server_type, puller.variant)
        found = [
            times[min(batch, waiting, len(times) - 1)]
            for server_type, variant, batch in kinds
            if (server_type, variant) != own
            for times in (self.times.of[server_type][variant],)
        ]
        return min(found, default=inf)

    def _overloaded(self, now: float) -> bool:
        """Whether the newest item cannot be served by its soft deadline."""
        return self.soft_deadlines and self.queue.waiting > 0 and self.drain_s() > self.queue.newest_soft - now

    def _press(self, now: float, effects: list[Effect]) -> None:
        """Tell the parent when this task starts or stops falling behind."""
        if self.parent < 0:
            return
        overloaded = self._overloaded(now)
        if overloaded != self.pressing:
            self.pressing = overloaded
            effects.append(Send(router(self.parent), Pressure(self.task, overloaded)))
