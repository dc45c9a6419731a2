"""Replay over the Open Inference Protocol, against our server or any other. Raw connections, because an open loop never
waits for a free one."""

from __future__ import annotations

import http.client
import json
import selectors
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import httptools
import msgspec
import numpy as np
from msgspec import Struct
from msgspec.structs import asdict

from loki_rl.core.messages import Outcome
from loki_rl.core.requests.items import QoS
from loki_rl.decoding import UNREADABLE
from loki_rl.serving.gateway.client import Array
from loki_rl.serving.load.sender import ReplayError, Seen
from loki_rl.serving.security.credentials import Credentials
from loki_rl.serving.security.tls import untrusted
from loki_rl.serving.transport.addresses import AddressError, HttpServer, http_server
from loki_rl.serving.transport.protocol import RunLedger, Tensor
from loki_rl.serving.transport.wire import DATATYPES

MAX_CONNECTIONS = 512
_READ_BYTES = 1 << 18
_CONTROL_S = 5.0
_NOT_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class _Parameters(Struct):
    """Of an answer, as far as the server gives them."""

    outcome: str = ""
    accuracy: float | None = None


class _Body(Struct):
    parameters: _Parameters = msgspec.field(default_factory=_Parameters)
    error: str = ""


_answers = msgspec.json.Decoder(_Body)


