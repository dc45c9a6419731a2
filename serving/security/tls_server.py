"""HTTP behind TLS: connections shake hands first, so many at a time and in bounded time, and only then are they those of the
protocol. uvicorn's own would let strangers open as many as there are descriptors, and keep each for a minute."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import uvicorn

from loki_rl.serving.security.tls import Renewed

# Handshakes under way: the oldest of the address that has most makes room for the next. An honest one takes milliseconds.
MAX_HANDSHAKES = 200
# Before the next is accepted where the process has no descriptor left.
_PAUSE_S = 0.1


class TlsServer(uvicorn.Server):
    """limit_s: longest handshake, and longest farewell. refused: told of every connection that did not get through."""

    def __init__(self, config: uvicorn.Config, tls: Renewed, limit_s: float, refused: Callable[[], None]) -> None:
        super().__init__(config)
        self._tls = tls
        self._limit_s = limit_s
        self._refused = refused
        # With whom, in the order in which they came.
        self._handshakes: dict[asyncio.Task[None], str] = {}
        self._accepting: list[asyncio.Task[None]] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])
        for bound in sockets or ():
            bound.setblocking(False)
            bound.listen(self.config.backlog)
            self._accepting.append(asyncio.create_task(self._accept(bound)))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for task in (*self._accepting, *self._handshakes):
            task.cancel()
        await super().shutdown(sockets)

    async def _accept(self, bound: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                peer, address = await loop.sock_accept(bound)
            except OSError:  # it left before, or there is no descriptor for it
                await asyncio.sleep(_PAUSE_S)
                continue
            if len(self._handshakes) >= MAX_HANDSHAKES:
                self._make_room()
            self._keep(self._shake_hands(peer), address[0])

    def _make_room(self) -> None:
        """Whoever begins many and ends none takes no room from others."""
        (most, _), *_ = Counter(self._handshakes.values()).most_common(1)
        oldest = next(task for task, address in self._handshakes.items() if address == most)
        del self._handshakes[oldest]
        oldest.cancel()

    def _keep(self, handshake: Coroutine[Any, Any, None], address: str) -> None:
        task = asyncio.create_task(handshake)
        self._handshakes[task] = address
        task.add_done_callback(lambda done: self._handshakes.pop(done, None))

    async def _shake_hands(self, peer: socket.socket) -> None:
        peer.setblocking(False)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._connection,
                peer,
                ssl=self._tls.context,
                ssl_handshake_timeout=self._limit_s,
                ssl_shutdown_timeout=self._limit_s,
            )
        except OSError:  # a plain peer, a wrong certificate, one that left or is too slow
            self._refused()
            peer.close()
        except asyncio.CancelledError:
            peer.close()
            raise

    def _connection(self) -> asyncio.Protocol:
        made: Any = self.config.http_protocol_class
        return made(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)  # type: ignore[no-any-return]
