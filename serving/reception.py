"""Between clients and the gateway actor: requests become events, replies become answers. Owns what a client may ask beside
inference; must not know sockets, nor how a request is served."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import zmq

from loki_rl.core.gateway import Gateway
from loki_rl.core.messages import GATEWAY, Abandoned, Arrived, Begin, Effect, Event, Reply
from loki_rl.serving.driver import Delivery
from loki_rl.serving.front import Entered, Front, FrontEvent, LedgerAsked, RunAsked, Withdrawn
from loki_rl.serving.payloads import GatewayPayloads
from loki_rl.serving.wire import Letter

BURST = 64


class Reception:
    """A source of events for the gateway's driver, and where its Reply effects go. told: who counts from a run's begin."""

    def __init__(self, front: Front, gateway: Gateway, payloads: GatewayPayloads, told: Sequence[str]) -> None:
        self._front = front
        self._gateway = gateway
        self._payloads = payloads
        self._told = told

    @property
    def handle(self) -> zmq.Socket[bytes]:
        return self._front.socket

    def collect(self, now: float) -> Iterable[Delivery]:
        """One event for all requests of a burst: the actor is called per event, not per request."""
        events = self._front.receive(BURST)
        entered = [event for event in events if isinstance(event, Entered)]
        if entered:
            yield _arrived(entered)
        withdrawn = [event.key for event in events if isinstance(event, Withdrawn)]
        if withdrawn:
            yield _to(GATEWAY, Abandoned(withdrawn))
        for event in events:
            yield from self._ask(event, now)

    def open(self, origin: float) -> list[Delivery]:
        """Tell clients that they are served, and actors that time counts."""
        self._front.ready = True
        return self._begin(origin)

    def carry(self, effect: Effect, _now: float) -> None:
        if not isinstance(effect, Reply):
            raise TypeError(f"a gateway cannot carry out {type(effect).__name__}")
        self._front.reply(effect, self._payloads.answer(effect))

    def _ask(self, event: FrontEvent, now: float) -> Iterable[Delivery]:
        """What is neither a request nor its withdrawal."""
        if isinstance(event, RunAsked):
            origin = now if event.origin_s is None else event.origin_s
            yield from self._begin(origin)
            self._front.begun(event, origin)
        elif isinstance(event, LedgerAsked):
            self._front.ledger(event, self._gateway.tally, self._gateway.options.servers)

    def _begin(self, origin: float) -> list[Delivery]:
        return [_to(address, Begin(origin)) for address in self._told]


def _arrived(entered: list[Entered]) -> Delivery:
    event = Arrived([one.key for one in entered], [one.timeout_s for one in entered])
    with_payload = [(one.key, one.payload) for one in entered if one.payload is not None]
    return Letter(GATEWAY, event, [key for key, _ in with_payload]), [payload for _, payload in with_payload]


def _to(address: str, event: Event) -> Delivery:
    return Letter(address, event, ()), ()
