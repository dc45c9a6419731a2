"""Clients that are gone while their requests are in flight."""

from __future__ import annotations

from collections.abc import Iterable

import zmq

from loki_rl.core.messages import GATEWAY, Abandoned
from loki_rl.serving.gateway.client_socket import ClientSocket
from loki_rl.serving.transport.driver import Delivery
from loki_rl.serving.transport.timers import Timers
from loki_rl.serving.transport.wire import Letter

# libzmq tells of a broken connection a moment before its client is unreachable; also the least time between two looks.
AGAIN_S = 0.05


class Departures:
    """A driver.Source: nothing that only clients who left wait for is worth running."""

    def __init__(self, front: ClientSocket, timers: Timers) -> None:
        self._front = front
        self._timers = timers
        self._again = False
        self._waiting = False

    @property
    def handle(self) -> zmq.Socket[bytes]:
        return self._front.disconnections.handle

    def collect(self, _now: float) -> Iterable[Delivery]:
        """A connection broke: look now, and once more when all that can be known of it is known."""
        if not self._front.disconnections.read():
            return ()
        self._again = True
        return () if self._waiting else self._look()

    def _look(self) -> list[Delivery]:
        self._waiting = True
        self._timers.after(AGAIN_S, self._later)
        gone = self._front.departed()
        return [(Letter(GATEWAY, Abandoned(gone), ()), ())] if gone else []

    def _later(self, _now: float) -> Iterable[Delivery]:
        self._waiting = False
        if not self._again:
            return ()
        self._again = False
        return self._look()