class HttpSender:
    """A sender.Sender. Request n carries payload n modulo their number, encoded once for each quality that is asked for.
    takes: the model's input, for a server that does not describe its models; others are asked."""

    def __init__(
        self,
        url: str,
        model: str,
        payloads: Sequence[Array] | None,
        timeout_s: float,
        takes: Tensor | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        found = http_server(url)
        if found is None:
            raise AddressError(f"'{url}' is not an http://HOST:PORT (or https) address")
        self.grace_s = timeout_s
        self._server = found
        self._credentials = credentials or Credentials()
        self._headers = self._credentials.headers()
        self._context = self._credentials.context(found)
        path = f"/v2/models/{quote(model, safe='')}"
        self._path, self._timeout_s = f"{path}/infer", timeout_s
        self._metadata = self._control("GET", path) if takes is None else {"inputs": [asdict(takes)]}
        self._payloads = payloads or (None,)
        self._requests: dict[tuple[int, QoS], bytes] = {}
        for payload in range(len(self._payloads)):
            self._request(payload, QoS())
        self._selector = selectors.DefaultSelector()
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._queue: deque[tuple[int, bytes, float]] = deque()
        self._seen: list[Seen] = []

    def fileno(self) -> int:
        # The selector's own descriptor is readable when one of its connections is: one wait for all of them.
        return self._selector.fileno()

    def send(self, number: int, qos: QoS) -> bool:
        """Over MAX_CONNECTIONS in flight, the request waits here; its latency counts from its intended time all the same."""
        request = self._request(number % len(self._payloads), qos)
        if self._idle:
            self._idle.pop().begin(number, request)
        elif len(self._open) < MAX_CONNECTIONS:
            return self._connect(number, request)
        else:
            self._queue.append((number, request, time.monotonic()))
        return True

    def _request(self, payload: int, qos: QoS) -> bytes:
        known = self._requests.get((payload, qos))
        if known is None:
            body = _body(self._payloads[payload], self._metadata, self._timeout_s, qos)
            known = self._requests[payload, qos] = _request(self._path, {"Host": self._server.name, **self._headers}, body)
        return known

    def _connect(self, number: int, request: bytes, waited_s: float = 0.0) -> bool:
        try:
            connection = _Connection(self, self._server, self._context)
        except OSError:
            return False
        self._open.add(connection)
        connection.begin(number, request, waited_s)
        return True

    def poll(self) -> list[Seen]:
        for key, events in self._selector.select(0):
            key.data.ready(events)
        seen, self._seen = self._seen, []
        return seen

    def begin_run(self) -> bool:
        return self._control("POST", "/loki/run", required=False) is not None

    def ledger(self) -> RunLedger | None:
        content = self._control("GET", "/loki/ledger", required=False)
        return None if content is None else msgspec.convert(content, RunLedger, strict=False)

    def close(self) -> None:
        self._queue.clear()
        for connection in list(self._open):
            connection.close()
        self._selector.close()

    # -- told by connections ------------------------------------------------------------------------------------------

    def watch(self, connection: _Connection, events: int) -> None:
        """Watch the connection for these events, and those only."""
        try:
            self._selector.modify(connection.socket, events, connection)
        except KeyError:
            self._selector.register(connection.socket, events, connection)

    def done(self, connection: _Connection, seen: Seen) -> None:
        self._seen.append(seen)
        if self._queue:
            number, request, since = self._queue.popleft()
            connection.begin(number, request, time.monotonic() - since)
        else:
            self._idle.append(connection)

    def lost(self, connection: _Connection, number: int | None) -> None:
        """Idle connections may go; a request that was on one has failed, and one that waited gets another."""
        self._selector.unregister(connection.socket)
        self._open.discard(connection)
        if number is None:
            self._idle.remove(connection)
        else:
            self._seen.append(Seen(number, Outcome.FAILED, 0.0, told=False))
        if self._queue:
            number, request, since = self._queue.popleft()
            if not self._connect(number, request, time.monotonic() - since):
                self._seen.append(Seen(number, Outcome.FAILED, 0.0, told=False))

    def _control(self, method: str, path: str, required: bool = True) -> Any:
        """A question outside the run, on a connection of its own. None if the server does not know it."""
        connection = self._credentials.connection(self._server, _CONTROL_S)
        try:
            connection.request(method, path, headers=self._headers)
            answer = connection.getresponse()
            content = answer.read()
            if answer.status == 200:
                return json.loads(content)
        except ssl.SSLCertVerificationError as error:
            raise ReplayError(untrusted(self._server, error)) from None
        except OSError as error:
            raise ReplayError(f"no answer to {method} {self._server}{path}: {error}") from None
        except (http.client.HTTPException, ValueError, RecursionError):
            raise ReplayError(f"what answers at {self._server} is not an HTTP server of this protocol") from None
        finally:
            connection.close()
        if required:
            raise ReplayError(f"{method} {path} was answered with status {answer.status}: {_error(content)}")
        return None


class _Connection:
    """One keep-alive connection with at most one request on it. context: of TLS, None without."""

    def __init__(self, sender: HttpSender, server: HttpServer, context: ssl.SSLContext | None) -> None:
        self._sender = sender
        self._host = server.host
        # Until there is somebody to shake hands with.
        self._context = context
        self._number: int | None = None
        self._waited_s = 0.0
        self._complete = False
        self._left = memoryview(b"")
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self.socket = _connecting(server)

    def begin(self, number: int, request: bytes, waited_s: float = 0.0) -> None:
        self._number, self._waited_s = number, waited_s
        self._left = memoryview(request)
        self._body.clear()
        self._sender.watch(self, selectors.EVENT_READ | selectors.EVENT_WRITE)
        if self._context is None:
            self._write()

    def ready(self, events: int) -> None:
        if self._context is not None and not self._secure(self._context):
            return
        if self._left or events & selectors.EVENT_WRITE:
            self._write()
        if events & selectors.EVENT_READ and self.socket.fileno() >= 0:
            self._read()

    def close(self) -> None:
        self._sender.lost(self, self._number)
        self.socket.close()

    def _secure(self, context: ssl.SSLContext) -> bool:
        """It is connected, or cannot be; whether TLS is spoken from now on. The handshake comes with the first write."""
        try:
            self.socket = context.wrap_socket(self.socket, server_hostname=self._host, do_handshake_on_connect=False)
        except OSError:
            self.close()
            return False
        self._context = None
        return True

    def _write(self) -> None:
        try:
            while self._left:
                self._left = self._left[self.socket.send(self._left) :]
        except ssl.SSLWantReadError:
            # The handshake goes on when something comes.
            self._sender.watch(self, selectors.EVENT_READ)
            return
        except _NOT_YET:
            self._sender.watch(self, selectors.EVENT_READ | selectors.EVENT_WRITE)
            return
        except OSError:
            self.close()
            return
        self._sender.watch(self, selectors.EVENT_READ)

    def _read(self) -> None:
        """TLS may hold more than one read gives, of which no descriptor tells."""
        self._read_once()
        while isinstance(self.socket, ssl.SSLSocket) and self.socket.fileno() >= 0 and self.socket.pending():
            self._read_once()

    def _read_once(self) -> None:
        try:
            data = self.socket.recv(_READ_BYTES)
            self._parser.feed_data(data)
        except _NOT_YET:
            return
        except (OSError, httptools.HttpParserError):
            data = b""
        if self._complete:
            self._end()
        if not data:
            self.close()

    def _end(self) -> None:
        """Not called by the parser: what is raised here must not pass through it."""
        self._complete = False
        if self._number is not None:
            seen = _seen(self._number, self._parser.get_status_code(), b"".join(self._body), self._waited_s)
            self._number = None
            self._sender.done(self, seen)

    # Called by the parser.

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        self._complete = True


def _connecting(server: HttpServer) -> socket.socket:
    """A socket on its way; whether it arrives shows when it is written to."""
    family, kind, protocol, _, where = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)[0]
    connection = socket.socket(family, kind, protocol)
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with suppress(BlockingIOError):
        connection.connect(where)
    return connection


