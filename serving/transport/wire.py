"""What travels between the nodes of a plane: letters, control words and packed tensors."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
import zmq
from msgspec import Meta, Struct

from loki_rl.core.messages import Event
from loki_rl.decoding import UNREADABLE
from loki_rl.serving.state import Part, Trouble

# The first byte of a message. High half: what it is; low half: version of the layout. A body of its own for every message
# and no part for this byte: what a part costs, the process that waits for it pays with cold caches.
LETTERS = 0x12
LETTERS_AND_FRAMES = 0x22
CONTROL = 0x32

MAX_PARTS = 1 << 16
MAX_PART_BYTES = 256 << 20

Frame = bytes | zmq.Frame
Array = npt.NDArray[Any]


class WireError(ValueError):
    """The bytes are not what this layout allows; the message says why."""


# -- letters between actors ------------------------------------------------------------------------------------------------


class Letter(Struct, array_like=True, gc=False):
    """A message for the actor `to`. ids: the item of each payload frame that comes along, in the order of the frames."""

    to: str
    message: Event
    ids: Sequence[int]


_letters = msgspec.msgpack.Decoder(list[Letter])
_encoder = msgspec.msgpack.Encoder()


def encode_letters(letters: list[Letter], kind: int = LETTERS) -> bytearray:
    """kind: LETTERS, or LETTERS_AND_FRAMES if payload frames follow."""
    return _encoded(letters, kind)


def decode_letters(body: memoryview, frames: list[zmq.Frame]) -> list[tuple[Letter, list[zmq.Frame]]]:
    """Each letter with its own payload frames. body: without its first byte. Raises WireError."""
    try:
        letters = _letters.decode(body)
    except UNREADABLE as error:
        raise WireError(f"not a list of letters: {error}") from error
    if sum(len(letter.ids) for letter in letters) != len(frames):
        raise WireError(f"{len(frames)} payload frames came along, not one per id")
    if not frames:
        return [(letter, frames) for letter in letters]
    rest = iter(frames)
    return [(letter, [next(rest) for _ in letter.ids]) for letter in letters]


# -- control words between nodes and launcher ------------------------------------------------------------------------


class Up(Struct, array_like=True, tag=True):
    """Node to launcher: bound and listening."""

    node: str


class Warm(Struct, array_like=True, tag=True):
    """Controller's node to the gateway's: the models of the first plan are loaded. Gateway's node to launcher: so clients
    are served, and time counts."""


class Alive(Struct, array_like=True, tag=True):
    """Node to launcher, at least every heartbeat.BEAT_S: this life of it turns its loop. patience_s: it may be silent for so
    long from now on [s], since other threads of it may hold the interpreter."""

    node: str
    incarnation: int
    patience_s: Annotated[float, Meta(ge=0.0, le=86_400.0)] = 0.0


class Hung(Struct, array_like=True, tag=True):
    """A router's node to the launcher: this life of a worker does not come back from its batch; its process should end, and
    start again."""

    worker: int
    incarnation: int
    reason: str


class Compiling(Struct, array_like=True, tag=True):
    """Node to launcher: it begins to compile what planning needs, or has ended for now."""

    busy: bool


class Idle(Struct, array_like=True, tag=True):
    """Gateway's node to launcher: no request is open any more."""


class Gone(Struct, array_like=True, tag=True):
    """Launcher to all nodes: this node's process ended. What is queued for it must not reach its successor, which will
    listen at `endpoint`; where that is empty, it is not known yet, and what is for the successor waits."""

    node: str
    endpoint: str


class ReadClock(Struct, array_like=True, tag=True):
    """A node of another host to the launcher: what time is it? asked: when, on that host's clock [s]."""

    node: str
    asked: float


class ClockRead(Struct, array_like=True, tag=True):
    """The answer. now: the plane's time when it left [s]."""

    asked: float
    now: float


class Leave(Struct, array_like=True, tag=True):
    """Launcher to the gateway's node: clients should go elsewhere from now on; those that come are still served."""


class ReadParts(Struct, array_like=True, tag=True):
    """Gateway's node to the others: tell your part of the plane's state to the node `by`."""

    question: int
    by: str


class PartsRead(Struct, array_like=True, tag=True):
    """The answer of one node."""

    question: int
    node: str
    parts: list[Part]


class Troubled(Struct, array_like=True, tag=True):
    """A node or the launcher to the gateway's node, whenever there is a new one: all troubles that it has had."""

    process: str
    troubles: list[Trouble]


class TraceParent(Struct, array_like=True):
    """root, t0: number and arrival of a request. traceparent: of its client (W3C Trace Context)."""

    root: int
    t0: float
    traceparent: str


class TraceParents(Struct, array_like=True, tag=True):
    """Gateway's node to the routers', before the items of these requests: they go on from traces of their clients."""

    parents: list[TraceParent]


