"""Who may use a socket of ZeroMQ: one thread at a time, of the process that made it. What breaks this hangs or ends a
process, without a word."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from threading import RLock
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from loki_rl.serving.gateway.connection import ClientError

P = ParamSpec("P")
R = TypeVar("R")


class Owner:
    """Of one client. closed: it is used no more."""

    def __init__(self) -> None:
        self.closed = False
        self._lock = RLock()
        self._process = os.getpid()

    @property
    def elsewhere(self) -> bool:
        """Whether this is a process that was forked from the owner's."""
        return os.getpid() != self._process

    def __enter__(self) -> None:
        """Raises ClientError."""
        if self.elsewhere:
            raise ClientError("this client belongs to the process that this one was forked from; make another one here")
        if not self._lock.acquire(blocking=False):
            raise ClientError("this client is in use by another thread; make one for each")
        if self.closed:
            self._lock.release()
            raise ClientError("this client is closed; make another one")

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class Owned(Protocol):
    """What has an owner."""

    owner: Owner


S = TypeVar("S", bound=Owned)


def alone(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """For the methods that touch the socket. Raises ClientError where it may not be touched."""

    @wraps(method)
    def owned(self: S, *args: P.args, **named: P.kwargs) -> R:
        with self.owner:
            return method(self, *args, **named)

    return owned  # type: ignore[return-value]
