"""The gateway node's socket for clients. Owns which client waits for which request; must not know how requests are
scheduled or what is inside a tensor."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import msgspec
import zmq
import zmq.backend
from msgspec import Struct

from loki_rl.core.effects import Reply
from loki_rl.core.messages import Outcome
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.requests.ledger import Tally
from loki_rl.serving.observe.names import PathNames, sentence
from loki_rl.serving.state import PlaneState
from loki_rl.serving.transport import multipart
from loki_rl.serving.transport.mailbox import readable
from loki_rl.serving.transport.monitor import Monitor
from loki_rl.serving.transport.protocol import (
    MAX_MESSAGE_BYTES,
    MAX_TENSORS,
    NO_ID,
    Answer,
    Beat,
    BeginRun,
    Begun,
    Cancel,
    Describe,
    Described,
    Infer,
    LedgerRead,
    ReadinessRead,
    ReadLedger,
    ReadReadiness,
    ReadState,
    Refused,
    Request,
    Response,
    RunLedger,
    StateRead,
    TaskVariants,
    Tensor,
    VersionError,
    decode_request,
    encode,
    shortened,
)

log = logging.getLogger(__name__)

# Plain ints and the methods below pyzmq's own: IntFlag arithmetic and argument checks cost more than the call itself.
_send = zmq.backend.Socket.send
_NOBLOCK = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK) | int(zmq.SNDMORE)

_WORDS = tuple(outcome.name.lower() for outcome in Outcome)

Question = Cancel | Describe | BeginRun | ReadLedger | ReadReadiness | ReadState
Payload = bytes | memoryview | zmq.Frame


# -- what the driver of the gateway node is told --------------------------------------------------------------------------


class Entered(Struct, gc=False):
    """A well-formed request came in. key: for Arrived.keys; timeout_s: for Arrived.timeouts; the rest: as in Infer."""

    key: int
    timeout_s: float
    payload: zmq.Frame | None
    min_accuracy: float = 0.0
    priority: int = 0


class Withdrawn(Struct, gc=False):
    """The client of this key cancelled: for Abandoned.keys."""

    key: int


class RunAsked(Struct):
    """A client begins a run; answer with Front.begun(ask, origin) or Front.refuse(ask, why)."""

    client: bytes
    id: int
    origin_s: float | None


class LedgerAsked(Struct):
    """A client wants the ledger; answer with Front.ledger(ask, tally, servers)."""

    client: bytes
    id: int


class ReadinessAsked(Struct):
    """A client wants to know whether to come; answer with Front.readiness(ask, reason)."""

    client: bytes
    id: int


class StateAsked(Struct):
    """A client wants the state of the plane; answer with Front.state(ask, state)."""

    client: bytes
    id: int


FrontEvent = Entered | Withdrawn | RunAsked | LedgerAsked | ReadinessAsked | StateAsked
Check = Callable[[zmq.Frame | None], str | None]


def describe(pipeline: Pipeline, engine: str, input: Tensor, output: Tensor, grace_s: float | None = None) -> Described:
    """What clients may know of a pipeline served by this engine."""
    tasks = tuple(
        TaskVariants(task.name, tuple(v.name for v in task.variants), task.parent or "", max(pipeline.max_batch[place]))
        for place, task in enumerate(pipeline.tasks)
    )
    grace = pipeline.slo_s if grace_s is None else grace_s
    return Described(NO_ID, pipeline.name, pipeline.slo_s, grace, engine, tasks, input, output)


class ClientSocket:
    """The gateway node's socket for clients. The driver polls `socket`, calls `receive` until it returns fewer events
    than asked for, and answers; it sets `ready` once every task has a warm variant, and `leaving` before the end.

    check: the sentence that says what is wrong with a payload (None: nothing). vanished: answers whose client was gone or
    did not take them. malformed: messages refused. disconnections: of clients.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        pipeline: Pipeline,
        described: Described,
        check: Check,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self.socket = _bind(context, endpoint, max_message_bytes)
        self.disconnections = Monitor(context, self.socket, zmq.EVENT_DISCONNECTED)
        self.ready = False
        self.leaving = False
        self.vanished = 0
        self.malformed = 0
        self._described = described
        self._check = check
        self._names = PathNames(pipeline)
        self._best_accuracy = pipeline.best_accuracy
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
                head, tensors = multipart.receive(self.socket, 2, MAX_TENSORS)
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
        answer = Answer(
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

    def refuse(self, ask: RunAsked, why: str) -> None:
        """For what only the driver can judge."""
        self.malformed += 1
        self._send(ask.client, Refused(ask.id, why))

    def begun(self, ask: RunAsked, origin_s: float) -> None:
        self._send(ask.client, Begun(ask.id, origin_s))

    def ledger(self, ask: LedgerAsked, tally: Tally, servers: int) -> None:
        ledger = RunLedger(tally, servers, self._best_accuracy)
        self._send(ask.client, LedgerRead(ask.id, msgspec.json.encode(ledger)))

    def state(self, ask: StateAsked, state: PlaneState) -> None:
        self._send(ask.client, StateRead(ask.id, state))

    def readiness(self, ask: ReadinessAsked, reason: str) -> None:
        self._send(ask.client, ReadinessRead(ask.id, reason, self.leaving))

    def departed(self) -> list[int]:
        """Keys of requests whose client is gone. That shows only when something is sent, so clients are sent what they
        ignore."""
        beat = encode(Beat())
        readable(self.socket)  # lets the socket take notice of what was closed
        return [key for client, keys in self._in_flight.items() if not self._reaches(client, beat) for key in keys.values()]

    def close(self, linger_s: float = 0.0) -> None:
        """linger_s: for answers that have just been written."""
        self.disconnections.close()
        self.socket.close(linger=round(1000 * linger_s))

    def _understand(self, client: bytes, head: bytes, tensors: list[zmq.Frame]) -> FrontEvent | None:
        request: Request | None = None
        try:
            request = _decode(head, tensors)
            if isinstance(request, Infer):
                return self._infer(client, request, tensors)
            return self._ask(client, request)
        except _MalformedError as error:
            why = str(error)
        except Exception as error:
            log.exception("a message of a client cannot be understood")
            why = f"the request cannot be understood ({type(error).__name__}); the server's log says more"
        self.malformed += 1
        self._send(client, Refused(NO_ID if request is None else request.id, shortened(why)))
        return None

    def _ask(self, client: bytes, request: Question) -> FrontEvent | None:
        if isinstance(request, Cancel):
            key = self._in_flight.get(client, {}).get(request.id)
            return None if key is None else Withdrawn(key)
        if isinstance(request, BeginRun):
            return RunAsked(client, request.id, request.origin_s)
        if isinstance(request, ReadLedger):
            return LedgerAsked(client, request.id)
        if isinstance(request, ReadReadiness):
            return ReadinessAsked(client, request.id)
        if isinstance(request, ReadState):
            return StateAsked(client, request.id)
        self._send(client, msgspec.structs.replace(self._described, id=request.id, ready=self.ready))
        return None

    def _infer(self, client: bytes, request: Infer, tensors: list[zmq.Frame]) -> Entered:
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
        return Entered(key, request.timeout_s, payload, request.min_accuracy, request.priority)

    def _fault(self, client: bytes, request: Infer, tensors: list[zmq.Frame]) -> str | None:
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
            _send(self.socket, client, _MORE)
        except zmq.ZMQError as error:
            return error.errno != zmq.EHOSTUNREACH
        _send(self.socket, part, _NOBLOCK)
        return True

    def _send(self, client: bytes, response: Response, tensors: Sequence[Payload] = ()) -> None:
        """Never waits and never raises for a client: one that is gone, or that reads nothing, must not hold up others."""
        socket = self.socket
        try:
            _send(socket, client, _MORE)
        except zmq.ZMQError:
            self.vanished += 1
            return
        last = len(tensors) - 1
        _send(socket, encode(response), _NOBLOCK if last < 0 else _MORE)
        for position, tensor in enumerate(tensors):
            _send(socket, tensor, _NOBLOCK if position == last else _MORE, False)


class _MalformedError(ValueError):
    """A message of a client is at fault; the sentence goes back to it."""


def _decode(head: bytes, tensors: list[zmq.Frame]) -> Request:
    try:
        request = decode_request(head)
    except VersionError as error:
        raise _MalformedError(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _MalformedError(f"the header is not a request: {error}") from None
    if tensors and not isinstance(request, Infer):
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
