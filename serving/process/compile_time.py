"""The time that a plane's first start spends compiling: told by the node that compiles, taken off its limit by the
launcher."""

from __future__ import annotations

import threading
from collections.abc import Callable

from loki_rl.serving.transport.driver import Delivery
from loki_rl.serving.transport.event_queue import EventQueue


class CompileNotice:
    """In a node: hands on what its compiler says. say: called in the thread that made this, at once if that one compiles
    and else from the node's loop, since sockets are of one thread."""

    def __init__(self, say: Callable[[bool], None]) -> None:
        self._say = say
        self._home = threading.get_ident()
        self._rung: EventQueue[bool] = EventQueue()

    @property
    def handle(self) -> int:
        return self._rung.handle

    def record(self, busy: bool) -> None:
        if threading.get_ident() == self._home:
            self._say(busy)
        else:
            self._rung.put(busy)

    def collect(self, now: float) -> list[Delivery]:
        """Nothing for actors."""
        for busy in self._rung.collect(now):
            self._say(busy)
        return []

    def close(self) -> None:
        self._rung.close()


class CompileTime:
    """In the launcher: how long its nodes have compiled."""

    def __init__(self) -> None:
        self._ended_s = 0.0
        self._since: float | None = None

    def record(self, busy: bool, now: float) -> bool:
        """A node begins or ends to compile at `now` [s]; whether it is the first time that one does."""
        first = busy and self._since is None and not self._ended_s
        if self._since is not None:
            self._ended_s += now - self._since
        self._since = now if busy else None
        return first

    def seconds(self, now: float) -> float:
        """So far [s]."""
        return self._ended_s + (0.0 if self._since is None else now - self._since)
