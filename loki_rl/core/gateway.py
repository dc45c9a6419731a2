"""The gateway: admits requests, joins their parts, answers each exactly once. Knows nothing of queues, servers or which
variant runs where."""

from __future__ import annotations

import heapq
from math import floor, inf

import msgspec

from loki_rl.core.effects import Drop, Effect, Send
from loki_rl.core.messages import (
    CONTROLLER,
    GATEWAY,
    Abandoned,
    Arrived,
    Begin,
    Cause,
    Counted,
    Drain,
    Ended,
    Event,
    Outcome,
    PlanChanged,
    Restarted,
    Restored,
    Resume,
    Sample,
    Submit,
    Tick,
    number_of,
    router,
    routers,
)
from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import ROOT_BITS
from loki_rl.core.plan import Plan
from loki_rl.core.requests.items import Family
from loki_rl.core.requests.ledger import PlanRecord, Tally
from loki_rl.core.requests.open_requests import LIFE_ROOTS, OpenRequests, Timer
from loki_rl.core.servers.history import HISTORY_S
from loki_rl.core.servers.servers import Servers

# How long after its last timer a request is kept for parts that have not ended: those lost with a process never do.
FORGET_S = 60.0


class Gateway(OpenRequests):
    """Actor at address `gateway`: events, time, the lives of its peers and its own. Requests whose parts never end are
    forgotten FORGET_S after their last timer."""

    def __init__(self, options: ClusterOptions, incarnation: int = 0) -> None:
        super().__init__(options, Servers(options).slowest_load_s, incarnation)
        self.incarnation = incarnation
        # Where a task drops nothing, its items may wait for longer and still end.
        self.forgets = options.drop not in ("none", "last-task")
        self.arrived = 0
        self.announced = not incarnation
        # Whether this life knows the run that it counts for.
        self.placed = not incarnation

    def handle(self, event: Event, now: float) -> list[Effect]:
        effects: list[Effect] = [] if self.announced else self._announce()
        if self.seconds.next == inf:
            self.seconds.begin(self.seconds.origin, now)
        elif now >= self.seconds.next:
            self._count(now, effects)
        match event:
            case Ended():
                effects += self._end_items(event, now)
            case Arrived():
                effects += self._arrive(event, now)
            case Tick():
                effects += self._expire(now)
            case Sample(second, servers, loads):
                self._sample(second, servers, loads)
            case Abandoned(keys):
                effects += self._abandon(keys, now)
            case PlanChanged(plan):
                self._adopt(plan, now)
            case Begin(origin):
                self._begin(origin, now)
            case Drain():
                self.draining = True
            case Restored():
                self._restore(event, now, effects)
            case Restarted(address):
                effects += self._peer_restarted(address, now)
            case _:
                raise TypeError(f"the gateway cannot handle {type(event).__name__}")
        return effects

    def wake_at(self) -> float | None:
        wake = self.seconds.next
        if self.timers and self.timers[0].at < wake:
            wake = self.timers[0].at
        return None if wake == inf else wake

    def validate(self) -> None:
        self.tally.validate()
        unanswered = sum(not root.replied for root in self.roots.values())
        assert unanswered == len(self.by_key), "a request is unanswered and has no reply slot, or the reverse"
        assert self.sizes.keys() <= self.by_key.keys(), "an answered request still counts as held"
        assert self.held == sum(self.sizes.values()), "the bytes of the payloads do not add up"
        for root in self.roots.values():
            assert not root.complete, f"request {root.number} is complete and still here"
            assert sum(root.seen.values()) == sum(root.ended), f"request {root.number}: a repeat was counted"

    # -- time ---------------------------------------------------------------------------------------------------------

    def _count(self, now: float, effects: list[Effect]) -> None:
        """Report every whole second that has passed."""
        for second in self.seconds.ended(now):
            effects.append(Send(CONTROLLER, Counted(second, self.arrived)))
            self.arrived = 0

    def _begin(self, origin: float, now: float) -> None:
        """Requests of before the origin stay open but belong to no counted second; the plan in force stays in force. An
        idle gateway numbers its requests as at its start, so that every run draws the same fan-outs."""
        if self.incarnation and origin == self.seconds.origin:
            return  # of the run that goes on: others tell a restarted gateway what they know
        if not self.placed:
            self._join(origin)
            return
        # Seconds that have passed by now passed without this gateway.
        self.seconds.begin(origin, max(now, origin))
        self.tally = Tally(plans=self._in_force())
        self.arrived = 0
        if not self.roots:
            self.next_root = self.first_root
        for root in self.roots.values():
            root.second = -1

    def _join(self, origin: float) -> None:
        """Of the life before nothing was left: what this one has counted by the clock is counted in the run that goes on."""
        self.placed = True
        earlier = floor(origin - self.seconds.origin)
        self.seconds.begin(origin, max(self.seconds.next - 1.0, origin))
        self.tally.shift(-earlier)
        self.tally.plans = self._in_force()
        for root in self.roots.values():
            root.second = max(-1, root.second - earlier)

    def _in_force(self) -> list[PlanRecord]:
        """The latest plan, from the beginning of a run."""
        return [PlanRecord(0.0, record.plan) for record in self.tally.plans[-1:]]

    def _adopt(self, plan: Plan, now: float) -> None:
        """A restarted gateway is told the plan in force, which it may have restored."""
        if not (self.incarnation and self.tally.plans and self.tally.plans[-1].plan.epoch == plan.epoch):
            self.tally.plans.append(PlanRecord(now - self.seconds.origin, plan))

    # -- another life -------------------------------------------------------------------------------------------------

    def _announce(self) -> list[Effect]:
        """Before all else: what others hold for the life before this one must not be taken for what is new."""
        self.announced = True
        return [Send(address, Restarted(GATEWAY)) for address in (CONTROLLER, *routers(self.pipeline))]

    def _restore(self, event: Restored, now: float, effects: list[Effect]) -> None:
        """Go on where the life before stood. What was open then has failed: its clients know, and nobody can answer them."""
        self.tally = msgspec.msgpack.decode(event.tally, type=Tally)
        self.tally.fail_open()
        self.placed = True
        self.draining = event.draining
        self.arrived = event.arrived
        self.next_root = self.first_root = (event.next_root + LIFE_ROOTS) % (1 << ROOT_BITS)
        self.seconds.begin(event.origin)
        self.seconds.next += event.second
        self._count(now, effects)

    def _peer_restarted(self, address: str, now: float) -> list[Effect]:
        """It is told where things stand, and gets again what its former life had and has time left."""
        plan = self.tally.plans[-1].plan if self.tally.plans else None
        counted = 0 if self.seconds.next == inf else max(0, round(self.seconds.next - self.seconds.origin) - 1)
        if address == CONTROLLER:
            seconds = [self.tally.seconds.get(number) for number in range(max(0, counted - HISTORY_S), counted)]
            arrivals = [0 if second is None else second.arrivals for second in seconds]
            return [Send(address, Resume(self.seconds.origin, counted, arrivals, plan))]
        told = [Send(address, Begin(self.seconds.origin)), *([] if plan is None else [Send(address, PlanChanged(plan))])]
        return told + self._send_again(number_of(address), now)

    def _send_again(self, task: int, now: float) -> list[Effect]:
        """Every open request that had items at this task, from its beginning and under a new number: what its payload has
        become since is only known to those who held it."""
        lost = [root for root in self.by_key.values() if root.spawned[task] > root.ended[task]]
        queues: dict[int, list[Family]] = {entry: [] for entry in self.pipeline.entries}
        effects: list[Effect] = []
        for root in lost:
            late_s = now + self.pipeline.fastest_path_s - root.deadline
            if late_s > 0:
                root.cause, root.blame = Outcome.DROPPED, Cause(task, late_s)
                effects.append(self._reply(root, Outcome.DROPPED, now))
                continue
            self._spawn_entries(self._replace(root), queues)
            effects.append(Drop([Family(self.pipeline.entry_id(root.number, 0), root.t0, root.deadline, 0)]))
        effects += self._recall([root.number for root in lost])
        return effects + [Send(router(entry), Submit(families)) for entry, families in queues.items() if families]

    def _sample(self, second: int, servers: int, loads: int) -> None:
        if second >= 0:
            slot = self.tally.second(second)
            slot.servers = servers
            slot.loads = loads

    # -- requests -----------------------------------------------------------------------------------------------------

    def _arrive(self, event: Arrived, now: float) -> list[Effect]:
        effects: list[Effect] = []
        queues: dict[int, list[Family]] = {task: [] for task in self.pipeline.entries}
        second = floor(now - self.seconds.origin)
        for key, timeout in zip(event.keys, event.timeouts, strict=True):
            if second >= 0:
                self.tally.arrive(second)
            qos = event.qos.get(key)
            if qos is not None and qos.min_accuracy > self.most_asked:
                effects.append(self._refuse(key, second, now, self._unattainable(qos)))
                continue
            self.arrived += 1  # what no plan can serve is no demand
            size = event.sizes.get(key, 0)
            if self.draining or self._full(size):
                effects.append(self._refuse(key, second, now))
                continue
            if size:
                self._hold(key, size)
            root = self._admit(key, now, now + (timeout or self.pipeline.slo_s), second, self._terms(qos))
            self._spawn_entries(root, queues)
            if root.complete:
                effects += self._finish(root, now)
        effects += [Send(router(task), Submit(families)) for task, families in queues.items() if families]
        return effects

    def _abandon(self, keys: list[int], now: float) -> list[Effect]:
        gone = [root for key in keys if (root := self.by_key.get(key)) is not None]
        if not gone:
            return []
        effects: list[Effect] = []
        for root in gone:
            root.cause = root.cause or Outcome.CANCELLED
            effects.append(self._reply(root, root.cause, now))
        return effects + self._recall([root.number for root in gone])

    def _expire(self, now: float) -> list[Effect]:
        """The first timer of a request answers if nothing else has, the second forgets it: what has not ended by then is
        counted nowhere."""
        effects: list[Effect] = []
        while self.timers and self.timers[0].at <= now:
            root = self.roots.get(heapq.heappop(self.timers).root)
            if root is None:
                continue
            if root.expired:
                self._forget(root)
                continue
            root.expired = True
            if self.forgets:
                heapq.heappush(self.timers, Timer(now + FORGET_S, root.number))
            if not root.replied:
                effects.append(self._reply(root, root.cause or Outcome.LATE, now))
        return effects
