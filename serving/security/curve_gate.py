"""Native clients with keys: libzmq shakes hands with each and opens what it says; what is whole goes on to the gateway.

A socket of libzmq for each connection, so that what one client has sent and not ended is known: libzmq would keep parts of a
message without an end, and nobody sees the parts of one that is encrypted.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import cast

import zmq

from loki_rl.serving.security.key_folder import ServerKeys
from loki_rl.serving.security.zmtp_peer import HELLO, Reader, frames
from loki_rl.serving.transport.curve import Authenticator, secure_server
from loki_rl.serving.transport.multipart import NOBLOCK, Context

# Beside its content, what a part takes on the wire (and its frame, where it is small or large) [bytes].
SEALED_BYTES, _SMALL_BYTES, _LARGE_BYTES = 33, 2, 9
_SMALL = 255
# What keeping a part costs beside its content [bytes]: many empty ones are as much as one that is large.
_KEEPING_BYTES = 256
# Longest time in which answers still leave once the gateway has gone [ms].
_LINGER_MS = 500
# Beyond the largest message: others that are on their way, and what never ends (see Unlocked).
_SPARE_BYTES = 1 << 20
# Messages in a row before others have their turn, and answers that libzmq keeps for a client.
_BURST, _MOST_QUEUED = 64, 1000


class CurveGate:
    """Of one process. front: path of the gateway's socket, beside which each connection has one of its own. most_parts,
    most_bytes: of a message."""

    def __init__(self, front: str, keys: ServerKeys, most_parts: int, most_bytes: int) -> None:
        self.front = front
        self.most_parts = most_parts
        self.most_bytes = most_bytes
        self._keys = keys
        self._made = 0
        self._context: Context = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, 4096)
        self._authenticator = Authenticator(self._context, keys.allows)

    def bind(self) -> tuple[zmq.Socket[bytes], str]:
        """A socket for one connection, and its path. Raises zmq.ZMQError."""
        self._made += 1
        path = f"{self.front}.{self._made}"
        socket = self._context.socket(zmq.DEALER)
        try:
            secure_server(socket, self._keys.pair)
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.MAXMSGSIZE, self.most_bytes + SEALED_BYTES)
            socket.setsockopt(zmq.SNDHWM, _MOST_QUEUED)
            socket.bind(f"ipc://{path}")
        except zmq.ZMQError:
            socket.close(linger=0)
            raise
        return socket, path

    def close(self) -> None:
        """Once all connections are closed."""
        self._authenticator.close()
        self._context.destroy(linger=0)


class Unlocked(asyncio.Protocol):
    """One connection from its handshake on: the gateway's side of it. wrong: is called with what is wrong with what the
    client sent. drained: is called when less is kept of the client than before. known: something has come with a key. kept:
    bytes of it that have not gone on, and what keeping them costs. Its handshake and its heartbeats are among them for good:
    they end nothing that shows."""

    def __init__(self, gate: CurveGate, wrong: Callable[[str], None], drained: Callable[[], None]) -> None:
        self.kept = 0
        self.known = False
        self.path = ""
        self._gate = gate
        self._wrong = wrong
        self._drained = drained
        self._loop = asyncio.get_running_loop()
        self._reader = Reader()
        self._answers: deque[list[bytes]] = deque()
        self._full = False
        self._gateway: asyncio.Transport | None = None
        self._socket: zmq.Socket[bytes] | None = None
        # Whether the gateway is there.
        self.ready: asyncio.Future[bool] = self._loop.create_future()

    # -- the gateway --------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._gateway = gateway = cast(asyncio.Transport, transport)
        gateway.write(HELLO)

    def data_received(self, data: bytes) -> None:
        self._answers += self._reader.feed(data)
        if self._reader.ready and not self.ready.done():
            self.ready.set_result(True)
        self.pump()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self.pump()

    def connection_lost(self, _: Exception | None) -> None:
        """The client sees its end once the last answers have left."""
        if not self.ready.done():
            self.ready.set_result(False)
        self._deliver()
        self._shut(_LINGER_MS)

    # -- the client ---------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Let the client shake hands, at `path`, once the gateway is there. Raises zmq.ZMQError."""
        self._socket, self.path = self._gate.bind()
        self._loop.add_reader(self._socket.fileno(), self.pump)

    def reached(self) -> None:
        """The client is connected, and nobody else shall be. To unbind would end its connection too."""
        with suppress(OSError):  # somebody took the file away
            os.unlink(self.path)

    @property
    def crowded(self) -> bool:
        """Whether no more may come before something has gone on."""
        return self.kept > self._gate.most_bytes + _SPARE_BYTES

    def fed(self, count: int, ended: int) -> None:
        """So many bytes more have come of the client, and so many frames have ended with them."""
        self.kept += count + ended * _KEEPING_BYTES

    def pump(self) -> None:
        """Pass on what is there, both ways. The descriptor tells of changes only, and each step may use one up: it is looked
        again until nothing moves."""
        gateway, socket = self._gateway, self._socket
        if gateway is None or socket is None:
            return
        moved, turns = True, _BURST
        while moved and turns and not gateway.is_closing():
            moved = self._deliver() | self._pass_on(socket, gateway)
            turns -= 1
        if gateway.is_closing():
            return
        if moved:
            self._loop.call_soon(self.pump)
        if len(self._answers) > _MOST_QUEUED:
            gateway.pause_reading()
        else:
            gateway.resume_reading()

    def _deliver(self) -> bool:
        """Answers, to the client; whether there were any that it takes."""
        before = len(self._answers)
        with suppress(zmq.Again):
            while self._answers and self._socket is not None:
                self._socket.send_multipart(self._answers[0], NOBLOCK)
                self._answers.popleft()
        return len(self._answers) < before

    def _pass_on(self, socket: zmq.Socket[bytes], gateway: asyncio.Transport) -> bool:
        """Whether there was a message for the gateway, and it takes more."""
        if self._full:
            return False
        try:
            parts = socket.recv_multipart(NOBLOCK)
        except zmq.Again:
            return False
        self.known = True
        size = sum(map(len, parts))
        self.kept -= sum(_on_the_wire(len(part)) + _KEEPING_BYTES for part in parts)
        if len(parts) > self._gate.most_parts or size > self._gate.most_bytes:
            self._wrong(f"a message has {len(parts)} parts and {size} bytes")
            return False
        gateway.writelines(frames(parts))
        self._drained()
        return True

    def close(self) -> None:
        """Both ways, at once."""
        self._shut(0)
        if self._gateway is not None:
            self._gateway.abort()

    def _shut(self, linger_ms: int) -> None:
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close(linger=linger_ms)
            self._socket = None


def _on_the_wire(size: int) -> int:
    """Bytes of a sealed part with its frame."""
    sealed = size + SEALED_BYTES
    return sealed + (_LARGE_BYTES if sealed > _SMALL else _SMALL_BYTES)
