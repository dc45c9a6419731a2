"""HTTP connections that keep to the limits: uvicorn's protocol over httptools, which has none on heads, on time and on
connections, watched."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from enum import Enum, auto
from http import HTTPStatus
from typing import Any, cast

import httptools
import msgspec
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from loki_rl.serving.edge import limits
from loki_rl.serving.edge.limits import Refusals
from loki_rl.serving.security.api_keys import ApiKeys
from loki_rl.serving.transport.protocol import Turning

# What is answered when connections have run out.
PROBES = frozenset({b"/v2/health/live", b"/v2/health/ready"})


class _Stage(Enum):
    IDLE = auto()
    HEAD = auto()
    BODY = auto()


class _RefusedError(Exception):
    """Ends the parser's work; the client has been told."""


class Door:
    """All connections of a process. refusals: what was turned away. keys: that are asked for, except of PROBES; None: none.
    held: bytes of bodies that are not on their way yet."""

    def __init__(self, refusals: Refusals, most: int, keys: ApiKeys | None = None) -> None:
        self.refusals = refusals
        self.keys = keys
        self.held = 0
        self._most = most
        self._per_client: Counter[str] = Counter()
        # In the order in which they came.
        self._ordinary: dict[Connection, None] = {}
        self._reserved: dict[Connection, None] = {}

    def enter(self, connection: Connection) -> bool:
        """Whether it may ask for anything; else for what PROBES has."""
        client = connection.peer
        if self._crowded(client):
            self._make_room(client)
        if not self._crowded(client):
            self._ordinary[connection] = None
            self._per_client[client] += 1
            return True
        if len(self._reserved) >= limits.RESERVED:
            oldest = next(iter(self._reserved))
            del self._reserved[oldest]
            oldest.drop("connections")
        self._reserved[connection] = None
        return False

    def _crowded(self, client: str) -> bool:
        return len(self._ordinary) >= self._most or self._per_client[client] >= limits.MAX_PER_CLIENT

    def _make_room(self, client: str) -> None:
        """Where keys are asked for, strangers take no room from those who have shown one: the oldest of them goes, of this
        client's address if it has too many."""
        alone = self._per_client[client] >= limits.MAX_PER_CLIENT
        strangers = (one for one in self._ordinary if not one.known and (one.peer == client or not alone))
        oldest = next(strangers, None) if self.keys is not None else None
        if oldest is not None:
            self.leave(oldest)
            oldest.drop("connections")

    def leave(self, connection: Connection) -> None:
        self._reserved.pop(connection, None)
        if connection in self._ordinary:
            del self._ordinary[connection]
            self._per_client[connection.peer] -= 1
            if not self._per_client[connection.peer]:
                del self._per_client[connection.peer]

    def hold(self, count: int) -> None:
        """So many bytes more (or less) of bodies. Where that is too much, whoever holds most has to go, so that small
        requests are served beside those who hoard."""
        self.held += count
        if self.held > limits.MAX_HELD_BYTES:
            most = max(self._ordinary, key=lambda one: one.held)
            most.refuse("memory", 503, "bodies under way hold more memory than there is for them", retry=True)

    async def look(self) -> None:
        """What began must end. Few at a time: hundreds may have begun together, and to close them takes time from others."""
        for number, connection in enumerate((*self._ordinary, *self._reserved), 1):
            if connection in self._ordinary or connection in self._reserved:
                connection.look(connection.loop.time())
            if number % limits.LOOK_AT == 0:
                await asyncio.sleep(limits.LOOK_PAUSE_S)


class _Flow(FlowControl):
    """Reads no more while it is held, nor while whole requests wait. uvicorn reads on after every answer: who sends requests
    without end would have ever more of them waiting."""

    def __init__(self, transport: asyncio.Transport, waiting: deque[Any]) -> None:
        super().__init__(transport)
        self.held = False
        self._waiting = waiting

    def hold(self) -> None:
        self.held = True
        self.pause_reading()

    def release(self) -> None:
        self.held = False
        self.resume_reading()

    def resume_reading(self) -> None:
        if not (self.held or self._waiting):
            super().resume_reading()


