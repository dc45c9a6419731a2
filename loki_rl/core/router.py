"""The router of one task: holds its queue and gives batches to its workers. Who gets what is said by its two kinds,
PullRouter and TableRouter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from math import inf

from loki_rl.core.effects import Drop, Effect, Send
from loki_rl.core.messages import (
    CONTROLLER,
    GATEWAY,
    Backlog,
    Begin,
    Cancelled,
    Cause,
    Drifted,
    Event,
    Execute,
    Leaving,
    Outcome,
    PlanChanged,
    Pressure,
    Ready,
    Restarted,
    Result,
    Submit,
    Tick,
    WorkerGone,
    router,
    worker,
)
from loki_rl.core.mix import mix_of
from loki_rl.core.options import ClusterOptions
from loki_rl.core.plan import Plan
from loki_rl.core.requests.accuracy import AccuracyFloor
from loki_rl.core.requests.items import Family, members, size
from loki_rl.core.requests.seconds import Seconds
from loki_rl.core.routing.credits import Credits, Puller
from loki_rl.core.routing.deficit_round_robin import DeficitRoundRobin
from loki_rl.core.routing.leases import Lease, Leases
from loki_rl.core.routing.queue import DeadlineQueue, Entry
from loki_rl.core.routing.service_times import ServiceTimes
from loki_rl.core.routing.token_buckets import TokenBuckets
from loki_rl.core.routing.verdicts import ended, served
from loki_rl.core.servers.servers import Servers

HUNG_S = 0.04
RETURNED = "returned"  # a worker's word for a batch that came after it had left
LOST_TWICE = "it was in the hands of two workers that were lost"
# Batches of a router's later life are numbered from here, times the life: results of the former are then known as such.
LIFE_BITS = 40


class Router:
    """Actor at address `router:<task>`; its kinds say who gets what.

    Workers give credits, the router answers each with one batch. Results are committed only for the lease in force, so a
    batch given to a second worker cannot count twice.

    The batch that a worker runs when it is lost or overdue is given out once more, every item alone: if it was the reason,
    no other item suffers a second time. An item that is lost twice has failed.
    """

    def __init__(self, options: ClusterOptions, task: int, incarnation: int = 0) -> None:
        self.options = options
        self.pipeline = options.pipeline
        self.task = task
        self.children = self.pipeline.children[task]
        self.parent = self.pipeline.parents[task]
        self.child_routers = [router(child) for child in self.children]
        self.servers = Servers(options)
        self.times = ServiceTimes(self.servers, task)
        # Where only the best that there is matters: a variant on the server where it is fastest.
        self.least_s = self.servers.fastest.service_s[task]
        # After a batch is given: the way to the worker, the end of its running batch, the way back and to the gateway.
        self.after_s = self._after_s()
        self.early_drop = options.drop != "none" and (options.drop != "last-task" or not self.children)
        self.reroute = options.drop == "reroute"
        self.soft_deadlines = options.soft_deadlines
        ranked = sorted(
            range(len(self.least_s)), key=lambda v: (-self.pipeline.tasks[task].variants[v].accuracy, self.least_s[v][1])
        )
        self.rank = {variant: place for place, variant in enumerate(ranked)}
        self.floors = AccuracyFloor(self.servers.fastest, task)
        self.allows = [partial(self.floors.allow, variant) for variant in range(len(self.least_s))]
        self.queue = DeadlineQueue(self.pipeline.shifts[task], self.pipeline.parent_shifts[task])
        self.again = DeadlineQueue(self.queue.shift, self.queue.parent_shift, beside=self.queue)  # was lost with a worker
        self.pullers = Credits(self.times.of, self.servers.type_of)
        self.leases = Leases()
        self.shares = DeficitRoundRobin()
        self.flow = TokenBuckets()
        self.due_at = inf  # when a worker that left what waits to others takes it [s]
        self.pressing = False
        self.split = 1.0 if not self.children else 0.5
        self.batches = incarnation << LIFE_BITS
        self.introduced = not incarnation
        self.arrived = 0  # since the last second was reported
        self.seconds = Seconds()

    def handle(self, event: Event, now: float) -> list[Effect]:
        effects: list[Effect] = []
        match event:
            case Submit():
                self._enqueue(event.families, now)
            case Ready():
                self.pullers.credit(event)
            case Result():
                self._commit(event, now, effects)
            case Tick():
                self._tick(now, effects)
            case Pressure():
                self.flow.press(event.task, event.overloaded)
            case Leaving(number, incarnation):
                self.pullers.leave(number, incarnation)
            case WorkerGone(number):
                self.pullers.lose(number)
                self._lose(number, effects)
            case PlanChanged(plan):
                self._adopt(plan, now)
            case Cancelled(roots):
                gone = [entry.family for queue in self.queues() for entry in queue.remove(set(roots))]
                effects += ended(self.task, gone, Outcome.CANCELLED)
            case Restarted(address):
                self._peer_restarted(address, effects)
            case Drifted(drift):
                self.times.adopt(drift)
                self._retime()
            case Begin(origin):
                self.seconds.begin(origin)
                self.arrived = 0
            case _:
                raise TypeError(f"a router cannot handle {type(event).__name__}")
        self._dispatch(now, effects)
        return effects

    def wake_at(self) -> float | None:
        if not self.introduced:
            return -inf
        wake, expiry = self.flow.unbar_at, self.leases.next_expiry
        if self.due_at < wake:
            wake = self.due_at
        if expiry < wake:
            wake = expiry
        if self.seconds.next < wake:
            wake = self.seconds.next
        if self.early_drop and (hard := self._next_hard()) < wake:
            wake = hard
        return None if wake == inf else wake

    def validate(self) -> None:
        queues = list(self.queues())
        queued = [entry.family for queue in queues for lane in queue.lanes for entry in lane]
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
        return (self.queue, self.again)

    def _next_hard(self) -> float:
        """When the first item must have ended here [s]; infinite if none waits."""
        hard = self.queue.next_hard() if self.queue.waiting else inf
        return min(hard, self.again.next_hard()) if self.again.waiting else hard

    # -- what comes in ------------------------------------------------------------------------------------------------

    def _enqueue(self, families: list[Family], now: float) -> None:
        self.arrived += size(families)
        fresh = self.queue.push(families, self.split, self.after_s, now)
        self.shares.arrive(fresh, now)

    def _lose(self, number: int, effects: list[Effect]) -> None:
        """A worker's process has ended, with what it had in hand."""
        for place, lease in enumerate(self.leases.lose(number)):
            if lease.again and not place:
                self.queue.forget(lease.entries)
                effects += ended(self.task, lease.families, Outcome.FAILED, Cause(self.task, said=LOST_TWICE))
            else:
                self._put_back(lease, lost=not place)

    def _lapse(self, now: float) -> bool:
        """Whether a worker's batch should have come back: others get it."""
        lapsed = self.leases.lapse(now)
        if lapsed:
            self.pullers.silence(lapsed[0].worker)
        for place, lease in enumerate(lapsed):
            if place or not lease.again:
                self._put_back(lease, lost=not place)
        return bool(lapsed)

    def _put_back(self, lease: Lease, lost: bool) -> None:
        """Its items wait again, with the deadlines they had. lost: they may be why their worker is."""
        (self.again if lost or lease.again else self.queue).put_back(lease.entries)
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

    # -- peers --------------------------------------------------------------------------------------------------------

    def _introduce(self, effects: list[Effect]) -> None:
        """Begin anew: to workers, who give their credits again; to the gateway, who sends again what is still of use; to the
        controller, who knows what drifts; to the routers beside, who may have heard of pressure here, or know of some."""
        self.introduced = True
        beside = [*self.child_routers, *([router(self.parent)] if self.parent >= 0 else [])]
        workers = map(worker, range(self.options.servers))
        effects += [Send(address, Restarted(router(self.task))) for address in (GATEWAY, CONTROLLER, *beside, *workers)]

    def _peer_restarted(self, address: str, effects: list[Effect]) -> None:
        if address == GATEWAY:
            # Nobody waits any more for what was admitted before.
            entries = [entry for queue in self.queues() for entry in queue.take_all()]
            self.queue.forget(entries)
            effects.append(Drop([entry.family for entry in entries]))
        elif address in self.child_routers:
            self.flow.press(self.children[self.child_routers.index(address)], False)
        elif self.pressing:
            effects.append(Send(address, Pressure(self.task, True)))

    # -- what comes back ----------------------------------------------------------------------------------------------

    def _commit(self, event: Result, now: float, effects: list[Effect]) -> None:
        if self.pullers.silent:
            self.pullers.restore(event.worker, event.incarnation)
        if self.times.record(event, self.servers.type_of(event.worker), now):
            self._retime()
        lease = self.leases.end(event, now)
        if lease is None:
            return
        if event.error == RETURNED:
            self._put_back(lease, lost=False)
            return
        self.queue.forget(lease.entries)
        effects += served(self.pipeline, self.task, lease.families, lease.variant, event)

    def _drop(self, entries: list[Entry], now: float, seconds: float, overloaded: bool, effects: list[Effect]) -> None:
        """seconds: the service time that was too long for them; the cause told is that of the first."""
        if entries:
            first = entries[0].family
            hard = first.deadline - self.after_s
            late_s = now + seconds - (self._soft(first) if overloaded else hard)
            fitting = self.floors.quickest(first)
            if fitting >= 0 and now + self.least_s[fitting][1] > hard:
                fitting = -1
            cause = Cause(self.task, max(0.0, late_s), fitting)
            effects += ended(self.task, [entry.family for entry in entries], Outcome.DROPPED, cause)

    def _soft(self, family: Family) -> float:
        return family.t0 + (family.deadline - family.t0) * self.split

    def _retime(self) -> None:
        """Service times have changed."""
        self.pullers.retime()
        self.after_s = self._after_s()

    def _after_s(self) -> float:
        """The least that a request needs after this task [s]. What makes this task faster than profiled may make those
        behind it so: what they could still make is not dropped."""
        rest_s = self.times.least * self.servers.fastest.rest_s[self.task]
        return rest_s + 3 * self.pipeline.hop_s + self.options.lead_s

    # -- time ---------------------------------------------------------------------------------------------------------

    def _tick(self, now: float, effects: list[Effect]) -> None:
        if not self.introduced:
            self._introduce(effects)
        if self.early_drop:
            for queue in self.queues():
                self._drop(queue.expire(now), now, self.servers.fastest.fastest_s[self.task], False, effects)
        while self._lapse(now):
            pass
        effects += self.leases.given_up(now)
        if self.seconds.ended(now):
            effects.append(Send(CONTROLLER, self._backlog()))

    # -- batches --------------------------------------------------------------------------------------------------------

    # Not an abstract base class: compiled subclasses of one share its cache of instances, and isinstance then errs.
    def _dispatch(self, now: float, effects: list[Effect]) -> None:
        """Give batches to the workers that have a credit."""
        raise NotImplementedError

    def _rescue_s(self, puller: Puller, overloaded: bool) -> float:
        """Service time [s] of whoever could run a batch like the next one faster than this worker; infinite if nobody."""
        raise NotImplementedError

    def _give_again(self, now: float, effects: list[Effect]) -> None:
        """What was lost with a worker goes out again: each item alone, to the fastest that is free."""
        for puller in sorted(self.pullers.idle.values(), key=lambda puller: puller.times[1]):
            if self.again.waiting:
                self._give(puller, self.again, False, now, effects)

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
        again = queue is self.again
        times, cap = puller.times, 1 if again else puller.cap
        allows = self.allows[variant]
        if self.early_drop:
            seconds = times[min(cap, queue.waiting)]
            rescue_s: Callable[[], float] = (
                partial(self._alone_s, puller) if again else partial(self._rescue_s, puller, overloaded)
            )
            entries, dropped = queue.form(cap, times, now, rescue_s, overloaded, allows, lanes)
            self._drop(dropped, now, seconds, overloaded, effects)
        else:
            entries = queue.take(cap, allows, lanes)
        if entries:
            self._lease(puller, entries, now, effects, again)
        return bool(entries)

    def _alone_s(self, puller: Puller) -> float:
        """Service time [s] of one item with the fastest other kind of worker that pulls here; infinite if there is none."""
        own = (puller.server_type, puller.variant)
        others = [self.times.of[kind][variant][1] for kind, variant, _ in self.pullers.kinds if (kind, variant) != own]
        return min(others, default=inf)

    def _lease(self, puller: Puller, entries: list[Entry], now: float, effects: list[Effect], again: bool) -> None:
        batch = self.batches * len(self.pipeline.tasks) + self.task
        self.batches += 1
        self.pullers.spend(puller)
        variant, families = puller.variant, [entry.family for entry in entries]
        usual_s = self.times.given(batch, puller.server_type, variant, size(families))
        patience_s = self.options.lease * usual_s + self.options.lead_s + HUNG_S
        lease = Lease(
            puller.number, puller.incarnation, variant, entries, families, again, usual_s, patience_s, puller.latest
        )
        puller.latest = batch
        self.leases.give(batch, lease, now)
        self.shares.served(variant, families)
        self.flow.spend(variant, families, now)
        slowdown = self.times.slowdown(puller.server_type, variant)
        effects.append(Send(puller.address, Execute(batch, variant, families, slowdown)))

    def drain_s(self) -> float:
        """Predicted time [s] to serve the queue with the workers that pull now."""
        rate = self.pullers.rate
        return self.queue.waiting / rate if rate else (inf if self.queue.waiting else 0.0)

    def _backlog(self) -> Backlog:
        """Of the second that ends."""
        arrived, self.arrived = self.arrived, 0
        queued = self.queue.waiting + self.again.waiting
        return Backlog(self.task, queued, self.drain_s(), arrived, self.times.drift, self.times.levels)
