"""The open requests of a gateway: admitted, joined from their parts, answered once."""

from __future__ import annotations

import heapq
from typing import NamedTuple

from loki_rl.core.draws import RETRY, entry_counts, leaves_below, root_leaves, uniform
from loki_rl.core.effects import Effect, Reply, Send
from loki_rl.core.messages import Cancelled, Cause, Ended, Outcome, routers
from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import PATH_BITS, ROOT_BITS
from loki_rl.core.requests.accuracy import Accuracy
from loki_rl.core.requests.items import Family, QoS, Served, Terms
from loki_rl.core.requests.ledger import Root, Tally
from loki_rl.core.requests.seconds import Seconds

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
    Outcome.FAILED: "part of it failed",
}
# A full gateway has room again as soon as some requests end [s].
FULL_S = 1.0


class Timer(NamedTuple):
    """When something is due for a request [s]."""

    at: float
    root: int


class OpenRequests:
    """Join: from the root on, ended[t] must equal the spawned[t] of its ended parents for every task t; any order of
    reports is legal. A request is answered when complete, or at deadline + grace; its record stays until every part has
    ended, so that each leaf is counted, but not for ever: see Gateway. load_s: longest time to load a model [s].
    """

    def __init__(self, options: ClusterOptions, load_s: float, incarnation: int = 0) -> None:
        self.options = options
        self.pipeline = options.pipeline
        self.grace_s = self.pipeline.slo_s if options.grace_s is None else options.grace_s
        self.load_s = load_s
        self.accuracy = Accuracy(self.pipeline)
        # A floor is for every path, so the leaf with the worst best path decides.
        self.most_asked = min(self.accuracy.best(leaf, 0) for leaf in self.pipeline.leaves)
        self.tally = Tally()
        self.seconds = Seconds()
        self.roots: dict[int, Root] = {}
        self.by_key: dict[int, Root] = {}
        # Bytes of the payloads of what is not answered, by key, of those that have one; and in all.
        self.sizes: dict[int, int] = {}
        self.held = 0
        self.timers: list[Timer] = []
        # Of this life; without a snapshot of the one before it may have had any small number.
        self.first_root = incarnation * LIFE_ROOTS % (1 << ROOT_BITS)
        self.next_root = self.first_root
        self.draining = False

    def _full(self, size: int) -> bool:
        """Whether there is no room for one more, with a payload of so many bytes."""
        options = self.options
        return len(self.by_key) >= options.max_inflight or self.held + size > options.max_inflight_bytes

    def _hold(self, key: int, size: int) -> None:
        self.sizes[key] = size
        self.held += size

    def _number(self) -> int:
        """Every arrival takes the next number, also one that is refused: the later ones keep their draws."""
        number = self.next_root
        self.next_root = (number + 1) % (1 << ROOT_BITS)
        return number

    def _unattainable(self, qos: QoS) -> str:
        most = f"{self.most_asked:g}, the most that this pipeline reaches on every path"
        return f"min_accuracy {qos.min_accuracy:g} is above {most}"

    def _terms(self, qos: QoS | None) -> Terms | None:
        """Priority 1 goes before whatever came up to one SLO earlier, 2 half of that, and so on: nobody starves."""
        if qos is None:
            return None
        return Terms(qos.min_accuracy, self.pipeline.slo_s / qos.priority if qos.priority else 0.0)

    def _refuse(self, key: int, second: int, now: float, unattainable: str = "") -> Reply:
        """unattainable: what the client asks for that nothing can serve, where that is why; asking again is no use then."""
        number = self._number()
        if second >= 0:
            self.tally.close(second, Outcome.REJECTED, 0.0, 0.0)
            self._never(root_leaves(self.options.seed, self.pipeline, number))
        if unattainable:
            return Reply(key, -1, Outcome.REJECTED, 0.0, 0.0, [], 0, unattainable, Cause(-1, client_fault=True))
        retry_s = self._retry_s(number, Outcome.REJECTED, now)
        return Reply(key, -1, Outcome.REJECTED, 0.0, 0.0, [], 0, REASONS[Outcome.REJECTED], None, retry_s)

    def _admit(self, key: int, t0: float, deadline: float, second: int, terms: Terms | None) -> Root:
        root = Root(self._number(), key, t0, deadline, second, len(self.pipeline.tasks), terms)
        self.roots[root.number] = root
        self.by_key[key] = root
        heapq.heappush(self.timers, Timer(deadline + self.grace_s, root.number))
        return root

    def _spawn_entries(self, root: Root, queues: dict[int, list[Family]]) -> None:
        counts = entry_counts(self.options.seed, self.pipeline, root.number)
        number = 0
        for task, count in zip(self.pipeline.entries, counts, strict=True):
            root.spawned[task] = count
            if count:
                first = self.pipeline.entry_id(root.number, number)
                queues[task].append(Family(first, root.t0, root.deadline, 0, root.terms, count))
                number += count

    def _forget(self, root: Root) -> None:
        del self.roots[root.number]
        while self.timers and self.timers[0].root not in self.roots:
            heapq.heappop(self.timers)

    def _replace(self, root: Root) -> Root:
        """Another in its place: what still ends of the former is counted nowhere and answered by nobody."""
        successor = self._admit(root.key, root.t0, root.deadline, root.second, root.terms)
        root.replied, root.second = True, -1
        return successor

    # -- parts --------------------------------------------------------------------------------------------------------

    def _end_items(self, event: Ended, now: float) -> list[Effect]:
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
            root.ended[task] += family.count
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
            if root.ended == root.spawned:
                effects += self._finish(root, now)
        return effects + self._recall(lost) if lost else effects

    def _recall(self, roots: list[int]) -> list[Effect]:
        """Nothing that still waits for these requests is worth running: they are violated whatever comes."""
        still = [number for number in dict.fromkeys(roots) if number in self.roots]
        if not still:
            return []
        return [Send(address, Cancelled(still)) for address in routers(self.pipeline)]

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
        if self.sizes:
            self.held -= self.sizes.pop(root.key, 0)
        latency_s = now - root.t0
        accuracy = self.accuracy.of(root) if outcome is Outcome.OK else 0.0
        if root.second >= 0:
            self.tally.close(root.second, outcome, latency_s, accuracy)
        missing = 0 if outcome is Outcome.OK else root.missing
        reason, retry_s = REASONS[outcome], self._retry_s(root.number, outcome, now)
        return Reply(root.key, root.number, outcome, latency_s, accuracy, root.leaves, missing, reason, root.blame, retry_s)

    def _retry_s(self, number: int, outcome: Outcome, now: float) -> float:
        """A full gateway empties; an overloaded stage has to wait until the next plan is made and its models are loaded.
        Spread, each by its number, over what follows: clients that were refused together would come back together, and be
        refused again."""
        if outcome is Outcome.REJECTED:
            return 0.0 if self.draining else FULL_S * (1 + 2 * uniform(self.options.seed, number, RETRY))
        if outcome not in (Outcome.DROPPED, Outcome.LATE):
            return 0.0
        interval_s = self.options.interval_s
        planned_s = interval_s - (now - self.seconds.origin) % interval_s
        change_s = interval_s + self.load_s
        return planned_s + self.load_s + change_s * uniform(self.options.seed, number, RETRY)