class Connection(HttpToolsProtocol):
    """The state of the application's lifespan has the `door`; requests find their connection as `connection` in theirs.
    held: bytes of its body that are not on their way yet. known: it has shown a key."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.held = 0
        self.known = False
        self.peer = ""
        self._door = cast(Door, app_state["door"])
        self._ordinary = True
        self._unread = b""
        self._stage = _Stage.HEAD
        self._since = self.loop.time()
        self._unread_since: float | None = None
        # Of the message's head: bytes and fields. Since its last sign of getting on: bytes.
        self._head = 0
        self._fields = 0
        self._framing = 0

    @property
    def gone(self) -> bool:
        """Whether nobody waits for an answer here any more."""
        return self.transport.is_closing()

    # -- told by the loop ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = self._flow = _Flow(transport, self.pipeline)
        self.peer = self.client[0] if self.client else ""
        self._ordinary = self._door.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.leave(self)
        self.release()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """A read may hold thousands of heads or of chunks: it is gone through in slices, between which others are served,
        and no more is read before that."""
        if self._flow.held or len(data) > limits.SLICE_BYTES:
            self._unread += data
            self._flow.hold()
            self._go_on()
        else:
            self._feed(data)

    def _go_on(self) -> None:
        part, self._unread = self._unread[: limits.SLICE_BYTES], self._unread[limits.SLICE_BYTES :]
        if part:
            self._feed(part)
            self._continue()

    def _continue(self) -> None:
        """Unless whole requests are there that wait for the answer to the one before."""
        if self.pipeline or not self._flow.held:
            return
        if self._unread:
            self.loop.call_soon(self._go_on)
        else:
            self._flow.release()

    def _feed(self, data: bytes) -> None:
        if self.transport.is_closing():
            self._unread = b""
            return
        self._unset_keepalive_if_required()
        if self._stage is _Stage.IDLE and (self.cycle is None or self.cycle.response_complete):
            self._stage, self._since = _Stage.HEAD, self.loop.time()
        self._framing += len(data)
        try:
            self._parse(data)
        except httptools.HttpParserError:
            if not self.transport.is_closing():
                self.refuse("unparsable", 400, "this is not HTTP/1.1")
            return
        # A head, a trailer or the frame of a chunk that does not end is kept by the parser, piece by piece.
        if self._framing > limits.MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse_head()

    def _parse(self, data: bytes) -> None:
        """Whoever asks for another protocol, which nobody speaks here, is answered as if they had not, and so is what comes
        after it, where the parser stops each time."""
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]

    # -- told by the parser -------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._stage is not _Stage.HEAD:
            self._stage, self._since = _Stage.HEAD, self.loop.time()
        self._head = self._fields = self._framing = 0
        self.scope["state"]["connection"] = self

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > limits.MAX_TARGET_BYTES:
            self.refuse("head", 414, f"the address is longer than {limits.MAX_TARGET_BYTES} bytes")
            raise _RefusedError

    def on_header(self, name: bytes, value: bytes) -> None:
        """Also of trailers, which add to the head."""
        self._head += len(name) + len(value)
        self._fields += 1
        if self._head > limits.MAX_HEAD_BYTES or self._fields > limits.MAX_FIELDS:
            self._refuse_head()
            raise _RefusedError
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.url.partition(b"?")[0] not in PROBES:
            self._admit()
        self._check_upgrade()
        self._framing = 0
        self._stage = _Stage.BODY
        super().on_headers_complete()

    def _admit(self) -> None:
        """Before a byte of the body is kept."""
        if not self._ordinary:
            self.refuse("connections", 503, "there are too many connections", retry=True)
            raise _RefusedError
        keys = self._door.keys
        if keys is None:
            return
        shown = [value.decode("latin-1") for name, value in self.headers if name == b"authorization"]
        owner = keys.owner(shown[0]) if len(shown) == 1 else ""
        if not owner:
            self.refuse("keys", 401, "an API key is needed here: send 'Authorization: Bearer KEY'")
            raise _RefusedError
        self.known = True
        self.scope["state"]["owner"] = owner

    def _check_upgrade(self) -> None:
        """Behind such a head the parser looks for another request, where somebody in front of us sees a body."""
        fields = dict(self.headers)
        if self.parser.should_upgrade() and (b"transfer-encoding" in fields or fields.get(b"content-length", b"0") != b"0"):
            self.refuse("malformed", 400, "a request with a body cannot ask for another protocol: send it without 'Upgrade'")
            raise _RefusedError

    def on_body(self, body: bytes) -> None:
        self._framing = 0
        if self.transport.is_closing():
            return
        super().on_body(body)
        # What is beyond the largest body is not kept.
        if not self.cycle.response_complete and self.held < limits.MAX_BODY_BYTES:
            self.held += len(body)
            self._door.hold(len(body))

    def on_message_complete(self) -> None:
        self._framing = 0
        self._stage = _Stage.IDLE
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self.release()
        super().on_response_complete()
        self._continue()

    # -- told by others -----------------------------------------------------------------------------------------------

    def release(self) -> None:
        """Its body is on its way, or nobody needs it any more."""
        self._door.hold(-self.held)
        self.held = 0

    def look(self, now: float) -> None:
        """Refuse what takes too long."""
        if not self.transport.get_write_buffer_size():
            self._unread_since = None
        elif self._unread_since is None:
            self._unread_since = now
        elif now > self._unread_since + limits.RECEIPT_S:
            self.drop("unread")
            return
        if self.transport.is_closing():
            return
        if self.pipeline:
            self._since = now  # it is not read while others are answered
        elif self._stage is _Stage.HEAD and now > self._since + limits.HEAD_S:
            self.refuse("slow", 408, f"the head of a request did not end within {limits.HEAD_S:g} s")
        elif self._stage is _Stage.BODY and now > self._since + limits.RECEIPT_S:
            self.refuse("slow", 408, f"the request did not end within {limits.RECEIPT_S:g} s")

    def refuse(self, reason: Turning, status: int, sentence: str, retry: bool = False) -> None:
        """Say why, unless an answer is under way, and close."""
        self._door.refusals.count(reason)
        self.release()
        cycle = self.cycle
        answering = cycle is not None and not cycle.response_complete
        if not (answering and cycle.response_started):
            self.transport.write(_answer(status, sentence, retry))
        if answering:
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.close()

    def drop(self, reason: Turning) -> None:
        """Close without a word."""
        self._door.refusals.count(reason)
        self.transport.abort()

    def _refuse_head(self) -> None:
        most = f"{limits.MAX_HEAD_BYTES} bytes or {limits.MAX_FIELDS} fields"
        self.refuse("head", 431, f"the head of a request has more than {most}")


def _answer(status: int, sentence: str, retry: bool) -> bytes:
    body = msgspec.json.encode({"error": sentence})
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
    more = "retry-after: 1\r\n" if retry else ""
    more += "www-authenticate: Bearer\r\n" if status == HTTPStatus.UNAUTHORIZED else ""
    return f"{head}content-length: {len(body)}\r\n{more}connection: close\r\n\r\n".encode() + body
