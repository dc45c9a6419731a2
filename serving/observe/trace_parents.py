"""Requests that go on from a client's own trace (W3C Trace Context). Imported only where traces are asked for."""

from __future__ import annotations

from collections.abc import Callable

from opentelemetry.trace import SpanContext, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from loki_rl.core.effects import Effect
from loki_rl.core.gateway import Gateway
from loki_rl.core.messages import Arrived, Event
from loki_rl.serving.transport.wire import TraceParent, TraceParents

# Of the latest requests that have one. Spans of a request that so many others have followed stand for themselves.
MOST = 1 << 15

_reader = TraceContextTextMapPropagator()


def understood(traceparent: str) -> SpanContext | None:
    """What such a header says; None where it says nothing that counts."""
    context = get_current_span(_reader.extract({"traceparent": traceparent})).get_span_context()
    return context if context.is_valid else None


class Parents:
    """What the tracers of one process know of clients' traces."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, float], SpanContext] = {}

    def add(self, told: TraceParents) -> None:
        known = self._known
        for one in told.parents:
            context = understood(one.traceparent)
            if context is not None:
                known[one.root, one.t0] = context
        while len(known) > MOST:
            del known[next(iter(known))]

    def get(self, root: int, t0: float) -> SpanContext | None:
        return self._known.get((root, t0)) if self._known else None


class ContinuingGateway:
    """The gateway as its driver sees it: routers are told of the clients' traces before they get the items. tell: brings
    them to all processes that make spans."""

    def __init__(self, gateway: Gateway, tell: Callable[[TraceParents], None]) -> None:
        self._gateway = gateway
        self._tell = tell
        self._coming: dict[int, str] = {}
        self.wake_at = gateway.wake_at
        self.validate = gateway.validate

    def expect(self, key: int, traceparent: str) -> None:
        """Of a request that is about to arrive; what is malformed counts as absent."""
        if understood(traceparent) is not None:
            self._coming[key] = traceparent

    def handle(self, event: Event, now: float) -> list[Effect]:
        coming = self._taken(event) if self._coming and type(event) is Arrived else {}
        effects = self._gateway.handle(event, now)
        if coming:
            self._announce(coming)
        return effects

    def _taken(self, event: Arrived) -> dict[int, str]:
        return {key: self._coming.pop(key) for key in event.keys if key in self._coming}

    def _announce(self, coming: dict[int, str]) -> None:
        """One that was refused at once makes no items."""
        roots = ((self._gateway.by_key.get(key), traceparent) for key, traceparent in coming.items())
        parents = [TraceParent(root.number, root.t0, traceparent) for root, traceparent in roots if root is not None]
        if parents:
            self._tell(TraceParents(parents))
