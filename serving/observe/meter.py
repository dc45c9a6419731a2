"""Counts of what actors did, for statistics and metrics. Owns the reading of events and effects as they pass; must not
decide anything, nor keep anything that an actor needs."""

from __future__ import annotations

from math import inf

from loki_rl.core.controller import Controller
from loki_rl.core.effects import Effect, Reply, Send
from loki_rl.core.gateway import Gateway
from loki_rl.core.messages import Arrived, Event, Execute, Outcome, Result, Settled
from loki_rl.core.requests.items import size
from loki_rl.core.router import Router
from loki_rl.serving.observe.names import PathNames
from loki_rl.serving.state import Control, Requests, SizeCount, Stage, VariantCount, WorkerState

FAILURES = 5
# Batches in workers' hands, at most: those that a worker lost never come back.
MAX_WAITS = 4096


class RequestMeter:
    """Counts requests by their ends. Unlike the ledger it never begins anew: counters must only rise."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._names = PathNames(gateway.pipeline)
        self._seen = Requests()

    def record(self, event: Event, effects: list[Effect], _now: float) -> None:
        if type(event) is Arrived:
            self._seen.arrivals += len(event.keys)
        for effect in effects:
            if type(effect) is Reply:
                self._end(effect)

    def state(self) -> Requests:
        self._seen.in_flight = len(self._gateway.by_key)
        return self._seen

    def restore(self, seen: Requests) -> None:
        """Go on from the counts of a former life; what was in flight in it has failed."""
        seen.outcomes[Outcome.FAILED] += seen.arrivals - sum(seen.outcomes)
        self._seen = seen

    def _end(self, reply: Reply) -> None:
        seen = self._seen
        seen.outcomes[reply.outcome] += 1
        if reply.outcome <= Outcome.LATE:
            seen.latency.add(reply.latency_s)
        if reply.outcome is Outcome.OK:
            seen.accuracy_sum += reply.accuracy
        for served in reply.leaves:
            name = "/".join(self._names.path(served))
            seen.served[name] = seen.served.get(name, 0) + served.count


class StageMeter:
    """Counts items of one task by variant. waits: queue times of the items of a batch that is in a worker's hands, counted
    only if its result is committed."""

    def __init__(self, router: Router) -> None:
        self._router = router
        task = router.pipeline.tasks[router.task]
        self._task = task.name
        self._names = [variant.name for variant in task.variants]
        self._counts = [VariantCount() for _ in task.variants]
        self._lost: dict[str, int] = {}
        self._waits: dict[int, list[float]] = {}

    def record(self, event: Event, effects: list[Effect], now: float) -> None:
        waits = self._waits.pop(event.batch, None) if type(event) is Result else None
        for effect in effects:
            if type(effect) is Send:
                message = effect.message
                if type(message) is Execute:
                    self._waits[message.batch] = self._waited(message.batch, now)
                    if len(self._waits) > MAX_WAITS:
                        del self._waits[next(iter(self._waits))]
                elif type(message) is Settled:
                    self._settled(message, event, waits)

    def state(self) -> Stage:
        router = self._router
        pulling: dict[str, int] = {}
        for puller in router.pullers.all.values():
            name = self._names[puller.variant]
            pulling[name] = pulling.get(name, 0) + 1
        queued = sum(map(len, router.queues()))
        drain_s = router.drain_s()
        counts = {name: count for name, count in zip(self._names, self._counts, strict=True) if count.items}
        return Stage(self._task, queued, drain_s if drain_s < inf else None, pulling, self._lost, counts)

    def _waited(self, batch: int, now: float) -> list[float]:
        """Of its items; nothing is known of a batch that its worker has lost by now."""
        lease = self._router.leases.all.get(batch)
        waits: list[float] = []
        for entry in lease.entries if lease is not None else ():
            waits += [now - entry.came] * entry.family.count
        return waits

    def _settled(self, message: Settled, event: Event, waits: list[float] | None) -> None:
        items = size(message.families)
        if message.outcome is Outcome.OK and type(event) is Result:
            self._committed(event, items, waits or [])
        else:
            word = Outcome(message.outcome).name.lower()
            self._lost[word] = self._lost.get(word, 0) + items

    def _committed(self, result: Result, items: int, waits: list[float]) -> None:
        count = self._counts[result.variant]
        count.items += items
        count.compute.add(result.seconds)
        count.queue.add_all(waits)
        size = count.sizes.get(items)
        if size is None:
            size = count.sizes[items] = SizeCount()
        size.batches += 1
        size.seconds += result.seconds


def control_state(controller: Controller) -> Control:
    """What the controller knows now."""
    types = controller.servers.types
    workers = [
        WorkerState(
            number,
            _model(machine.serving),
            machine.batch,
            _model(machine.loading),
            machine.loads,
            types[machine.server_type].name,
        )
        for number, machine in sorted(controller.machines.items())
    ]
    demand_rps = float((controller.history.arrivals or [0])[-1])
    drift, excluded = controller.history.all_drift(), list(controller.exclusions.current)
    return Control(controller.plan, demand_rps, workers, controller.failures[-FAILURES:], drift, excluded)


def _model(model: tuple[str, str] | None) -> str:
    return "" if model is None else "/".join(model)
