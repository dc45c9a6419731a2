"""Between clients and the gateway actor: requests become events, replies become answers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import msgspec
import zmq
from msgspec.structs import replace

from loki_rl.core.cluster import begin_run
from loki_rl.core.effects import Effect, Reply
from loki_rl.core.gateway import Gateway
from loki_rl.core.messages import CONTROLLER, GATEWAY, Abandoned, Arrived, Event, Outcome
from loki_rl.core.requests.items import QoS
from loki_rl.serving.gateway.client_socket import ClientSocket, Entered, FrontEvent, Question, Withdrawn
from loki_rl.serving.gateway.state_query import StateQuery
from loki_rl.serving.observe.meter import RequestMeter
from loki_rl.serving.state import Control, Part, PlaneState, Stage, Trouble
from loki_rl.serving.transport import protocol
from loki_rl.serving.transport.driver import Delivery
from loki_rl.serving.transport.payloads import GatewayPayloads
from loki_rl.serving.transport.shared_memory import size_of
from loki_rl.serving.transport.wire import Letter

log = logging.getLogger(__name__)

BURST = 64


class GatewayAdapter:
    """A source of events for the gateway's driver, and where its Reply effects go. homes: address -> node of the other
    actors but workers. meter: of the same gateway. opened: since when clients are served [s], None as long as they are
    not. expect: is told which trace a request goes on from before it arrives, by its key, where requests are traced."""

    def __init__(
        self,
        front: ClientSocket,
        described: protocol.Described,
        gateway: Gateway,
        payloads: GatewayPayloads,
        homes: Mapping[str, str],
        meter: RequestMeter,
        state_query: StateQuery,
    ) -> None:
        self._front = front
        self._described = described
        self._gateway = gateway
        self._payloads = payloads
        self._nodes = sorted(set(homes.values()))
        self._routers = sorted({node for address, node in homes.items() if address != CONTROLLER})
        self._meter = meter
        self._state_query = state_query
        self._troubles: dict[str, list[Trouble]] = {}
        self.opened: float | None = None
        self.expect: Callable[[int, str], None] | None = None

    @property
    def handle(self) -> zmq.Socket[bytes]:
        return self._front.socket

    def collect(self, now: float) -> Iterable[Delivery]:
        """One event for all requests of a burst: the actor is called per event, not per request."""
        events = self._front.receive(BURST)
        entered = [event for event in events if isinstance(event, Entered)]
        if entered:
            if self.expect is not None:
                self._expect(entered, self.expect)
            yield _arrived(entered)
        withdrawn = [event.key for event in events if isinstance(event, Withdrawn)]
        if withdrawn:
            yield _to(GATEWAY, Abandoned(withdrawn))
        failed: Exception | None = None
        for event in events:
            try:
                yield from self._ask(event, now)
            except Exception as error:
                failed = error
        if failed is not None:
            # Once the others of the burst have been answered.
            raise failed

    def open(self, origin: float) -> list[Delivery]:
        """Tell clients that they are served, and actors that time counts."""
        self.reopen(origin, False)
        return self._begin(origin)

    def reopen(self, opened: float, leaving: bool) -> None:
        """Serve clients, as the life before this one did. opened: since when [s]; leaving: they are told to go elsewhere."""
        self.opened = opened
        self._front.ready, self._front.leaving = not leaving, leaving

    def note(self, process: str, troubles: list[Trouble]) -> None:
        """All troubles that a process has had."""
        self._troubles[process] = troubles

    def leave(self) -> None:
        """Clients should go elsewhere; those that come are served until the gateway drains."""
        self._front.ready = False
        self._front.leaving = True

    def carry(self, effect: Effect, _now: float) -> None:
        if not isinstance(effect, Reply):
            raise TypeError(f"a gateway cannot carry out {type(effect).__name__}")
        self._front.reply(effect, self._payloads.answer(effect))
        if log.isEnabledFor(logging.DEBUG):
            log.debug("request ended", extra={"fields": _told(effect)})

    def _ask(self, event: FrontEvent, now: float) -> Iterable[Delivery]:
        """What is neither a request nor its withdrawal."""
        if not isinstance(event, Question):
            return
        request, front = event.request, self._front
        match request:
            case protocol.BeginRun():
                origin = now if request.origin_s is None else request.origin_s
                # Not so for what is no number either.
                if abs(origin - now) <= protocol.MAX_ORIGIN_S:
                    yield from self._begin(origin)
                    front.answer(event, protocol.Begun(request.id, origin))
                else:
                    within = f"within {protocol.MAX_ORIGIN_S:g} s of now, {now:.3f} s"
                    front.refuse(event, f"a run begins {within}, not at {origin:g} s")
            case protocol.ReadLedger():
                options = self._gateway.options
                ledger = protocol.RunLedger(self._gateway.tally, options.servers, options.pipeline.best_accuracy)
                front.answer(event, protocol.LedgerRead(request.id, msgspec.json.encode(ledger)))
            case protocol.ReadReadiness():
                self._state_query.ask(self._routers, partial(self._tell_readiness, event))
            case protocol.ReadState():
                self._state_query.ask(self._nodes, partial(self._tell_state, event))

    def _expect(self, entered: list[Entered], expect: Callable[[int, str], None]) -> None:
        for one in entered:
            if one.traceparent:
                expect(one.key, one.traceparent)

    def _tell_readiness(self, question: Question, parts: list[Part]) -> None:
        reason = self._unready([part for part in parts if isinstance(part, Stage)])
        self._front.answer(question, protocol.ReadinessRead(question.request.id, reason, self._front.leaving))

    def _unready(self, stages: list[Stage]) -> str:
        """Why clients should not come: what they would meet. Without its controller a plane serves on as planned."""
        if self._front.leaving:
            return "the server is about to stop"
        if not self._front.ready:
            return "the models of the first plan are not loaded yet"
        pulling = {stage.task: stage.pulling for stage in stages}
        for task in self._gateway.pipeline.tasks:
            if task.name not in pulling:
                return f"stage '{task.name}' does not answer"
            if not pulling[task.name]:
                return f"stage '{task.name}' has no worker that takes requests"
        return ""

    def _tell_state(self, question: Question, parts: list[Part]) -> None:
        """Stages in the order of the pipeline, whoever answered first."""
        order = self._gateway.pipeline.index
        control = next((part for part in parts if isinstance(part, Control)), None)
        stages = sorted((part for part in parts if isinstance(part, Stage)), key=lambda stage: order[stage.task])
        self._front.answer(question, protocol.StateRead(question.request.id, self._state(stages, control)))

    def _state(self, stages: list[Stage], control: Control | None) -> PlaneState:
        options, front, unready = self._gateway.options, self._front, self._unready(stages)
        told = {stage.task for stage in stages}
        opened = time.monotonic() if self.opened is None else self.opened
        return PlaneState(
            pipeline=options.pipeline.name,
            engine=self._described.engine,
            slo_s=options.pipeline.slo_s,
            best_accuracy=options.pipeline.best_accuracy,
            servers=options.servers,
            ready=not unready,
            uptime_s=time.monotonic() - opened,
            vanished=front.vanished,
            malformed=front.malformed,
            turned=dict(front.turned),
            requests=self._meter.state(),
            stages=stages,
            control=control,
            unready=unready,
            silent=[task.name for task in options.pipeline.tasks if task.name not in told],
            troubles=[replace(one, at_s=one.at_s - opened) for _, some in sorted(self._troubles.items()) for one in some],
        )

    def _begin(self, origin: float) -> list[Delivery]:
        return [_to(told.to, told.message) for told in begin_run(self._gateway.options, origin)]


def _arrived(entered: list[Entered]) -> Delivery:
    qos = {one.key: QoS(one.min_accuracy, one.priority) for one in entered if one.min_accuracy or one.priority}
    with_payload = [(one.key, one.payload) for one in entered if one.payload is not None]
    sizes = {key: size_of(payload) for key, payload in with_payload}
    event = Arrived([one.key for one in entered], [one.timeout_s for one in entered], qos, sizes)
    return Letter(GATEWAY, event, [key for key, _ in with_payload]), [payload for _, payload in with_payload]


def _told(reply: Reply) -> dict[str, object]:
    return {
        "request": reply.root,
        "outcome": Outcome(reply.outcome).name.lower(),
        "latency_ms": 1000 * reply.latency_s,
        "accuracy": reply.accuracy,
        "leaves": sum(leaf.count for leaf in reply.leaves),
        "missing": reply.missing,
    }


def _to(address: str, event: Event) -> Delivery:
    return Letter(address, event, ()), ()
