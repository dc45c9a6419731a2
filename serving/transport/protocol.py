"""The native protocol between clients and the gateway node: `[version byte and one header][tensor frames]`."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from loki_rl.core.requests.items import MAX_PRIORITY
from loki_rl.core.requests.ledger import Tally
from loki_rl.decoding import UNREADABLE
from loki_rl.serving.state import PlaneState

M = TypeVar("M")

VERSION = 3
NO_ID = -1
MAX_TIMEOUT_S = 3600.0
# How far from now a run may begin: what lies before is counted in whole seconds, one by one.
MAX_ORIGIN_S = 3600.0
MAX_MESSAGE_BYTES = 32 << 20
# What a version to come may append included [characters].
MAX_TRACEPARENT = 512
# One more than a request has, to tell that there are too many.
MAX_TENSORS = 2
# Of a sentence that says what is wrong with a request [characters].
MAX_SENTENCE = 400
# How programs of ours ask for the state over HTTP: JSON has no infinite numbers, and a plan may hold some.
MSGPACK = "application/msgpack"

Id = Annotated[int, Meta(ge=0)]
# Why a process in front of the gateway turns something away: connections, bodies under way and calls beyond what there is
# room for; a head, a body or what is inflated too large; one that takes too long, or answers that nobody reads; what cannot
# be understood; what another site's page wants; who shows no key, and who does not get through the handshake of TLS.
Turning = Literal[
    "calls",
    "connections",
    "expansion",
    "head",
    "keys",
    "malformed",
    "memory",
    "origin",
    "size",
    "slow",
    "tls",
    "unparsable",
    "unread",
]


# -- what clients ask -----------------------------------------------------------------------------------------------------


class Infer(Struct, array_like=True, tag=True):
    """Run the pipeline on the tensor in the next frame (none at all where the engine is emulated). id: the client's own,
    unique among its requests in flight. timeout_s: end-to-end deadline, 0 = the pipeline's SLO. min_accuracy: of every
    variant path that serves it. priority: 1 is the highest, 0 the default. traceparent: of a trace that this request goes on
    from (W3C Trace Context), empty for none; only a plane that is traced looks at it, and a malformed one counts as none."""

    id: Id
    pipeline: str
    timeout_s: Annotated[float, Meta(ge=0, le=MAX_TIMEOUT_S)] = 0.0
    min_accuracy: Annotated[float, Meta(ge=0, le=1)] = 0.0
    priority: Annotated[int, Meta(ge=0, le=MAX_PRIORITY)] = 0
    traceparent: Annotated[str, Meta(max_length=MAX_TRACEPARENT)] = ""


class Cancel(Struct, array_like=True, tag=True):
    """The client waits no more for Infer `id`; its answer then says 'cancelled'. Unknown ids are ignored."""

    id: Id


class Describe(Struct, array_like=True, tag=True):
    """What is served here, and is it ready? Described answers."""

    id: Id


class BeginRun(Struct, array_like=True, tag=True):
    """Empty the ledger; trace time 0 is at origin_s of the gateway's monotonic clock (None: now), at most MAX_ORIGIN_S from
    now. Begun answers."""

    id: Id
    origin_s: float | None = None


class ReadLedger(Struct, array_like=True, tag=True):
    """Give what was counted since the run began. LedgerRead answers."""

    id: Id


class ReadState(Struct, array_like=True, tag=True):
    """Give the state of the whole plane. StateRead answers."""

    id: Id


class ReadReadiness(Struct, array_like=True, tag=True):
    """Should clients come here? Only the stages are asked. ReadinessRead answers."""

    id: Id


class Turned(Struct, array_like=True, tag=True):
    """From a process in front of the gateway: so many more it turned away by itself, by reason. Nobody answers."""

    counts: dict[Turning, Annotated[int, Meta(ge=1, le=1 << 40)]]
    id: int = NO_ID


Query = BeginRun | ReadLedger | ReadReadiness | ReadState
Request = Infer | Cancel | Describe | BeginRun | ReadLedger | ReadState | ReadReadiness | Turned


# -- what the gateway node answers ----------------------------------------------------------------------------------------


class Refusal(Struct, array_like=True, frozen=True):
    """Where an item was given up (stage empty: the request reached none). Dropped: late_s: how much too late the stage would
    have ended; fitting: its cheapest variant, if that would have fitted. Failed: said: what went wrong. client_fault: what
    the client sent is to blame."""

    stage: str
    late_s: float = 0.0
    fitting: str = ""
    said: str = ""
    client_fault: bool = False


class Answer(Struct, array_like=True, tag=True):
    """The only answer to an Infer. One tensor frame per finished leaf follows (none where the engine is emulated).

    outcome: ok | late | dropped | rejected | cancelled | failed. served: the variant names of each finished leaf, first
    task first. missing: items dropped or unfinished. reason: why it is not ok. slack_s: time left until the deadline,
    below 0 after it. retry_s: where the plane had no room, when it may have some again; 0 where asking again is no use.
    refusal: what is known of the first item that has no result. leaving: the plane is about to stop, go elsewhere.
    """

    id: int
    outcome: str
    latency_s: float
    accuracy: float
    served: list[list[str]]
    missing: int
    reason: str
    slack_s: float = 0.0
    retry_s: float = 0.0
    refusal: Refusal | None = None
    leaving: bool = False


class Tensor(Struct, array_like=True, frozen=True):
    """Name, Open Inference datatype and shape (-1: any) of an input or output."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False


