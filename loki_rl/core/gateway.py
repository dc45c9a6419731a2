"""The gateway: admits requests, joins their parts, answers each exactly once. Owns the ledger; knows nothing of queues,
variants' speeds or servers."""

from __future__ import annotations

import heapq
from math import floor

import msgspec

from loki_rl.core.draws import RETRY, entry_counts, leaves_below, root_leaves, uniform
from loki_rl.core.families import Family, Served, Terms
from loki_rl.core.ledger import Accuracy, PlanRecord, Root, Tally
from loki_rl.core.messages import (
    CONTROLLER,
    GATEWAY,
    Abandoned,
    Arrived,
    Begin,
    Cancelled,
    Counted,
    Drain,
    Effect,
    Event,
    Outcome,
    PlanChanged,
    Reply,
    Restarted,
    Restored,
    Sample,
    Send,
    Settled,
    Submit,
    Tick,
    router,
)
from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import PATH_BITS, ROOT_BITS
from loki_rl.core.plan import Plan

# How long after its last timer a request is kept for parts that have not ended: those lost with a process never do.
FORGET_S = 60.0
# A restarted gateway numbers its requests from this far beyond its last snapshot: routers and workers may still hold items
# of those numbered after it. They are a second's worth or so, which is less than this for any gateway, and 4096 lives pass
# before the numbers are used again.
LIFE_ROOTS = 1 << 20

REASONS = {
    Outcome.OK: "",
    Outcome.LATE: "not finished by its deadline",
    Outcome.DROPPED: "part of it could no longer be finished by the deadline",
    Outcome.REJECTED: "the cluster is full or shutting down",
    Outcome.CANCELLED: "cancelled by the client",
    Outcome.FAILED: "a model failed on part of it",
}
# A full gateway has room again as soon as some requests end [s].
FULL_S = 1.0


