"""What makes spans of a node's actors. Imported only where traces are asked for."""

from __future__ import annotations

from loki_rl.core.actor import Actor
from loki_rl.core.gateway import Gateway
from loki_rl.core.router import Router
from loki_rl.serving.gateway.gateway_adapter import GatewayAdapter
from loki_rl.serving.observe.trace_parents import ContinuingGateway, Parents
from loki_rl.serving.observe.tracing import Both, RequestTracer, StageTracer, Tracer
from loki_rl.serving.plane import PlaneFile
from loki_rl.serving.process.untraced import Say, Untraced
from loki_rl.serving.transport.driver import Meter
from loki_rl.serving.transport.wire import TraceParents


class Traced(Untraced):
    """The arguments are those of `traced`."""

    def __init__(self, plane: PlaneFile, node: str, say: Say) -> None:
        self._parents = Parents()
        self._tracer = Tracer(plane.traces, plane.options.pipeline, node, self._parents)
        self._say = say
        routers = {home for address, home in plane.homes.items() if address.startswith("router")}
        self._others = sorted(routers - {node})

    def meter(self, actor: Router | Gateway, meter: Meter, /) -> Meter:
        tracer = self._tracer
        return Both(meter, StageTracer(tracer, actor) if isinstance(actor, Router) else RequestTracer(tracer, actor))

    def gateway(self, gateway: Gateway, adapter: GatewayAdapter, /) -> Actor:
        continuing = ContinuingGateway(gateway, self._announce)
        adapter.expect = continuing.expect
        return continuing

    def hear(self, told: TraceParents) -> None:
        self._parents.add(told)

    def close(self) -> None:
        self._tracer.close()

    def _announce(self, told: TraceParents) -> None:
        self._parents.add(told)
        for node in self._others:
            self._say(node, told)
