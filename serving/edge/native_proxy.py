"""Native clients over TCP: what a connection says is passed on to the gateway's own socket as long as it keeps to the
limits of the protocol.

The gateway itself listens in the run folder only, where nobody but its user can reach it: nothing that a stranger sends is
kept or read there before it has been looked at here.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import sys
from collections.abc import Sequence
from math import inf
from typing import cast

import uvloop

from loki_rl.serving.edge import front_end
from loki_rl.serving.edge.zmtp import Watch, ZmtpError
from loki_rl.serving.transport.protocol import MAX_MESSAGE_BYTES, MAX_TENSORS

log = logging.getLogger(__name__)

# A connection takes two descriptors here and one of the gateway's, which has others for its own: of all that a process may
# have. Of the 1024 that are usual it leaves room for these.
MAX_CONNECTIONS, LEAST_CONNECTIONS = 400, 8
OTHER_FILES = 200
# Of all messages whose end has not come.
MAX_UNFINISHED_BYTES = 256 << 20
# Longest time from the first byte of a greeting or message to its last.
RECEIPT_S = 30.0
_LOOK_S = 1.0
_LINGER_S = 0.5


def most_connections(files: int) -> int:
    """How many there may be where a process may open so many files (below 0: any number)."""
    return MAX_CONNECTIONS if files < 0 else min(MAX_CONNECTIONS, max(LEAST_CONNECTIONS, (files - OTHER_FILES) // 2))


class Proxy:
    """The connections of one process. front: path of the gateway's socket. refused: connections closed for what they sent,
    or for want of room. unfinished: bytes of all messages whose end has not come."""

    def __init__(self, front: str) -> None:
        self.front = front
        self.most_connections = most_connections(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        self.refused = 0
        self.unfinished = 0
        self.connections: set[_Client] = set()
        self._told = -inf

    async def serve(self, bound: socket.socket, stop: asyncio.Event) -> None:
        """Until `stop`; answers that are under way then still leave."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Client(self), sock=bound)
        look = asyncio.create_task(self._look())
        await stop.wait()
        server.close()
        for client in tuple(self.connections):
            client.close()
        end = loop.time() + _LINGER_S
        while self.connections and loop.time() < end:
            await asyncio.sleep(_LINGER_S / 50)
        look.cancel()

    def refuse(self, client: _Client, why: str) -> None:
        """End a connection at once; told at most once a second, whoever tries how often."""
        self.refused += 1
        now = asyncio.get_running_loop().time()
        if now >= self._told + _LOOK_S:
            self._told = now
            log.warning("the connection of %s is closed: %s (%d so far)", client.peer, why, self.refused)
        client.abort()

    async def _look(self) -> None:
        """What began must end."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_LOOK_S)
            for client in tuple(self.connections):
                if loop.time() > client.since + RECEIPT_S:
                    self.refuse(client, f"what it began did not end within {RECEIPT_S:g} s")


class _Client(asyncio.Protocol):
    """The side of a client. since: when what is midway began (infinite: nothing is)."""

    transport: asyncio.Transport

    def __init__(self, proxy: Proxy) -> None:
        self.peer = ""
        self._proxy = proxy
        self._loop = asyncio.get_running_loop()
        self.since = self._loop.time()
        self._watch = Watch(1 + MAX_TENSORS, MAX_MESSAGE_BYTES)
        # What came before there was somewhere to write it.
        self._early = bytearray()
        self._gateway: asyncio.Transport | None = None
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.peer = str(transport.get_extra_info("peername"))
        self._proxy.connections.add(self)
        most = self._proxy.most_connections
        if len(self._proxy.connections) > most:
            self._proxy.refuse(self, f"there are {most} already")
        else:
            self._connecting = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            await self._loop.create_unix_connection(lambda: _Gateway(self), self._proxy.front)
        except OSError:
            # The gateway is not there (yet); a client's socket tries again by itself.
            self.abort()

    def connected(self, gateway: asyncio.Transport) -> None:
        self._gateway = gateway
        if self.transport.is_closing():
            gateway.abort()
        else:
            gateway.write(bytes(self._early))
            self._early.clear()
            self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        fault = self._look_at(data)
        if fault:
            self._proxy.refuse(self, fault)
        elif self._gateway is not None:
            self._gateway.write(data)
        else:
            self._early += data
            self.transport.pause_reading()

    def _look_at(self, data: bytes) -> str:
        """What is wrong with it, if anything is."""
        watch, proxy, fault = self._watch, self._proxy, ""
        unfinished, ended = watch.unfinished, watch.ended
        try:
            watch.feed(data)
        except ZmtpError as error:
            fault = str(error)
        proxy.unfinished += watch.unfinished - unfinished
        if not watch.midway:
            self.since = inf
        elif self.since == inf or watch.ended > ended:
            self.since = self._loop.time()
        if proxy.unfinished > MAX_UNFINISHED_BYTES:
            fault = f"unfinished messages hold more than {MAX_UNFINISHED_BYTES >> 20} MB"
        return fault

    def pause_writing(self) -> None:
        if self._gateway is not None:
            self._gateway.pause_reading()

    def resume_writing(self) -> None:
        if self._gateway is not None:
            self._gateway.resume_reading()

    def connection_lost(self, _: Exception | None) -> None:
        self._proxy.connections.discard(self)
        self._proxy.unfinished -= self._watch.unfinished
        if self._connecting is not None:
            self._connecting.cancel()
        if self._gateway is not None:
            self._gateway.abort()

    def close(self) -> None:
        """Once what was written has left; one that does not read it is given no more time than one that does not write."""
        self.since = min(self.since, self._loop.time())
        self.transport.close()

    def abort(self) -> None:
        self.transport.abort()


class _Gateway(asyncio.Protocol):
    """The side of the gateway."""

    def __init__(self, client: _Client) -> None:
        self._client = client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._client.connected(cast(asyncio.Transport, transport))

    def data_received(self, data: bytes) -> None:
        self._client.transport.write(data)

    def pause_writing(self) -> None:
        self._client.transport.pause_reading()

    def resume_writing(self) -> None:
        self._client.transport.resume_reading()

    def connection_lost(self, _: Exception | None) -> None:
        self._client.close()


async def _serve(front: str, bound: socket.socket, tethered: bool) -> None:
    await Proxy(front.removeprefix("ipc://")).serve(bound, front_end.stopped(tethered))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = front_end.arguments("loki_rl.serving.edge.native_proxy", __doc__, 5555)
    options = parser.parse_args(arguments)
    front_end.begin("native", options)
    bound = front_end.listening("native", parser, options)
    uvloop.run(_serve(options.front, bound, options.tethered))
    return 0


if __name__ == "__main__":
    sys.exit(main())
