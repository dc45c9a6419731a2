"""A client's connection to a gateway, which never waits. Waiting is left to async_client (in an event loop) and client (in
a thread)."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import msgspec
import numpy.typing as npt
import zmq
from msgspec import Struct

from loki_rl.core.draws import RETRY, uniform
from loki_rl.errors import FailureError
from loki_rl.serving.security.key_folder import ClientKeys
from loki_rl.serving.transport import multipart, protocol
from loki_rl.serving.transport.curve import secure_client
from loki_rl.serving.transport.monitor import Monitor
from loki_rl.serving.transport.multipart import NOBLOCK, SEND_MORE, Context, readable
from loki_rl.serving.transport.wire import MAX_PARTS, WireError, unpack

_RECONNECT_MS = 20
# A fuse only: the gateway's limit on requests in flight is the flow control.
_MOST_QUEUED = 200_000
# Beyond deadline and grace, an answer may spend this long on its way before the gateway counts as gone.
PATIENCE_S = 1.0
# A gateway that was lost is back after about this long, if it comes back.
_BACK_S = 1.0

_FOUND_AND_LOST = zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED
_DENIED = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL

Array = npt.NDArray[Any]

LOST = "the gateway was lost before it answered"


class ClientError(FailureError):
    """The gateway refused the request, does not answer, or is not what was expected; the message says which."""


class GatewayGoneError(ClientError):
    """The gateway node is not there or does not answer."""


class Inference(protocol.Answer):
    """How a request ended.

    id: of the request. outcome: ok, late, dropped, rejected, cancelled or failed. latency_s: from its arrival to its answer
    [s]. accuracy: of what served it, 0..1. served: names of the variants of each finished leaf, first task first. outputs:
    an array for each of these; its shape is the adapter's. missing: items dropped or unfinished. reason: why it is not ok.
    slack_s: time left until the deadline, below 0 after it [s]. retry_s: where the plane had no room, when it may have some
    again [s]; 0 where asking again is no use. refusal: what is known of the first item that has no result. leaving: the
    plane is about to stop, go elsewhere.
    """

    outputs: list[Array] = msgspec.field(default_factory=list)


class Lost(Struct):
    """A question that nobody answers any more: its gateway was lost."""

    id: int


Received = Inference | protocol.Response | Lost


class Connection:
    """Ids rise for as long as it lives, also over the loss of a gateway: an answer cannot be taken for that to another
    request. keys: for an endpoint that asks for them. losses: gateways that were lost. denied: the latest handshake failed:
    the other end asks for other keys, or for none. unasked: answers to what nobody waited for any more, or had an answer.
    Raises zmq.ZMQError or TypeError for an endpoint that is none."""

    def __init__(self, context: Context, endpoint: str, keys: ClientKeys | None = None) -> None:
        self.losses = 0
        self.denied = False
        self.unasked = 0
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger = 0
        # Not IMMEDIATE: that would lose answers which have come and are not read yet when the connection breaks.
        self.socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
        self.socket.setsockopt(zmq.SNDHWM, _MOST_QUEUED)
        self.socket.setsockopt(zmq.RCVHWM, _MOST_QUEUED)
        if keys is not None:
            secure_client(self.socket, keys.pair, keys.server)
        self._monitor = Monitor(context, self.socket, _FOUND_AND_LOST | _DENIED)
        self._connected = False
        self._next_id = 0
        # When each inference was sent; None for a question.
        self._in_flight: dict[int, float | None] = {}
        self._received: list[Received] = []
        # Inferences that ended with their gateway.
        self._lost: list[int] = []
        try:
            self.socket.connect(endpoint)
        except (zmq.ZMQError, TypeError):
            self.close()
            raise

    def close(self) -> None:
        self._in_flight.clear()
        self._monitor.close()
        self.socket.close(linger=0)

    @property
    def handles(self) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
        """What becomes readable when `receive` may have something."""
        return self.socket, self._monitor.handle

    @property
    def found(self) -> bool:
        """Whether a gateway is there."""
        self._look()
        return self._connected

    def take_id(self) -> int:
        self._next_id += 1
        return self._next_id

    def send(self, request: protocol.Request, payload: bytes | None = None) -> None:
        """request: with an id from `take_id`. Raises GatewayGoneError where no gateway is there."""
        # Looked at first, so that no request to a successor counts as one that its predecessor had, and fails with it. While
        # none is there nothing may be queued: it would be run after its client has been told otherwise.
        if not self.found:
            raise GatewayGoneError("the gateway is not there")
        self._send(request, payload)
        self._in_flight[request.id] = time.monotonic() if isinstance(request, protocol.Infer) else None

    def tell(self, word: protocol.Turned) -> None:
        """What needs no answer. Raises GatewayGoneError where no gateway is there."""
        if not self.found:
            raise GatewayGoneError("the gateway is not there")
        self._send(word, None)

    def cancel(self, id: int) -> None:
        """Nobody wants the result any more; the answer still comes, as 'cancelled' unless it was on its way."""
        if self._in_flight.get(id) is None:
            return
        self._look()
        if id in self._in_flight:
            with contextlib.suppress(GatewayGoneError):
                self._send(protocol.Cancel(id), None)

    def give_up(self, id: int) -> None:
        """Nobody waits for this answer any more."""
        self.cancel(id)
        self._in_flight.pop(id, None)

    def receive(self, limit: int) -> list[Received]:
        """What has come: answers to what is in flight, each once, at most about so many. Refused with NO_ID: what came is
        of another protocol, or the gateway could not read a request."""
        self._look()
        while len(self._received) < limit and readable(self.socket):
            self._read()
        received, self._received = self._received, []
        return received

    def _send(self, request: protocol.Request, payload: bytes | None) -> None:
        try:
            self.socket.send(protocol.encode(request), NOBLOCK if payload is None else SEND_MORE)
        except zmq.Again:
            raise GatewayGoneError("the gateway is not there") from None
        if payload is not None:
            self.socket.send(payload, NOBLOCK, copy=False)

    def _look(self) -> None:
        """Take notice of gateways that were lost and found."""
        for event in self._monitor.read():
            if event & _DENIED:
                self.denied = True
                continue
            self._connected = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
            self.denied &= not self._connected
            if self._connected:
                self._clear()
            else:
                self._lose()

    def _lose(self) -> None:
        """The gateway may have answered some; the rest ends here."""
        while readable(self.socket):
            self._read()
        self.losses += 1
        self._received += [_end(id, sent) for id, sent in self._in_flight.items()]
        self._lost += [id for id, sent in self._in_flight.items() if sent is not None]
        self._in_flight.clear()

    def _clear(self) -> None:
        """What was sent in the moment in which the former gateway was lost comes to its successor."""
        for id in self._lost:
            with contextlib.suppress(GatewayGoneError):
                self._send(protocol.Cancel(id), None)
        self._lost.clear()

    def _read(self) -> None:
        response = read_response(*multipart.receive(self.socket, 1, MAX_PARTS))
        if isinstance(response, protocol.Beat):
            return
        if response.id == protocol.NO_ID:
            self._received.append(response)
        elif response.id in self._in_flight:
            del self._in_flight[response.id]
            self._received.append(response)
        else:
            self.unasked += 1


def _end(id: int, sent: float | None) -> Inference | Lost:
    """Of what a lost gateway had. Not all come back at the same time."""
    if sent is None:
        return Lost(id)
    latency_s = time.monotonic() - sent
    retry_s = _BACK_S * (1 + 2 * uniform(0, id, RETRY))
    return Inference(id, "failed", latency_s, 0.0, [], 1, LOST, retry_s=retry_s)


def read_response(head: list[bytes], outputs: list[zmq.Frame]) -> Inference | protocol.Response:
    """The message in these parts; a Refused that says so where they are none."""
    try:
        response = protocol.decode_response(head[0])
        if not isinstance(response, protocol.Answer):
            return response
        return Inference(**msgspec.structs.asdict(response), outputs=[unpack(frame) for frame in outputs])
    except (protocol.MessageError, WireError) as error:
        why = f"the gateway's answer cannot be read: {error}"
    return protocol.Refused(protocol.NO_ID, why)
