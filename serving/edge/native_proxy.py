"""Native clients over TCP: what a connection says is passed on to the gateway's own socket as long as it keeps to the
limits of the protocol.

The gateway itself listens in the run folder only, where nobody but its user can reach it: nothing that a stranger sends is
kept or read there before it has been looked at here. Where clients need keys, it comes to the gateway only from those that
have shown theirs (see security/curve_gate.py).
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import sys
from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import cast

import uvloop
import zmq

from loki_rl.errors import UserError
from loki_rl.serving.edge import front_end
from loki_rl.serving.edge.zmtp import Watch, ZmtpError
from loki_rl.serving.security.curve_gate import SEALED_BYTES, CurveGate, Unlocked
from loki_rl.serving.security.key_folder import ServerKeys
from loki_rl.serving.transport.protocol import MAX_MESSAGE_BYTES, MAX_TENSORS

log = logging.getLogger(__name__)

# A connection takes two descriptors here (with keys six) and one of the gateway's, which has others for its own: of all
# that a process may have. Of the 1024 that are usual it leaves room for these.
MAX_CONNECTIONS, LEAST_CONNECTIONS = 400, 8
FILES_EACH, FILES_EACH_WITH_KEYS = 2, 6
OTHER_FILES = 200
# Of one address: fewer than all.
MAX_PER_ADDRESS = 300
# Of all messages whose end has not come.
MAX_UNFINISHED_BYTES = 256 << 20
# Longest time from the first byte of a greeting or message to its last.
RECEIPT_S = 30.0
_LOOK_S = 1.0
_LINGER_S = 0.5


def most_connections(files: int, each: int = FILES_EACH) -> int:
    """How many there may be where a process may open so many files (below 0: any number), `each` for a connection."""
    return MAX_CONNECTIONS if files < 0 else min(MAX_CONNECTIONS, max(LEAST_CONNECTIONS, (files - OTHER_FILES) // each))


def room(each: int) -> int:
    """How many connections there may be, once this process may have the descriptors for all, or as many as it is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS * each + OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return most_connections(-1 if soft == resource.RLIM_INFINITY else soft, each)


