"""What a node does about traces of requests."""

from __future__ import annotations

from collections.abc import Callable

from loki_rl.core.actor import Actor
from loki_rl.core.gateway import Gateway
from loki_rl.core.router import Router
from loki_rl.serving.gateway.gateway_adapter import GatewayAdapter
from loki_rl.serving.plane import PlaneFile
from loki_rl.serving.transport.driver import Meter
from loki_rl.serving.transport.wire import ControlWord, TraceParents

Say = Callable[[str, ControlWord], None]


class Untraced:
    """Nothing, where none are asked for."""

    def meter(self, _actor: Router | Gateway, meter: Meter, /) -> Meter:
        """What is told of an actor's events: `meter`, and who makes spans of them."""
        return meter

    def gateway(self, gateway: Gateway, _adapter: GatewayAdapter, /) -> Actor:
        """What the gateway is to its driver."""
        return gateway

    def hear(self, told: TraceParents) -> None:
        """What clients said of their own traces."""

    def close(self) -> None:
        pass


def traced(plane: PlaneFile, node: str, say: Say) -> Untraced:
    """Of this node; say: sends a word to another. OpenTelemetry is needed by a plane that is traced only."""
    if not plane.traces.endpoint:
        return Untraced()
    from loki_rl.serving.process.traced import Traced

    return Traced(plane, node, say)
