"""The router of one task as the Loki paper has it: a routing table deals every item to the queue of one worker. Owns the
dealing and what becomes of a queue whose worker is gone; all else is the pulling router's."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from math import inf

from msgspec.structs import replace

from loki_rl.core.draws import DEAL, uniform
from loki_rl.core.messages import Backlog, Effect, Item
from loki_rl.core.options import ClusterOptions
from loki_rl.core.plan import Plan
from loki_rl.core.pullers import Puller
from loki_rl.core.queue import DeadlineQueue
from loki_rl.core.router import Router
from loki_rl.core.routing_table import RoutingTable, Seat


class Lane(DeadlineQueue):
    """What waits for one worker, while it serves this variant."""

    def __init__(self, task: DeadlineQueue, variant: int) -> None:
        super().__init__(beside=task)
        self.variant = variant


class TableRouter(Router):
    """Actor at address `router:<task>` where ClusterOptions.routing is "table" (HPDC'24, section 5).

    An item is dealt when it comes, by a keyed draw from the table of its path, and waits for that worker alone, however idle
    the others are. Tables are made anew with every plan and whenever a worker comes or goes. Rerouting: an item that its
    worker would end too late moves to the queue of a faster variant's worker that would end it in time. Kinder than the
    published plane: what waits for a worker that is gone is dealt again, and what comes while there is none waits.
    Deadlines, batches, drops and leases are those of the pulling router, so that the two differ in routing alone.
    """

    def __init__(self, options: ClusterOptions, task: int) -> None:
        super().__init__(options, task)
        self.lanes: dict[int, Lane] = {}  # by worker; what is not dealt yet waits in self.queue
        self.plan: Plan | None = None
        self.table = RoutingTable(self.pipeline, task, None, ())
        self.stale = False

    def queues(self) -> Iterable[DeadlineQueue]:
        return (self.queue, *self.lanes.values())

    def wake_at(self) -> float | None:
        wake = inf if self.next_second is None else self.next_second
        if self.expiries:
            wake = min(wake, self.expiries[0][0])
        if self.early_drop:
            wake = min([wake, *(queue.heap[0][2] for queue in self.queues() if queue.heap)])
        return None if wake == inf else wake

    def validate(self) -> None:
        super().validate()
        assert self.lanes.keys() == self.pullers.keys(), "a queue without its worker, or the reverse"
        for number, lane in self.lanes.items():
            assert lane.variant == self.pullers[number].variant, "a queue was dealt for another variant"

    # -- the table ----------------------------------------------------------------------------------------------------

    def _recount(self) -> None:
        super()._recount()
        self.stale = True

    def _adopt(self, plan: Plan, now: float) -> None:
        super()._adopt(plan, now)
        self.plan, self.stale = plan, True

    def _renew(self) -> None:
        """A table for the workers there are; what waits for one that is gone, or served another variant, is dealt again."""
        self.stale = False
        self.table = RoutingTable(self.pipeline, self.task, self.plan, map(self._seat, self.pullers))
        for number, lane in list(self.lanes.items()):
            if number not in self.pullers or self.pullers[number].variant != lane.variant:
                self.queue.put_back([entry[3] for entry in lane.heap])
                del self.lanes[number]
        for number, puller in self.pullers.items():
            if number not in self.lanes:
                self.lanes[number] = Lane(self.queue, puller.variant)

    def _seat(self, number: int) -> Seat:
        puller = self.pullers[number]
        return Seat(number, puller.variant, self._cap(puller) / self.service_s[puller.variant][self._cap(puller)])

    def _cap(self, puller: Puller) -> int:
        return min(puller.batch, len(self.service_s[puller.variant]) - 1)

    def _deal(self) -> None:
        """Everything that is in no worker's queue yet, in the order of deadlines."""
        waiting, self.queue.heap = sorted(self.queue.heap), []
        for _, _, _, item in waiting:
            able = None if item.terms is None else partial(self._may_serve, item)
            seat = self.table.pick(item.prefix, uniform(self.options.seed, item.id, DEAL), able)
            if seat is None:
                self.queue.put_back([item])
            else:
                self._hand(item, seat.number)

    def _may_serve(self, item: Item, seat: Seat) -> bool:
        return self.floors.allow(seat.variant, item)

    def _hand(self, item: Item, number: int) -> None:
        lane = self.lanes[number]
        lane.newest_soft = self._soft(item)
        lane.put_back([item])

    # -- dispatch -----------------------------------------------------------------------------------------------------

    def _dispatch(self, now: float, effects: list[Effect]) -> None:
        if self.stale:
            self._renew()
        if self.queue.heap and self.lanes:
            self._deal()
        again = True
        while again:  # an item that moves goes to a faster variant, so this ends
            again = False
            for number in self._waiting():
                lane = self.lanes[number]
                overloaded = bool(lane.heap) and self._falls_behind(number, now)
                if lane.heap and self.reroute:
                    again |= self._rescue(number, overloaded, now)
                if lane.heap:
                    self._give(number, lane, overloaded, now, effects)

    def _falls_behind(self, number: int, now: float) -> bool:
        """Whether the newest item of a worker's queue cannot be served by its soft deadline."""
        lane = self.lanes[number]
        return len(lane) / self._seat(number).capacity > lane.newest_soft - now

    def _rescue(self, number: int, overloaded: bool, now: float) -> bool:
        """Move what this worker would end too late to workers that would not; whether anything moved."""
        puller, lane = self.pullers[number], self.lanes[number]
        finish = now + self.service_s[puller.variant][min(self._cap(puller), len(lane))]
        late, stays = lane.take_late(finish, overloaded), []
        for item in late:
            target = self._rescuer(number, item, overloaded, now)
            if target is None:
                stays.append(item)
            else:
                self._hand(item, target)
        lane.put_back(stays)
        return len(stays) < len(late)

    def _rescuer(self, number: int, item: Item, overloaded: bool, now: float) -> int | None:
        """The worker of a faster variant that would end this item first, if in time."""
        own_s = self.service_s[self.pullers[number].variant][1]
        limit = self.queue.limit(self.queue.known[item.id], overloaded)
        ends = [
            (self._ends(other, now), other)
            for other, puller in self.pullers.items()
            if self.service_s[puller.variant][1] < own_s and self.floors.allow(puller.variant, item)
        ]
        first = min(ends, default=(inf, -1))
        return first[1] if first[0] <= limit else None

    def _ends(self, number: int, now: float) -> float:
        """When a worker would end one more item [s], the batch that it may be running taken at its full length."""
        puller = self.pullers[number]
        times, cap = self.service_s[puller.variant], self._cap(puller)
        batches, rest = divmod(len(self.lanes[number]), cap)
        return now + (batches + (puller.waiting is None)) * times[cap] + times[rest + 1]

    def _rescue_s(self, variant: int, overloaded: bool) -> float | None:  # noqa: ARG002
        """What could be rescued has moved already; what a batch then leaves behind is late."""
        return None

    def _backlog(self) -> Backlog:
        queued = sum(len(queue) for queue in self.queues())
        drain_s = queued / self.rate if self.rate else (inf if queued else 0.0)
        return replace(super()._backlog(), queued=queued, drain_s=drain_s)

    def _press(self, now: float, effects: list[Effect]) -> None:
        """Shares are kept by the tables: no parent is ever held back."""
