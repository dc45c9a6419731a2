"""The gateway: admits requests, joins their parts, answers each exactly once. Owns the ledger; knows nothing of queues,
variants' speeds or servers."""

from __future__ import annotations

import heapq
from math import floor

from loki_rl.core.draws import entry_counts, leaves_below, root_leaves
from loki_rl.core.families import Family, Served, Terms
from loki_rl.core.ledger import Accuracy, PlanRecord, Root, Tally
from loki_rl.core.messages import (
    CONTROLLER,
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
    Sample,
    Send,
    Settled,
    Submit,
    Tick,
    router,
)
from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import PATH_BITS, ROOT_BITS
from loki_rl.core.seconds import latest, run_origin

REASONS = {
    Outcome.OK: "",
    Outcome.LATE: "not finished by its deadline",
    Outcome.DROPPED: "part of it could no longer be finished by the deadline",
    Outcome.REJECTED: "the cluster is full or shutting down",
    Outcome.CANCELLED: "cancelled by the client",
    Outcome.FAILED: "a model failed on part of it",
}


class Gateway:
    """Actor at address `gateway`.

    Join: from the root on, settled[t] must equal the spawned[t] of its settled parents for every task t; any order of
    reports is legal. A request is answered when complete, or at deadline + grace; its record stays until every part has
    ended, so that each leaf is counted.
    """

    def __init__(self, options: ClusterOptions) -> None:
        self.options = options
        self.pipeline = options.pipeline
        self.grace_s = self.pipeline.slo_s if options.grace_s is None else options.grace_s
        self.accuracy = Accuracy(self.pipeline)
        self.tally = Tally()
        self.origin = 0.0
        self.roots: dict[int, Root] = {}
        self.by_key: dict[int, Root] = {}
        self.timers: list[tuple[float, int]] = []
        self.next_root = 0
        self.arrived = 0
        self.next_second: float | None = None
        self.draining = False

    def handle(self, event: Event, now: float) -> list[Effect]:
        effects: list[Effect] = []
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
                self.tally.plans.append(PlanRecord(now - self.origin, plan))
            case Begin(origin):
                self._begin(origin)
            case Drain():
                self.draining = True
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
        """Report every whole second that has passed, also the quiet ones (the latest of them after a very long pause)."""
        if self.next_second is None:
            self.next_second = self.origin + floor(now - self.origin) + 1
        self.next_second = latest(self.next_second, now)
        while now >= self.next_second:
            second = round(self.next_second - self.origin) - 1
            effects.append(Send(CONTROLLER, Counted(second, self.arrived)))
            self.arrived = 0
            self.next_second += 1.0

    def _begin(self, origin: float) -> None:
        """Requests of before the origin stay open but belong to no counted second; the plan in force stays in force. An
        idle gateway numbers its requests from 0 again, so that every run draws the same fan-outs."""
        self.origin = run_origin(origin)
        in_force = [PlanRecord(0.0, record.plan) for record in self.tally.plans[-1:]]
        self.tally = Tally(plans=in_force)
        self.arrived = 0
        self.next_second = origin + 1.0
        if not self.roots:
            self.next_root = 0
        for root in self.roots.values():
            root.second = -1

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
                effects.append(self._refuse(key, second))
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

    def _refuse(self, key: int, second: int) -> Reply:
        number = self._number()
        if second >= 0:
            self.tally.close(second, Outcome.REJECTED, 0.0, 0.0)
            self._never(root_leaves(self.options.seed, self.pipeline, number))
        return Reply(key, -1, Outcome.REJECTED, 0.0, 0.0, [], 0, REASONS[Outcome.REJECTED])

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
        """The timer of a request answers if nothing else has."""
        effects: list[Effect] = []
        while self.timers and self.timers[0][0] <= now:
            root = self.roots.get(heapq.heappop(self.timers)[1])
            if root is not None and not root.replied:
                effects.append(self._reply(root, root.cause or Outcome.LATE, now))
        return effects

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
        del self.roots[root.number]
        while self.timers and self.timers[0][1] not in self.roots:
            heapq.heappop(self.timers)
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
        return Reply(root.key, root.number, outcome, latency_s, accuracy, root.leaves, missing, REASONS[outcome], root.blame)
