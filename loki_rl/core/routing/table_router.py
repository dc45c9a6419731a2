"""The router of one task as the Loki paper has it: a routing table deals every item to the queue of one worker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from math import inf

from msgspec.structs import replace

from loki_rl.core.draws import DEAL, uniform
from loki_rl.core.effects import Effect
from loki_rl.core.messages import Backlog
from loki_rl.core.mix import mix_of
from loki_rl.core.options import ClusterOptions
from loki_rl.core.plan import Plan
from loki_rl.core.requests.items import Family
from loki_rl.core.router import Router
from loki_rl.core.routing.credits import Puller
from loki_rl.core.routing.queue import DeadlineQueue, Entry
from loki_rl.core.routing.routing_table import Backend, RoutingTable
from loki_rl.core.routing.standby import Standby


class WorkerQueue(DeadlineQueue):
    """What waits for one worker, while it serves this variant."""

    def __init__(self, task: DeadlineQueue, variant: int) -> None:
        super().__init__(task.shift, task.parent_shift, beside=task)
        self.variant = variant


class TableRouter(Router):
    """Actor at address `router:<task>` where ClusterOptions.routing is "table" (HPDC'24, section 5).

    An item is dealt when it comes, by a keyed draw from the table of its path, and waits for that worker alone, however idle
    the others are. Tables are made anew with every plan and whenever a worker comes or goes. Rerouting: an item that its
    worker would end too late moves to the queue of a faster variant's worker that would end it in time. A table knows the
    demand that is expected: variants that stand by for more are dealt what its worker would end too late. Kinder than the
    published plane: what waits for a worker that is gone is dealt again, and what comes while there is none waits.
    Deadlines, batches, drops and leases are those of the pulling router, so that the two differ in routing alone.
    """

    def __init__(self, options: ClusterOptions, task: int, incarnation: int = 0) -> None:
        super().__init__(options, task, incarnation)
        self.dealt: dict[int, WorkerQueue] = {}  # by worker; what is not dealt yet waits in self.queue
        self.plan: Plan | None = None
        self.table = RoutingTable(self.pipeline, task, None, ())
        self.standby = Standby()
        self.made_for = 0  # Credits.changes when the table was made, -1 if there is a newer plan

    def queues(self) -> Iterable[DeadlineQueue]:
        return (self.queue, self.again, *self.dealt.values())

    def _next_hard(self) -> float:
        return min(queue.next_hard() for queue in self.queues())

    def validate(self) -> None:
        super().validate()
        pullers = self.pullers.all
        assert self.dealt.keys() == pullers.keys(), "a queue without its worker, or the reverse"
        for number, queue in self.dealt.items():
            assert queue.variant == pullers[number].variant, "a queue was dealt for another variant"

    # -- the table ----------------------------------------------------------------------------------------------------

    def _follow(self, plan: Plan, now: float) -> None:  # noqa: ARG002
        self.plan, self.made_for = plan, -1
        self.standby.adopt(mix_of(self.pipeline, self.task, plan))

    def _renew(self) -> None:
        """A table for the workers there are; what waits for one that is gone, or served another variant, is dealt again."""
        self.made_for = self.pullers.changes
        pullers = self.pullers.all
        self.table = RoutingTable(self.pipeline, self.task, self.plan, map(self._seat, pullers.values()))
        for number, queue in list(self.dealt.items()):
            if number not in pullers or pullers[number].variant != queue.variant:
                self.queue.put_back(queue.take_all())
                del self.dealt[number]
        for number, puller in pullers.items():
            if number not in self.dealt:
                self.dealt[number] = WorkerQueue(self.queue, puller.variant)

    def _seat(self, puller: Puller) -> Backend:
        return Backend(puller.number, puller.variant, puller.rate)

    def _deal(self, now: float) -> None:
        """Everything that is in no worker's queue yet, in the order of deadlines; siblings go each its own way."""
        standing = self.standby.among(self.pullers)
        for entry in self.queue.take_all():
            family = entry.family
            able = None if family.terms is None else partial(self._may_serve, family)
            for single in self._singles(entry):
                seat = self.table.pick(family.prefix, uniform(self.options.seed, single.family.id, DEAL), able)
                if seat is None:
                    self.queue.put_back([single])
                else:
                    self._hand(single, self._relieved(seat.number, single, standing, now) if standing else seat.number)

    def _singles(self, entry: Entry) -> Iterator[Entry]:
        while entry.family.count > 1:
            first, entry = self.queue.cut(entry, 1)
            yield first
        yield entry

    def _relieved(self, number: int, entry: Entry, standing: frozenset[int], now: float) -> int:
        """Who gets an item that was dealt to this worker: who ends it first of it and of those that stand by, if it would
        end it too late."""
        pullers = self.pullers.all
        own_end = self._ends(pullers[number], now)
        if own_end <= self.queue.limit(entry, soft_rule=True):
            return number
        others = [other for other in pullers.values() if other.variant in standing]
        ends = [(self._ends(one, now), one.number) for one in others if self.floors.allow(one.variant, entry.family)]
        return min([(own_end, number), *ends])[1]

    def _may_serve(self, family: Family, seat: Backend) -> bool:
        return self.floors.allow(seat.variant, family)

    def _hand(self, entry: Entry, number: int) -> None:
        queue = self.dealt[number]
        queue.newest_soft = self._soft(entry.family)
        queue.put_back([entry])

    # -- dispatch -----------------------------------------------------------------------------------------------------

    def _dispatch(self, now: float, effects: list[Effect]) -> None:
        if self.made_for != self.pullers.changes:
            self._renew()
        if self.queue.waiting and self.dealt:
            self._deal(now)
        if self.again.waiting and self.pullers.idle:
            self._give_again(now, effects)
        again = True
        while again:  # an item that moves goes to a faster variant, so this ends
            again = False
            for puller in sorted(self.pullers.idle.values(), key=self._turn):
                queue = self.dealt[puller.number]
                overloaded = queue.waiting > 0 and self._falls_behind(puller, now)
                if queue.waiting and self.reroute:
                    again |= self._rescue(puller, overloaded, now)
                if queue.waiting:
                    self._give(puller, queue, overloaded, now, effects)

    def _turn(self, puller: Puller) -> int:
        """The most accurate first; of equals, who has waited longest."""
        return self.rank[puller.variant]

    def _falls_behind(self, puller: Puller, now: float) -> bool:
        """Whether the newest item of a worker's queue cannot be served by its soft deadline."""
        queue = self.dealt[puller.number]
        return queue.waiting / puller.rate > queue.newest_soft - now

    def _rescue(self, puller: Puller, overloaded: bool, now: float) -> bool:
        """Move what this worker would end too late to workers that would not; whether anything moved."""
        queue = self.dealt[puller.number]
        finish = now + puller.times[min(puller.cap, queue.waiting)]
        late, stays = queue.take_late(finish, overloaded), []
        for entry in late:
            target = self._rescuer(puller, entry, overloaded, now)
            if target is None:
                stays.append(entry)
            else:
                self._hand(entry, target)
        queue.put_back(stays)
        return len(stays) < len(late)

    def _rescuer(self, puller: Puller, entry: Entry, overloaded: bool, now: float) -> int | None:
        """The worker of a faster variant that would end this item first, if in time."""
        own_s = puller.times[1]
        limit = self.queue.limit(entry, overloaded)
        ends = [
            (self._ends(other, now), other.number)
            for other in self.pullers.all.values()
            if other.times[1] < own_s and self.floors.allow(other.variant, entry.family)
        ]
        first = min(ends, default=(inf, -1))
        return first[1] if first[0] <= limit else None

    def _ends(self, puller: Puller, now: float) -> float:
        """When a worker would end one more item [s], the batch that it may be running taken at its full length."""
        times, cap = puller.times, puller.cap
        batches, rest = divmod(self.dealt[puller.number].waiting, cap)
        return now + (batches + (puller.waiting is None)) * times[cap] + times[rest + 1]

    def _rescue_s(self, puller: Puller, overloaded: bool) -> float:  # noqa: ARG002
        """What could be rescued has moved already; what a batch then leaves behind is late."""
        return inf

    def _backlog(self) -> Backlog:
        queued, rate = sum(queue.waiting for queue in self.queues()), self.pullers.rate
        drain_s = queued / rate if rate else (inf if queued else 0.0)
        return replace(super()._backlog(), queued=queued, drain_s=drain_s)

    def _press(self, now: float, effects: list[Effect]) -> None:
        """Shares are kept by the tables: no parent is ever held back."""
