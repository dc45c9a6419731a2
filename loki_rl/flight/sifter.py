"""From the calls of actors to rows. One object a process: it joins what an actor asks for with what answers it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import repeat

from loki_rl.core.effects import Effect, Load, Reply, Run, Send, Solve
from loki_rl.core.journal import address_of
from loki_rl.core.messages import (
    CONTROLLER,
    GATEWAY,
    Arrived,
    Backlog,
    BatchDone,
    Begin,
    Ended,
    Event,
    Execute,
    Loaded,
    Outcome,
    Planned,
    Result,
    Sample,
    number_of,
)
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Plan
from loki_rl.core.requests.items import QoS, size
from loki_rl.flight.rows import (
    Answer,
    AnyRow,
    Arrival,
    Begun,
    Children,
    Handed,
    Lost,
    ModelLoad,
    Planning,
    Queue,
    Returned,
    Service,
    Usage,
)

Sift = Callable[[int, float, Event, list[Effect]], None]
NO_WISHES = QoS()


class Sifter:
    """Told of every call of an actor's `handle`, as a journal is, it gives rows to `put`."""

    def __init__(self, put: Callable[[AnyRow], None], pipeline: Pipeline) -> None:
        self._put = put
        self._pipeline = pipeline
        self._sifts: dict[str, tuple[Sift, int]] = {}
        self._runs: dict[tuple[int, int], tuple[float, Run]] = {}
        self._loads: dict[tuple[int, int, int], float] = {}
        self._made: defaultdict[int, Counter[tuple[int, tuple[int, ...]]]] = defaultdict(Counter)
        self._asked: float | None = None

    def record(self, address: str, now: float, event: Event, effects: list[Effect]) -> None:
        """Count one call. address: as in a journal, of whichever life of the actor."""
        found = self._sifts.get(address)
        if found is None:
            found = self._sifts[address] = self._sift(address_of(address))
        sift, number = found
        sift(number, now, event, effects)

    def _sift(self, address: str) -> tuple[Sift, int]:
        if address == GATEWAY:
            return self._gateway, 0
        if address == CONTROLLER:
            return self._controller, 0
        return (self._router if address.startswith("router") else self._worker), number_of(address)

    def _gateway(self, _number: int, now: float, event: Event, effects: list[Effect]) -> None:
        put = self._put
        if type(event) is Arrived:
            qos = event.qos
            for key, timeout in zip(event.keys, event.timeouts, strict=True):
                wish = qos.get(key, NO_WISHES) if qos else NO_WISHES
                put(Arrival(now, timeout, wish.min_accuracy, wish.priority))
        elif type(event) is Begin:
            put(Begun(event.origin))
        elif type(event) is Sample:
            put(Usage(event.second, event.servers, event.loads))
        for effect in effects:
            if type(effect) is Reply:
                put(Answer(now, effect.outcome, effect.latency_s, effect.accuracy))

    def _router(self, task: int, now: float, event: Event, effects: list[Effect]) -> None:
        put = self._put
        if type(event) is Result:
            put(Returned(now, task, event.batch))
            if event.fanouts:
                self._made[task].update(zip(repeat(event.variant), event.fanouts, strict=False))
        for effect in effects:
            if type(effect) is not Send:
                continue
            message = effect.message
            if type(message) is Execute:
                batch = message.batch
                put(Handed(now, task, batch, message.variant, size(message.families), number_of(effect.to)))
            elif type(message) is Ended:
                if message.outcome is not Outcome.OK:
                    late_s = 0.0 if message.cause is None else message.cause.late_s
                    put(Lost(now, task, message.outcome, size(message.families), late_s))
            elif type(message) is Backlog:
                put(Queue(now, task, message.queued, message.drain_s, message.arrived, message.drift))
                self._put_children(now, task)

    def _put_children(self, now: float, task: int) -> None:
        """What was counted since the last time, once a second and not with every item."""
        counted: Counter[tuple[int, int, int]] = Counter()
        for (variant, fanout), items in self._made.pop(task, Counter()).items():
            for child, children in enumerate(fanout):
                counted[variant, child, children] += items
        for (variant, child, children), items in counted.items():
            self._put(Children(now, task, variant, child, children, items))

    def _worker(self, worker: int, now: float, event: Event, effects: list[Effect]) -> None:
        if type(event) is BatchDone:
            ordered = self._runs.pop((worker, event.batch), None)
            if ordered is not None:
                begin, run = ordered
                items, failed = size(run.families), bool(event.error)
                self._put(Service(worker, run.task, run.batch, run.variant, items, begin, now, event.seconds, failed))
        elif type(event) is Loaded:
            started = self._loads.pop((worker, event.task, event.variant), None)
            if started is not None:
                failed = bool(event.error)
                self._put(ModelLoad(worker, event.task, event.variant, started, now, event.seconds, failed))
        for effect in effects:
            if type(effect) is Run:
                self._runs[worker, effect.batch] = now, effect
            elif type(effect) is Load:
                self._loads[worker, effect.task, effect.variant] = now

    def _controller(self, _number: int, now: float, event: Event, effects: list[Effect]) -> None:
        if type(event) is Planned and self._asked is not None:
            self._put(_planning(self._asked, now, event.plan))
            self._asked = None
        for effect in effects:
            if type(effect) is Solve:
                self._asked = now


def _planning(asked: float, answered: float, plan: Plan | None) -> Planning:
    if plan is None:
        return Planning(asked, answered, None, 0, 0.0, 0.0, 0.0, 0.0, ())
    return Planning(
        asked, answered, plan.mode, plan.servers, plan.accuracy, plan.served_fraction, plan.demand_rps, plan.capacity_rps,
        plan.placements,
    )  # fmt: skip