class Bye(Struct, array_like=True, tag=True):
    """Node to launcher: stopped in good order. frames: payload frames left over; faults, strays: as in Driver; malformed:
    messages dropped. timers: batches and loads that an emulated engine ended, late_s: how late in all, latest_s: at
    worst (what the machine adds to the profiled times)."""

    node: str
    frames: int
    faults: int
    strays: int
    malformed: int
    timers: int = 0
    late_s: float = 0.0
    latest_s: float = 0.0


ControlWord = (
    Up | Alive | Hung | Compiling | Warm | Idle | Gone | Leave | ReadParts | PartsRead | ReadClock | ClockRead | Troubled
    | TraceParents | Bye
)  # fmt: skip

_control: msgspec.msgpack.Decoder[ControlWord] = msgspec.msgpack.Decoder(ControlWord)


def encode_control(word: ControlWord) -> bytearray:
    return _encoded(word, CONTROL)


def decode_control(body: memoryview) -> ControlWord:
    """body: without its first byte. Raises WireError."""
    try:
        return _control.decode(body)
    except UNREADABLE as error:
        raise WireError(f"not a control word: {error}") from error


def _encoded(what: list[Letter] | ControlWord, kind: int) -> bytearray:
    message = bytearray((kind,))
    _encoder.encode_into(what, message, 1)
    return message


# -- tensors ---------------------------------------------------------------------------------------------------------------

_MAGIC = 0x4C
_TENSOR_VERSION = 1
MAX_DIMENSIONS = 8
MAX_SIZE = (1 << 32) - 1
# In values of 8 bytes, which is what the largest type has.
_MAX_STRIDE = 1 << 60
# The data starts at a multiple of this, so that reading in place gives an aligned array.
_ALIGN = 16
_HEAD = struct.Struct("<BBBB")
# What a frame has before its data, at most.
MAX_HEAD_BYTES = _HEAD.size + 4 * MAX_DIMENSIONS + _ALIGN
# Datatype of the Open Inference Protocol -> ours; its place here is its code in a frame.
DTYPES = {
    name: np.dtype(form)
    for name, form in (
        ("BOOL", "|b1"), ("INT8", "|i1"), ("UINT8", "|u1"), ("INT16", "<i2"), ("UINT16", "<u2"), ("INT32", "<i4"),
        ("UINT32", "<u4"), ("INT64", "<i8"), ("UINT64", "<u8"), ("FP16", "<f2"), ("FP32", "<f4"), ("FP64", "<f8"),
    )
}  # fmt: skip
DATATYPES = {dtype: name for name, dtype in DTYPES.items()}
_TYPES = tuple(DATATYPES)
_CODES = {dtype: code for code, dtype in enumerate(_TYPES)}


def pack(array: Array) -> bytes:
    """One self-describing frame: magic, version, type code, number of dimensions, sizes as u32, padding, data. Raises
    WireError for an array that cannot be sent."""
    return b"".join(packed_parts(array))


def packed_parts(array: Array) -> tuple[bytes, memoryview]:
    """The frame of an array before its data, and the data. Raises WireError."""
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    code = _CODES.get(array.dtype)
    if code is None:
        raise WireError(f"an array of {array.dtype} cannot be sent")
    if array.ndim > MAX_DIMENSIONS or any(size > MAX_SIZE for size in array.shape):
        raise WireError(f"an array of shape {array.shape} cannot be sent")
    head = _HEAD.pack(_MAGIC, _TENSOR_VERSION, code, array.ndim) + struct.pack(f"<{array.ndim}I", *array.shape)
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return head + bytes(-len(head) % _ALIGN), data.data


def indexable(shape: Sequence[int]) -> bool:
    """Whether an array may have this shape: also one without values, as [4294967295, 4294967295, 0] claims to be, must have
    strides that a machine can count."""
    return len(shape) <= MAX_DIMENSIONS and math.prod(size or 1 for size in shape) < _MAX_STRIDE


def unpack(frame: Frame | memoryview) -> Array:
    """The array of a frame, read in place (not writable). Raises WireError unless every byte is accounted for."""
    data = (frame.buffer if isinstance(frame, zmq.Frame) else memoryview(frame)).toreadonly()
    if len(data) < _HEAD.size:
        raise WireError(f"a tensor of {len(data)} bytes has no header")
    magic, version, code, dimensions = _HEAD.unpack_from(data)
    if magic != _MAGIC or version != _TENSOR_VERSION:
        raise WireError("not a packed tensor of this version")
    if code >= len(_TYPES) or dimensions > MAX_DIMENSIONS or len(data) < _HEAD.size + 4 * dimensions:
        raise WireError(f"the header of a tensor is damaged (type {code}, {dimensions} dimensions)")
    shape = struct.unpack_from(f"<{dimensions}I", data, _HEAD.size)
    start = _HEAD.size + 4 * dimensions
    start += -start % _ALIGN
    dtype = _TYPES[code]
    if len(data) != start + math.prod(shape) * dtype.itemsize or not indexable(shape):
        raise WireError(f"a tensor of shape {shape} and type {dtype} does not have {len(data)} bytes")
    return np.frombuffer(data, dtype, offset=start).reshape(shape)