class TaskVariants(Struct, array_like=True, frozen=True):
    """A task of the pipeline and the names of its variants. parent: of the task, empty for an entry task. max_batch: the
    largest profiled one."""

    name: str
    variants: tuple[str, ...]
    parent: str = ""
    max_batch: int = 1


class Described(Struct, array_like=True, tag=True):
    """The pipeline that is served. grace_s: an answer comes at the latest this long after the deadline. ready: the models
    of the first plan have been warm, and the server is not about to stop (PlaneState.ready: they are warm now). memory:
    folder where clients of this host may leave large tensors (see shared_memory), empty if there is none. traced: whether
    requests are traced."""

    id: int
    pipeline: str
    slo_s: float
    grace_s: float
    engine: str
    tasks: tuple[TaskVariants, ...]
    input: Tensor
    output: Tensor
    ready: bool = False
    memory: str = ""
    traced: bool = False


class Begun(Struct, array_like=True, tag=True):
    """A run began; origin_s: its trace time 0 on the gateway's monotonic clock."""

    id: int
    origin_s: float


class RunLedger(Struct):
    """What the gateway counted since the run began. servers: of the whole cluster; best_accuracy: of the pipeline's most
    accurate path mix (the yardstick of cost_j)."""

    tally: Tally
    servers: int
    best_accuracy: float


class LedgerRead(Struct, array_like=True, tag=True):
    """data: a RunLedger as JSON, ready to be passed on."""

    id: int
    data: bytes


class StateRead(Struct, array_like=True, tag=True):
    """The plane at the moment of the question."""

    id: int
    state: PlaneState


class ReadinessRead(Struct, array_like=True, tag=True):
    """reason: why clients should not come now, empty if they should. leaving: as in Answer."""

    id: int
    reason: str
    leaving: bool = False


class Beat(Struct, array_like=True, tag=True):
    """To nobody's question, and to be ignored: a client that is gone is known by what cannot be sent to it."""

    id: int = NO_ID


class Refused(Struct, array_like=True, tag=True):
    """The request is malformed and was not looked at; id is -1 where it could not be read."""

    id: int
    message: str


Response = Answer | Described | Begun | LedgerRead | StateRead | ReadinessRead | Beat | Refused

_encoder = msgspec.msgpack.Encoder()
_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_responses: msgspec.msgpack.Decoder[Response] = msgspec.msgpack.Decoder(Response)


def shortened(sentence: str) -> str:
    """What goes back to a client who may have sent anything, of which it may quote any amount: without its middle."""
    half = MAX_SENTENCE // 2
    return sentence if len(sentence) <= MAX_SENTENCE else f"{sentence[:half]} ... {sentence[-half:]}"


class MessageError(ValueError):
    """A message of another version or protocol, or one that is damaged; the message says which."""


def encode(message: Request | Response) -> bytearray:
    """The first part of a message."""
    part = bytearray((VERSION,))
    _encoder.encode_into(message, part, 1)
    return part


def decode_request(part: bytes) -> Request:
    """Raises MessageError."""
    return _decode(_requests, part, "request")


def decode_response(part: bytes) -> Response:
    """Raises MessageError."""
    return _decode(_responses, part, "response")


def _decode(decoder: msgspec.msgpack.Decoder[M], part: bytes, what: str) -> M:
    if not part or part[0] != VERSION:
        raise MessageError(f"a message begins with the version byte {VERSION} and a header")
    try:
        return decoder.decode(memoryview(part)[1:])
    except UNREADABLE as error:
        raise MessageError(f"the header is not a {what}: {error}") from None