class Gateway:
    """Actor at address `gateway`.

    Join: from the root on, settled[t] must equal the spawned[t] of its settled parents for every task t; any order of
    reports is legal. A request is answered when complete, or at deadline + grace; its record stays until every part has
    ended, so that each leaf is counted, but no longer than FORGET_S.
    """

    def __init__(self, options: ClusterOptions, incarnation: int = 0) -> None:
        self.options = options
        self.incarnation = incarnation
        self.pipeline = options.pipeline
        self.grace_s = self.pipeline.slo_s if options.grace_s is None else options.grace_s
        # Where a task drops nothing, its items may wait for longer and still end.
        self.forgets = options.drop not in ("none", "last-task")
        self.accuracy = Accuracy(self.pipeline)
        self.tally = Tally()
        self.origin = 0.0
        self.roots: dict[int, Root] = {}
        self.by_key: dict[int, Root] = {}
        self.timers: list[tuple[float, int]] = []
        # Of this life; without a snapshot of the one before it may have had any small number.
        self.first_root = incarnation * LIFE_ROOTS % (1 << ROOT_BITS)
        self.next_root = self.first_root
        self.arrived = 0
        self.next_second: float | None = None
        self.draining = False
        self.announced = not incarnation

    def handle(self, event: Event, now: float) -> list[Effect]:
        effects: list[Effect] = [] if self.announced else self._announce()
        if self.next_second is None or now >= self.next_second:
            self._count(now, effects)
        match event:
            case Settled():
                effects += self._settle(event, now)
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
            case _:
                raise TypeError(f"the gateway cannot handle {type(event).__name__}")
        return effects

    def wake_at(self) -> float | None:
        timer = self.timers[0][0] if self.timers else None
        if self.next_second is None or (timer is not None and timer < self.next_second):
            return timer
        return self.next_second

    def validate(self) -> None:
        self.tally.validate()
        unanswered = sum(not root.replied for root in self.roots.values())
        assert unanswered == len(self.by_key), "a request is unanswered and has no reply slot, or the reverse"
        for root in self.roots.values():
            assert not root.complete, f"request {root.number} is complete and still here"
            assert sum(root.seen.values()) == sum(root.settled), f"request {root.number}: a repeat was counted"

    # -- time ---------------------------------------------------------------------------------------------------------

    def _count(self, now: float, effects: list[Effect]) -> None:
        """Report every whole second that has passed, also the quiet ones."""
        if self.next_second is None:
            self.next_second = self.origin + floor(now - self.origin) + 1
        while now >= self.next_second:
            second = round(self.next_second - self.origin) - 1
            effects.append(Send(CONTROLLER, Counted(second, self.arrived)))
            self.arrived = 0
            self.next_second += 1.0

    def _begin(self, origin: float, now: float) -> None:
        """Requests of before the origin stay open but belong to no counted second; the plan in force stays in force. An
        idle gateway numbers its requests as at its start, so that every run draws the same fan-outs."""
        if self.incarnation and origin == self.origin:
            return  # of the run that goes on: others tell a restarted gateway what they know
        in_force = [PlanRecord(0.0, record.plan) for record in self.tally.plans[-1:]]
        self.tally = Tally(plans=in_force)
        self.origin = origin
        self.arrived = 0
        # Seconds that have passed by now passed without this gateway.
        self.next_second = origin + max(0, floor(now - origin)) + 1.0
        if not self.roots:
            self.next_root = self.first_root
        for root in self.roots.values():
            root.second = -1

    def _adopt(self, plan: Plan, now: float) -> None:
        """A restarted gateway is told the plan in force, which it may have restored."""
        if not (self.incarnation and self.tally.plans and self.tally.plans[-1].plan.epoch == plan.epoch):
            self.tally.plans.append(PlanRecord(now - self.origin, plan))

    # -- another life -------------------------------------------------------------------------------------------------

    def _announce(self) -> list[Effect]:
        """Before all else: what others hold for the life before this one must not be taken for what is new."""
        self.announced = True
        told = [CONTROLLER, *(router(task) for task in range(len(self.pipeline.tasks)))]
        return [Send(address, Restarted(GATEWAY)) for address in told]

    def _restore(self, event: Restored, now: float, effects: list[Effect]) -> None:
        """Go on where the life before stood. What was open then has failed: its clients know, and nobody can answer them."""
        self.tally = msgspec.msgpack.decode(event.tally, type=Tally)
        self.tally.fail_open()
        self.origin = event.origin
        self.draining = event.draining
        self.arrived = event.arrived
        self.next_root = self.first_root = (event.next_root + LIFE_ROOTS) % (1 << ROOT_BITS)
        self.next_second = event.origin + event.second + 1.0
        if now >= self.next_second:
            self._count(now, effects)

    def _sample(self, second: int, servers: int, loads: int) -> None:
        if second >= 0:
            slot = self.tally.second(second)
            slot.servers = servers
            slot.loads = loads

    # -- requests -----------------------------------------------------------------------------------------------------

    def _arrive(self, event: Arrived, now: float) -> list[Effect]:
        effects: list[Effect] = []
        queues: dict[int, list[Family]] = {task: [] for task in self.pipeline.entries}
        second = floor(now - self.origin)
        for key, timeout in zip(event.keys, event.timeouts, strict=True):
            self.arrived += 1
            if second >= 0:
                self.tally.arrive(second)
            if self.draining or len(self.by_key) >= self.options.max_inflight:
                effects.append(self._refuse(key, second, now))
                continue
            root = self._admit(key, now, now + (timeout or self.pipeline.slo_s), second)
            self._spawn_entries(root, queues, event.terms.get(key))
            if root.complete:
                effects += self._finish(root, now)
        effects += [Send(router(task), Submit(families)) for task, families in queues.items() if families]
        return effects

    def _number(self) -> int:
        """Every arrival takes the next number, also one that is refused: the later ones keep their draws."""
        number = self.next_root
        self.next_root = (number + 1) % (1 << ROOT_BITS)
        return number

    def _refuse(self, key: int, second: int, now: float) -> Reply:
        number = self._number()
        if second >= 0:
            self.tally.close(second, Outcome.REJECTED, 0.0, 0.0)
            self._never(root_leaves(self.options.seed, self.pipeline, number))
        retry_s = self._retry_s(number, Outcome.REJECTED, now)
        return Reply(key, -1, Outcome.REJECTED, 0.0, 0.0, [], 0, REASONS[Outcome.REJECTED], None, retry_s)

    def _admit(self, key: int, now: float, deadline: float, second: int) -> Root:
        root = Root(self._number(), key, now, deadline, second, len(self.pipeline.tasks))
        self.roots[root.number] = root
        self.by_key[key] = root
        heapq.heappush(self.timers, (deadline + self.grace_s, root.number))
        return root

    def _spawn_entries(self, root: Root, queues: dict[int, list[Family]], terms: Terms | None) -> None:
        counts = entry_counts(self.options.seed, self.pipeline, root.number)
        number = 0
        for task, count in zip(self.pipeline.entries, counts, strict=True):
            root.spawned[task] = count
            if count:
                first = self.pipeline.entry_id(root.number, number)
                queues[task].append(Family(first, root.t0, root.deadline, 0, terms, count))
                number += count

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
        while self.timers and self.timers[0][0] <= now:
            root = self.roots.get(heapq.heappop(self.timers)[1])
            if root is None:
                continue
            if root.expired:
                self._forget(root)
                continue
            root.expired = True
            if self.forgets:
                heapq.heappush(self.timers, (now + FORGET_S, root.number))
            if not root.replied:
                effects.append(self._reply(root, root.cause or Outcome.LATE, now))
        return effects

    def _forget(self, root: Root) -> None:
        del self.roots[root.number]
        while self.timers and self.timers[0][1] not in self.roots:
            heapq.heappop(self.timers)

    # -- parts --------------------------------------------------------------------------------------------------------

    def _settle(self, event: Settled, now: float) -> list[Effect]:
        effects: list[Effect] = []
        lost: list[int] = []
        task, outcome = event.task, event.outcome
        leaf = not self.pipeline.children[task]
        told = 0
        for family in event.families:
            told, since = told + family.count, told
            root = self.roots.get(family.id >> PATH_BITS)
            if root is None or family.id in root.seen:
                continue
            root.seen[family.id] = family.count
            root.settled[task] += family.count
            if outcome is not Outcome.OK:
                if root.cause is None:
                    lost.append(root.number)
                root.blame = root.blame or event.cause
                self._lose(root, task, family, outcome)
            elif leaf:
                self._end_leaves(root, task, family, event.variant, now)
            else:
                self._spawn(root, task, family, event.variant, event.fanouts[since:told])
                if root.cause is not None:
                    lost.append(root.number)
            if root.settled == root.spawned:
                effects += self._finish(root, now)
        return effects + self._recall(lost) if lost else effects

    def _recall(self, roots: list[int]) -> list[Effect]:
        """Nothing that still waits for these requests is worth running: they are violated whatever comes."""
        still = [number for number in dict.fromkeys(roots) if number in self.roots]
        if not still:
            return []
        return [Send(router(task), Cancelled(still)) for task in range(len(self.pipeline.tasks))]

    def _lose(self, root: Root, task: int, family: Family, outcome: Outcome) -> None:
        """First cause wins. Every leaf that can no longer be counts as violated."""
        root.cause = root.cause or outcome
        root.lost += family.count
        if root.second >= 0:
            for item in self.pipeline.members(task, family.id, family.count):
                self._never(leaves_below(self.options.seed, self.pipeline, item, task))

    def _never(self, leaves: int) -> None:
        """These leaves will not be."""
        self.tally.leaves += leaves
        self.tally.leaves_bad += leaves

    def _end_leaves(self, root: Root, task: int, family: Family, variant: int, now: float) -> None:
        path, count = self.pipeline.extend(family.prefix, variant), family.count
        root.leaf_counts[task] += count
        accuracy, total = self.accuracy.path(task, path), root.accuracy_sums[task]
        for _ in range(count):  # one by one: the sum must not depend on which siblings end together
            total += accuracy
        root.accuracy_sums[task] = total
        if not root.replied:
            root.leaves.append(Served(task, family.id, path, count))
        if root.second >= 0:
            self.tally.executions += count
            self.tally.leaves += count
            if now > root.deadline:
                self.tally.leaves_bad += count

    def _spawn(self, root: Root, task: int, family: Family, variant: int, fanouts: list[tuple[int, ...]]) -> None:
        path = self.pipeline.extend(family.prefix, variant)
        for fanout in fanouts:
            for child, count in zip(self.pipeline.children[task], fanout, strict=True):
                root.spawned[child] += count
                if not count:
                    self.accuracy.dead_end(root, child, path)
        if root.second >= 0:
            self.tally.executions += family.count

    def _finish(self, root: Root, now: float) -> list[Effect]:
        """Every part has ended: answer, unless the timer or the client was first, and forget."""
        self._forget(root)
        if root.replied:
            return []
        return [self._reply(root, root.cause or (Outcome.OK if now <= root.deadline else Outcome.LATE), now)]

    def _reply(self, root: Root, outcome: Outcome, now: float) -> Reply:
        root.replied = True
        del self.by_key[root.key]
        latency_s = now - root.t0
        accuracy = self.accuracy.of(root) if outcome is Outcome.OK else 0.0
        if root.second >= 0:
            self.tally.close(root.second, outcome, latency_s, accuracy)
        missing = 0 if outcome is Outcome.OK else root.missing
        reason, retry_s = REASONS[outcome], self._retry_s(root.number, outcome, now)
        return Reply(root.key, root.number, outcome, latency_s, accuracy, root.leaves, missing, reason, root.blame, retry_s)

    def _retry_s(self, number: int, outcome: Outcome, now: float) -> float:
        """A full gateway empties; an overloaded stage has to wait for the next plan. Spread, each by its number, over what
        follows: clients that were refused together would come back together, and be refused again."""
        if outcome is Outcome.REJECTED:
            return 0.0 if self.draining else FULL_S * (1 + 2 * uniform(self.options.seed, number, RETRY))
        if outcome not in (Outcome.DROPPED, Outcome.LATE):
            return 0.0
        interval_s = self.options.interval_s
        return interval_s - (now - self.origin) % interval_s + interval_s * uniform(self.options.seed, number, RETRY)