def _request(path: str, headers: Mapping[str, str], body: tuple[bytes, int]) -> bytes:
    content, header_length = body
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = (
        f"POST {path} HTTP/1.1\r\n{lines}Content-Type: application/octet-stream\r\n"
        f"Inference-Header-Content-Length: {header_length}\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def _body(payload: Array | None, metadata: Any, timeout_s: float, qos: QoS) -> tuple[bytes, int]:
    """The tensor follows the JSON as it is. One row of bytes for an input of type BYTES is one element of it."""
    inputs: list[dict[str, object]] = []
    data = b""
    if payload is not None:
        declared = metadata["inputs"][0]
        payload = payload.astype(payload.dtype.newbyteorder("<"), copy=False)
        data, datatype, shape = payload.tobytes(), DATATYPES.get(payload.dtype, str(payload.dtype)), list(payload.shape)
        if declared["datatype"] == "BYTES" and payload.dtype == np.uint8 and payload.ndim == 1:
            datatype, shape, data = "BYTES", [1], struct.pack("<I", len(data)) + data
        size = {"binary_data_size": len(data)}
        inputs.append({"name": declared["name"], "datatype": datatype, "shape": shape, "parameters": size})
    parameters: dict[str, float] = {"timeout": round(timeout_s * 1e6)}
    parameters |= {name: value for name, value in asdict(qos).items() if value}  # other servers may not know them
    header = msgspec.json.encode({"parameters": parameters, "inputs": inputs})
    return header + data, len(header)


def _seen(number: int, status: int, body: bytes, waited_s: float) -> Seen:
    """Our server says how a request ended; of others the status must do. Raises ReplayError where the client is at fault."""
    if 400 <= status < 500 and status not in (408, 429, 499):
        raise ReplayError(f"a request was answered with status {status}: {_error(body)}")
    try:
        said = _answers.decode(body).parameters
    except UNREADABLE:
        said = _Parameters()
    by_status = {200: Outcome.OK, 429: Outcome.REJECTED, 503: Outcome.REJECTED, 408: Outcome.LATE, 504: Outcome.LATE}
    outcome = Outcome.__members__.get(said.outcome.upper(), by_status.get(status, Outcome.FAILED))
    return Seen(number, outcome, said.accuracy, waited_s, told=bool(said.outcome))


def _error(body: bytes) -> str:
    try:
        return _answers.decode(body).error or "no reason given"
    except UNREADABLE:
        return "no reason given"
