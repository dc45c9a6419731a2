"""The router of one task: holds its queue and gives batches to the workers that pull. Owns dispatch, drops and rerouting;
knows nothing of models, sockets or other tasks' queues beyond their pressure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from math import inf

from loki_rl.core.drift import DriftWatch
from loki_rl.core.families import Family, members, size
from loki_rl.core.floors import Floors
from loki_rl.core.flow import Flow
from loki_rl.core.leases import Lease, Leases
from loki_rl.core.messages import (
    CONTROLLER,
    GATEWAY,
    Backlog,
    Begin,
    Cancelled,
    Cause,
    Drop,
    Effect,
    Event,
    Execute,
    Leaving,
    Outcome,
    PlanChanged,
    Pressure,
    Ready,
    Result,
    Send,
    Settled,
    Submit,
    Tick,
    WorkerGone,
    router,
)
from loki_rl.core.mix import mix_of
from loki_rl.core.offspring import offspring
from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import PATH_BITS
from loki_rl.core.plan import Plan
from loki_rl.core.pullers import Kind, Puller, Pullers, Times
from loki_rl.core.queue import DeadlineQueue, Entry
from loki_rl.core.servers import Servers
from loki_rl.core.shares import Shares

HUNG_S = 0.05
ONLY = [0]  # where all items stand in one lane
# An item whose soft deadline is nearer than this many batches goes to whoever pulls: passed over once more it would be late.
# Measured at load 1.2 on traffic: without it 15.5 % of the requests are lost, with it 14.1 %.
BATCHES_AHEAD = 2.0
RETURNED = "returned"  # a worker's word for a batch that came after it had left


class Router:
    """Actor at address `router:<task>`.

    Workers give credits; the router forms a batch at that moment (late binding): for the variant that the plan means for
    what waits, else the most accurate. Results are committed only for the lease in force, so a batch given to a second
    worker cannot count twice.
    """

    def __init__(self, options: ClusterOptions, task: int, incarnation: int = 0) -> None:
        self.options = options
        self.incarnation = incarnation
        self.pipeline = options.pipeline
        self.task = task
        self.children = self.pipeline.children[task]
        self.parent = self.pipeline.parents[task]
        self.child_routers = [router(child) for child in self.children]
        self.servers = Servers(options)
        self.service_s = [list(one.service_s[task]) for one in self.servers.pipelines]
        self.latencies = [one.latencies[task] for one in self.servers.pipelines]
        self.drift = DriftWatch(self.servers, task)
        # Where only the best that there is matters: a variant on the server where it is fastest.
        self.least_s = self.servers.fastest.service_s[task]
        # After a batch is given: the way to the worker, the end of its running batch, the way back and to the gateway.
        self.after_s = self.servers.fastest.rest_s[task] + 3 * self.pipeline.hop_s + options.lead_s
        self.early_drop = options.drop != "none" and (options.drop != "last-task" or not self.children)
        self.reroute = options.drop == "reroute"
        self.soft_deadlines = options.soft_deadlines
        ranked = sorted(
            range(len(self.least_s)), key=lambda v: (-self.pipeline.tasks[task].variants[v].accuracy, self.least_s[v][1])
        )
        self.rank = {variant: place for place, variant in enumerate(ranked)}
        self.floors = Floors(self.servers.fastest, task)
        self.allows = [partial(self.floors.allow, variant) for variant in range(len(self.least_s))]
        self.queue = DeadlineQueue(self.pipeline.shifts[task], self.pipeline.parent_shifts[task])
        self.pullers = Pullers(self.service_s, self.servers.type_of)
        self.leases = Leases()
        self.shares = Shares()
        self.flow = Flow()
        self.pressing = False
        self.split = 1.0 if not self.children else 0.5
        self.batches = 0
        self.arrived = 0  # since the last second was reported
        self.next_second: float | None = None

    def handle(self, event: Event, now: float) -> list[Effect]:
        effects: list[Effect] = []
        match event:
            case Submit():
                self._enqueue(event.families, now)
            case Ready():
                self.pullers.credit(event)
            case Result():
                self._commit(event, effects)
            case Tick():
                self._tick(now, effects)
            case Pressure():
                self.flow.press(event.task, event.overloaded)
            case Leaving(number, incarnation):
                self.pullers.leave(number, incarnation)
            case WorkerGone(number):
                self.pullers.lose(number)
                self._revoke(number)
            case PlanChanged(plan):
                self._adopt(plan, now)
            case Cancelled(roots):
                gone = [entry[3] for queue in self.queues() for entry in queue.remove(set(roots), PATH_BITS)]
                self._settle(gone, Outcome.CANCELLED, effects)
            case Begin(origin):
                self.next_second, self.arrived = origin + 1.0, 0
            case _:
                raise TypeError(f"a router cannot handle {type(event).__name__}")
        self._dispatch(now, effects)
        return effects

    def wake_at(self) -> float | None:
        wake, expiry = self.flow.unbar_at, self.leases.next_expiry
        if expiry < wake:
            wake = expiry
        if self.next_second is not None and self.next_second < wake:
            wake = self.next_second
        if self.early_drop and (hard := self._next_hard()) < wake:
            wake = hard
        return None if wake == inf else wake

    def validate(self) -> None:
        queues = list(self.queues())
        queued = [entry[3] for queue in queues for lane in queue.lanes for entry in lane]
        held = [family for lease in self.leases.all.values() for family in lease.families]
        here = members(self.pipeline, self.task, queued + held)
        assert len(set(here)) == len(here), "an item is queued or leased twice"
        parents = Counter(id >> self.queue.parent_shift for id in here)
        assert parents == self.queue.known, "the queue lost count of its items"
        for queue in queues:
            queue.validate()
        assert all(lease.entries for lease in self.leases.all.values()), "an empty batch is leased"
        assert not self.pullers.silent.keys() & self.pullers.all.keys(), "a worker pulls and is silent"
        idle = {number for number, puller in self.pullers.all.items() if puller.waiting is not None}
        assert idle == self.pullers.idle.keys(), "who has a credit is not who waits"

    def queues(self) -> Iterable[DeadlineQueue]:
        """All that items wait in."""
        return (self.queue,)

    def _next_hard(self) -> float:
        """When the first item must have ended here [s]; infinite if none waits."""
        return self.queue.next_hard() if self.queue.waiting else inf

    # -- what comes in ------------------------------------------------------------------------------------------------

    def _enqueue(self, families: list[Family], now: float) -> None:
        self.arrived += size(families)
        fresh = self.queue.push(families, self.split, self.after_s, now)
        self.shares.arrive(fresh, now)

    def _revoke(self, number: int) -> None:
        """Its batches go back into the queue with the deadlines they had."""
        for lease in self.leases.revoke(number):
            self._put_back(lease)

    def _put_back(self, lease: Lease) -> None:
        self.queue.put_back(lease.entries)
        self.shares.returned(lease.variant, lease.families)

    def _adopt(self, plan: Plan, now: float) -> None:
        self.split = plan.split.get(self.pipeline.tasks[self.task].name, self.split)
        self._follow(plan, now)

    def _follow(self, plan: Plan, now: float) -> None:
        """Keep to its mix of variants."""
        mix = mix_of(self.pipeline, self.task, plan)
        self.queue.arrange(mix.lane_of, len(mix.shares))
        self.shares.adopt(mix, now)
        if self.children:
            self.flow.adopt(mix, now)

    # -- what comes back ----------------------------------------------------------------------------------------------

    def _commit(self, event: Result, effects: list[Effect]) -> None:
        if self.pullers.silent:
            self.pullers.heard(event.worker, event.incarnation)
        if self.drift.record(event):
            self._retime(event)
        lease = self.leases.end(event)
        if lease is None:
            return
        if event.error == RETURNED:
            self._put_back(lease)
            return
        self.queue.forget(lease.entries)
        if event.error:
            self._settle(lease.families, Outcome.FAILED, effects)
        else:
            self._forward(lease, event.fanouts, effects)

    def _retime(self, event: Result) -> None:
        """On servers like this one batches take another time than was thought."""
        server_type = self.servers.type_of(event.worker)
        for variant, profiled in enumerate(self.servers.pipelines[server_type].service_s[self.task]):
            slowdown = self.drift.slowdown(server_type, variant)
            self.service_s[server_type][variant] = tuple(slowdown * seconds for seconds in profiled)
        self.pullers.retime()

    def _forward(self, lease: Lease, fanouts: list[tuple[int, ...]], effects: list[Effect]) -> None:
        """Children to the next routers, the verdict to the gateway."""
        families, variant = lease.families, lease.variant
        if self.children:
            spawned = offspring(self.pipeline, self.task, variant, families, fanouts)
            for address, made in zip(self.child_routers, spawned, strict=True):
                if made:
                    effects.append(Send(address, Submit(made)))
        effects.append(Send(GATEWAY, Settled(self.task, Outcome.OK, families, variant, fanouts if self.children else [])))
        effects.append(Drop(families))

    def _settle(self, families: list[Family], outcome: Outcome, effects: list[Effect], cause: Cause | None = None) -> None:
        """These items end here without having run."""
        if families:
            effects.append(Send(GATEWAY, Settled(self.task, outcome, families, -1, [], cause)))
            effects.append(Drop(families))

    def _drop(self, entries: list[Entry], now: float, seconds: float, overloaded: bool, effects: list[Effect]) -> None:
        """seconds: the service time that was too long for them; the cause told is that of the first."""
        if entries:
            first = entries[0][3]
            hard = first.deadline - self.after_s
            late_s = now + seconds - (self._soft(first) if overloaded else hard)
            fitting = self.floors.quickest(first)
            if fitting >= 0 and now + self.least_s[fitting][1] > hard:
                fitting = -1
            cause = Cause(self.task, max(0.0, late_s), fitting)
            self._settle([entry[3] for entry in entries], Outcome.DROPPED, effects, cause)

    def _soft(self, family: Family) -> float:
        return family.t0 + (family.deadline - family.t0) * self.split

    # -- time ---------------------------------------------------------------------------------------------------------

    def _tick(self, now: float, effects: list[Effect]) -> None:
        if self.early_drop:
            for queue in self.queues():
                self._drop(queue.expire(now), now, self.servers.fastest.fastest_s[self.task], False, effects)
        while (number := self.leases.overdue(now)) is not None:
            self.pullers.silence(number)
            self._revoke(number)
        if self.next_second is not None and now >= self.next_second:
            effects.append(Send(CONTROLLER, self._backlog()))
            while self.next_second <= now:
                self.next_second += 1.0

    # -- dispatch -----------------------------------------------------------------------------------------------------

    def _dispatch(self, now: float, effects: list[Effect]) -> None:
        self.flow.unbar_at = inf
        queue, idle = self.queue, self.pullers.idle
        if queue.waiting and idle:
            unable: set[Kind] = set()
            while queue.waiting and idle and (puller := self._next(unable)) is not None:
                overloaded = self._overloaded(now)
                lanes = self._lanes(puller, overloaded, now)
                if not lanes or not self._give(puller, queue, overloaded, now, effects, lanes):
                    unable.add(puller.kind)
        self._press(now, effects)

    def _next(self, unable: set[Kind]) -> Puller | None:
        """Of the workers with a credit, one whose variant the plan means for what waits, then of the most accurate variant,
        then the one that has waited longest. unable: those that found nothing for them."""
        if len(self.pullers.idle) == 1 and not unable:
            return next(iter(self.pullers.idle.values()))
        best: Puller | None = None
        least = (True, inf)
        for puller in self.pullers.idle.values():
            if best is not None and puller.variant == best.variant:
                continue
            if not unable or puller.kind not in unable:
                place = (not self.shares.owns_any(puller.variant, self.queue), self.rank[puller.variant])
                if best is None or place < least:
                    best, least = puller, place
        return best

    def _give(
        self,
        puller: Puller,
        queue: DeadlineQueue,
        overloaded: bool,
        now: float,
        effects: list[Effect],
        lanes: Sequence[int] | None = None,
    ) -> bool:
        """Give a worker a batch of what waits in a queue (in these lanes of it); False if nothing is for its variant."""
        variant = puller.variant
        times, cap = puller.times, puller.cap
        allows = self.allows[variant]
        if self.early_drop:
            seconds, rescue_s = times[min(cap, queue.waiting)], partial(self._rescue_s, puller, overloaded)
            entries, dropped = queue.form(cap, times, now, rescue_s, overloaded, allows, lanes)
            self._drop(dropped, now, seconds, overloaded, effects)
        else:
            entries = queue.take(cap, allows, lanes)
        if entries:
            self._lease(puller, entries, now, effects)
        return bool(entries)

    def _lanes(self, puller: Puller, overloaded: bool, now: float) -> list[int]:
        """Where to look for items: what the plan means for the variant, or if there is none, whatever it may take."""
        variant = puller.variant
        if len(self.queue.lanes) == 1 and not self.flow.pressed:
            return ONLY
        lanes = self.queue.filled()
        if self.flow.pressed:
            lanes = [lane for lane in lanes if not self.flow.bars(lane, variant, now)]
        if overloaded or self._urgent(puller.times, lanes, now):
            return lanes
        return self.shares.own(variant, lanes) or lanes

    def _urgent(self, times: Times, lanes: list[int], now: float) -> bool:
        """Whether what waits first should not be passed over: it would not be early if the batch after this one had it."""
        seconds = times[min(self.queue.waiting, len(times) - 1)]
        return any(self.queue.lanes[lane][0][0] - now < BATCHES_AHEAD * seconds for lane in lanes)

    def _lease(self, puller: Puller, entries: list[Entry], now: float, effects: list[Effect]) -> None:
        batch = self.batches * len(self.pipeline.tasks) + self.task
        self.batches += 1
        self.pullers.spend(puller)
        variant = puller.variant
        lease = Lease(puller.number, puller.incarnation, variant, entries)
        items = size(lease.families)
        p99 = self.latencies[puller.server_type][variant][items].p99
        # Behind a batch that still runs (its credit was given early), the time for this one counts from that one's.
        before = self.leases.all.get(puller.latest)
        usual_s = self.drift.slowdown(puller.server_type, variant) * p99
        lease.expiry = (
            (now if before is None else before.expiry) + self.options.lease * usual_s + self.options.lead_s + HUNG_S
        )
        puller.latest = batch
        self.leases.give(batch, lease)
        self.drift.given(batch, (puller.server_type, variant), items)
        self.shares.served(variant, lease.families)
        self.flow.spend(variant, lease.families, now)
        effects.append(Send(puller.address, Execute(batch, variant, lease.families)))

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
            for times in (self.service_s[server_type][variant],)
        ]
        return min(found, default=inf)

    def drain_s(self) -> float:
        """Predicted time [s] to serve the queue with the workers that pull now."""
        rate = self.pullers.rate
        return self.queue.waiting / rate if rate else (inf if self.queue.waiting else 0.0)

    def _backlog(self) -> Backlog:
        """Of the second that ends."""
        arrived, self.arrived = self.arrived, 0
        return Backlog(self.task, self.queue.waiting, self.drain_s(), arrived, list(self.drift.found.values()))

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
