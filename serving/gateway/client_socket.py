"""The gateway node's socket for clients."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
import zmq
from msgspec import Struct

from loki_rl.core.effects import Reply
from loki_rl.core.messages import Outcome
from loki_rl.core.pipeline import Pipeline
from loki_rl.serving.observe.names import PathNames, sentence
from loki_rl.serving.transport import multipart, protocol
from loki_rl.serving.transport.listening import bind_again
from loki_rl.serving.transport.monitor import Monitor
from loki_rl.serving.transport.multipart import NOBLOCK, SEND_MORE, readable, send

log = logging.getLogger(__name__)

_WORDS = tuple(outcome.name.lower() for outcome in Outcome)

Payload = bytes | memoryview | zmq.Frame


# -- what the driver of the gateway node is told --------------------------------------------------------------------------


class Entered(Struct, gc=False):
    """A well-formed request came in. key: for Arrived.keys; timeout_s: for Arrived.timeouts; the rest: as in Infer."""

    key: int
    timeout_s: float
    payload: zmq.Frame | None
    min_accuracy: float = 0.0
    priority: int = 0
    traceparent: str = ""


class Withdrawn(Struct, gc=False):
    """The client of this key cancelled: for Abandoned.keys."""

    key: int


class Question(Struct):
    """A client wants to know, or begins a run; answer with ClientSocket.answer(question, ...) or refuse(question, why)."""

    client: bytes
    request: protocol.Query


FrontEvent = Entered | Withdrawn | Question
Check = Callable[[zmq.Frame | None], str | None]


class ClientSocket:
    """The gateway node's socket for clients. The driver polls `socket`, calls `receive` until it returns fewer events
    than asked for, and answers; it sets `ready` once every task has a warm variant, and `leaving` before the end.

    check: the sentence that says what is wrong with a payload (None: nothing). vanished: answers whose client was gone or
    did not take them. malformed: messages refused. turned: what processes in front turned away, by reason. disconnections:
    of clients.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        pipeline: Pipeline,
        described: protocol.Described,
        check: Check,
        max_message_bytes: int = protocol.MAX_MESSAGE_BYTES,
    ) -> None:
        self.socket = _bind(context, endpoint, max_message_bytes)
        self._endpoint = endpoint
        self.disconnections = Monitor(context, self.socket, zmq.EVENT_DISCONNECTED)
        self.ready = False
        self.leaving = False
        self.vanished = 0
        self.malformed = 0
        self.turned: Counter[str] = Counter()
        self._described = described
        self._check = check
        self._names = PathNames(pipeline)
        self._slo_s = pipeline.slo_s
        self._next_key = 0
        self._waiting: dict[int, tuple[bytes, int]] = {}
        self._timeouts: dict[int, float] = {}
        # Client -> its id -> key.
        self._in_flight: dict[bytes, dict[int, int]] = {}

    def receive(self, limit: int = 64) -> list[FrontEvent]:
        """Read at most `limit` messages without waiting. Malformed ones are answered here and yield no event."""
        events: list[FrontEvent] = []
        for number in range(limit):
            if number == 1 and not readable(self.socket):
                break
            try:
                head, tensors = multipart.receive(self.socket, 2, protocol.MAX_TENSORS)
            except zmq.Again:
                break
            event = self._understand(head[0], head[1], tensors)
            if event is not None:
                events.append(event)
        return events

    def reply(self, effect: Reply, outputs: Sequence[Payload] = ()) -> None:
        """Carry out the core's answer to one request; outputs: one frame per leaf of the effect, or none."""
        client = self._waiting.pop(effect.key, None)
        if client is None:
            return
        self._end(*client)
        refusal = None if effect.cause is None else self._names.refusal(effect.cause)
        answer = protocol.Answer(
            client[1],
            _WORDS[effect.outcome],
            effect.latency_s,
            effect.accuracy,
            self._names.served(effect),
            effect.missing,
            f"{effect.reason}: {sentence(refusal)}" if refusal is not None and refusal.stage else effect.reason,
            self._timeouts.pop(effect.key, self._slo_s) - effect.latency_s,
            effect.retry_s,
            refusal,
            self.leaving,
        )
        self._send(client[0], answer, outputs)

    def answer(self, question: Question, response: protocol.Response) -> None:
        """response: with the id of the question's request."""
        self._send(question.client, response)

    def refuse(self, question: Question, why: str) -> None:
        """For what only the driver can judge."""
        self.malformed += 1
        self._send(question.client, protocol.Refused(question.request.id, why))

    def departed(self) -> list[int]:
        """Keys of requests whose client is gone. That shows only when something is sent, so clients are sent what they
        ignore."""
        beat = protocol.encode(protocol.Beat())
        readable(self.socket)  # lets the socket take notice of what was closed
        return [key for client, keys in self._in_flight.items() if not self._reaches(client, beat) for key in keys.values()]

    def bind_again(self) -> None:
        """See listening.bind_again."""
        bind_again(self.socket, self._endpoint)

    def close(self, linger_s: float = 0.0) -> None:
        """linger_s: for answers that have just been written."""
        self.disconnections.close()
        self.socket.close(linger=round(1000 * linger_s))

    def _understand(self, client: bytes, head: bytes, tensors: list[zmq.Frame]) -> FrontEvent | None:
        request: protocol.Request | None = None
        try:
            request = _decode(head, tensors)
            if isinstance(request, protocol.Infer):
                return self._infer(client, request, tensors)
            return self._ask(client, request)
        except _MalformedError as error:
            why = str(error)
        except Exception as error:
            log.exception("a message of a client cannot be understood")
            why = f"the request cannot be understood ({type(error).__name__}); the server's log says more"
        self.malformed += 1
        self._send(client, protocol.Refused(protocol.NO_ID if request is None else request.id, protocol.shortened(why)))
        return None

    def _ask(self, client: bytes, request: protocol.Request) -> FrontEvent | None:
        if isinstance(request, protocol.Cancel):
            key = self._in_flight.get(client, {}).get(request.id)
            return None if key is None else Withdrawn(key)
        if isinstance(request, protocol.Turned):
            self.turned.update(request.counts)
            return None
        if isinstance(request, protocol.Query):
            return Question(client, request)
        self._send(client, msgspec.structs.replace(self._described, id=request.id, ready=self.ready))
        return None

    def _infer(self, client: bytes, request: protocol.Infer, tensors: list[zmq.Frame]) -> Entered:
        fault = self._fault(client, request, tensors)
        if fault is not None:
            raise _MalformedError(fault)
        key = self._next_key
        self._next_key += 1
        self._waiting[key] = (client, request.id)
        self._in_flight.setdefault(client, {})[request.id] = key
        if request.timeout_s:
            self._timeouts[key] = request.timeout_s
        payload = tensors[0] if tensors else None
        return Entered(key, request.timeout_s, payload, request.min_accuracy, request.priority, request.traceparent)

    def _fault(self, client: bytes, request: protocol.Infer, tensors: list[zmq.Frame]) -> str | None:
        if request.pipeline != self._described.pipeline:
            return f"pipeline '{request.pipeline}' is not served here, '{self._described.pipeline}' is"
        if len(tensors) > 1:
            return "a request takes one tensor, not more"
        if request.id in self._in_flight.get(client, ()):
            return f"id {request.id} is still in flight"
        return self._check(tensors[0] if tensors else None)

    def _end(self, client: bytes, id: int) -> None:
        ids = self._in_flight[client]
        del ids[id]
        if not ids:
            del self._in_flight[client]

    def _reaches(self, client: bytes, part: bytearray) -> bool:
        """Whether a client is still there; one that reads nothing is."""
        try:
            send(self.socket, client, SEND_MORE)
        except zmq.ZMQError as error:
            return error.errno != zmq.EHOSTUNREACH
        send(self.socket, part, NOBLOCK)
        return True

    def _send(self, client: bytes, response: protocol.Response, tensors: Sequence[Payload] = ()) -> None:
        """Never waits and never raises for a client: one that is gone, or that reads nothing, must not hold up others."""
        socket = self.socket
        try:
            send(socket, client, SEND_MORE)
        except zmq.ZMQError:
            self.vanished += 1
            return
        last = len(tensors) - 1
        send(socket, protocol.encode(response), NOBLOCK if last < 0 else SEND_MORE)
        for position, tensor in enumerate(tensors):
            send(socket, tensor, NOBLOCK if position == last else SEND_MORE, False)


class _MalformedError(ValueError):
    """A message of a client is at fault; the sentence goes back to it."""


def _decode(head: bytes, tensors: list[zmq.Frame]) -> protocol.Request:
    try:
        request = protocol.decode_request(head)
    except protocol.MessageError as error:
        raise _MalformedError(str(error)) from None
    if tensors and not isinstance(request, protocol.Infer):
        # Not answered under the request's id: that one may be in flight.
        raise _MalformedError(f"{type(request).__name__} takes no tensor")
    return request


def _bind(context: zmq.Context[zmq.Socket[bytes]], endpoint: str, max_message_bytes: int) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.MAXMSGSIZE, max_message_bytes)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 2000)
    socket.setsockopt(zmq.LINGER, 0)
    # A fuse, not flow control: the gateway's own limit on requests in flight comes first.
    socket.setsockopt(zmq.SNDHWM, 100_000)
    socket.setsockopt(zmq.RCVHWM, 100_000)
    socket.bind(endpoint)
    return socket