class Proxy:
    """The connections of one process. front: path of the gateway's socket. keys: that are asked for, if any. refused:
    connections closed for what they sent, or for want of room. unfinished: bytes of all messages whose end has not come."""

    def __init__(self, front: str, keys: ServerKeys | None = None) -> None:
        self.front = front
        self.gate = None if keys is None else CurveGate(front, keys, 1 + MAX_TENSORS, MAX_MESSAGE_BYTES)
        self.most_connections = room(FILES_EACH if keys is None else FILES_EACH_WITH_KEYS)
        self.refused = 0
        self.unfinished = 0
        # In the order in which they came.
        self.connections: dict[_Client, None] = {}
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
        for client in tuple(self.connections):
            client.abort()
        if self.gate is not None:
            await asyncio.sleep(0)  # those just aborted let go of their sockets
            self.gate.close()

    def crowded_out(self, newcomer: _Client) -> tuple[_Client, str] | None:
        """Who has to go, and why, if there is no room for another: with keys the oldest who has not shown any, so that
        strangers take no room from clients."""
        crowd, why = list(self.connections), f"there are {self.most_connections} already"
        if len(crowd) <= self.most_connections:
            crowd = [one for one in crowd if one.address == newcomer.address]
            why = f"there are {MAX_PER_ADDRESS} of its address already"
            if len(crowd) <= MAX_PER_ADDRESS:
                return None
        return next((one for one in crowd if self.gate is not None and not one.known), newcomer), why

    def refuse(self, client: _Client, why: str) -> None:
        """End a connection at once; told at most once a second, whoever tries how often."""
        self.refused += 1
        now = asyncio.get_running_loop().time()
        if now >= self._told + _LOOK_S:
            self._told = now
            log.warning("the connection of %s is closed: %s (%d so far)", client.peer, why, self.refused)
        self.connections.pop(client, None)
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
        # With keys a part is a frame of its own, sealed.
        self._watch = Watch(1 + MAX_TENSORS, MAX_MESSAGE_BYTES + (0 if proxy.gate is None else SEALED_BYTES))
        self._unlocked: Unlocked | None = None
        # Of what is unfinished in all, this connection's share.
        self._unfinished = 0
        self.address = ""
        # What came before there was somewhere to write it.
        self._early = bytearray()
        self._gateway: asyncio.Transport | None = None
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        name = transport.get_extra_info("peername")
        self.peer, self.address = str(name), str(name[0]) if name else ""
        self._proxy.connections[self] = None
        crowded_out = self._proxy.crowded_out(self)
        if crowded_out is not None:
            self._proxy.refuse(*crowded_out)
        if crowded_out is None or crowded_out[0] is not self:
            self._connecting = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            front = self._proxy.front if self._proxy.gate is None else await self._unlock(self._proxy.gate)
            await self._loop.create_unix_connection(lambda: _Gateway(self), front)
            if self._unlocked is not None:
                self._unlocked.reached()
        except (OSError, zmq.ZMQError):
            # The gateway is not there (yet); a client's socket tries again by itself.
            self.abort()

    async def _unlock(self, gate: CurveGate) -> str:
        """Where its handshake is, once the gateway is there. Raises OSError or ZMQError."""
        unlocked = self._unlocked = Unlocked(gate, lambda why: self._proxy.refuse(self, why), self._drained)
        await self._loop.create_unix_connection(lambda: unlocked, gate.front)
        if not await unlocked.ready:
            raise ConnectionResetError
        unlocked.open()
        return unlocked.path

    def _drained(self) -> None:
        """What came with a key has gone on."""
        self._account()
        self.go_on()

    @property
    def known(self) -> bool:
        """Whether it has said something with a key that may come."""
        return self._unlocked is not None and self._unlocked.known

    def go_on(self) -> None:
        """Read on, unless so much came with a key that it has to go on first."""
        if not self.transport.is_closing() and not (self._unlocked is not None and self._unlocked.crowded):
            self.transport.resume_reading()

    def connected(self, gateway: asyncio.Transport) -> None:
        self._gateway = gateway
        if self.transport.is_closing():
            gateway.abort()
        else:
            gateway.write(bytes(self._early))
            self._early.clear()
            self.go_on()

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
        watch, unlocked, fault = self._watch, self._unlocked, ""
        ended = watch.ended
        try:
            watch.feed(data)
        except ZmtpError as error:
            fault = str(error)
        if unlocked is not None:
            unlocked.fed(len(data), watch.ended - ended)
            if unlocked.crowded:
                self.transport.pause_reading()
        self._account()
        crowded = unlocked is not None and unlocked.crowded
        if not watch.midway and not crowded:
            self.since = inf
        elif self.since == inf or (watch.ended > ended and not crowded):
            self.since = self._loop.time()
        if self._proxy.unfinished > MAX_UNFINISHED_BYTES:
            fault = f"unfinished messages hold more than {MAX_UNFINISHED_BYTES >> 20} MB"
        return fault

    def _account(self) -> None:
        now = self._watch.unfinished if self._unlocked is None else max(0, self._unlocked.kept)
        self._proxy.unfinished += now - self._unfinished
        self._unfinished = now

    def pause_writing(self) -> None:
        if self._gateway is not None:
            self._gateway.pause_reading()

    def resume_writing(self) -> None:
        if self._gateway is not None:
            self._gateway.resume_reading()

    def connection_lost(self, _: Exception | None) -> None:
        self._proxy.connections.pop(self, None)
        self._proxy.unfinished -= self._unfinished
        if self._unlocked is not None:
            self._unlocked.close()
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
        self._client.go_on()

    def connection_lost(self, _: Exception | None) -> None:
        self._client.close()


async def _serve(front: str, keys: ServerKeys | None, bound: socket.socket, tethered: bool) -> None:
    await Proxy(front.removeprefix("ipc://"), keys).serve(bound, front_end.stopped(tethered))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = front_end.arguments("loki_rl.serving.edge.native_proxy", __doc__, 5555)
    options = parser.parse_args(arguments)
    front_end.begin("native", options)
    bound = front_end.listening("native", parser, options)
    try:
        keys = ServerKeys(Path(options.native_keys)) if options.native_keys else None
    except UserError as error:
        parser.exit(2, f"native: {error}\n")
    uvloop.run(_serve(options.front, keys, bound, options.tethered))
    return 0


if __name__ == "__main__":
    sys.exit(main())
