"""Requests of the Open Inference Protocol v2 with Triton's binary tensors: their bytes to one payload and its terms.

One BYTES element (in JSON as base64, or as text where the tensor says so) becomes uint8 [n], as an encoded picture is;
numbers keep type and shape, but for a batch axis of 1. Whether that is what the first model takes, its adapter says.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Raw, Struct

from loki_rl.core.requests.items import MAX_PRIORITY
from loki_rl.serving.edge import oip_tensors
from loki_rl.serving.edge.limits import MAX_BODY_BYTES, MAX_EXPANSION, MAX_TERMS_BYTES, MAX_TEXT_BYTES, SMALL_BYTES
from loki_rl.serving.edge.oip_tensors import Array, InferError, InputTensor, Parameters
from loki_rl.serving.edge.steps import Steps
from loki_rl.serving.transport.protocol import MAX_TIMEOUT_S, MAX_TRACEPARENT, Described, Tensor
from loki_rl.serving.transport.shared_memory import GATEWAY_KEEPS, SharedMemory
from loki_rl.serving.transport.wire import MAX_HEAD_BYTES

VERSION = "1"
# Inflated at a time: about a millisecond.
INFLATED_BYTES = 256 << 10


class WantedOutput(Struct):
    name: str
    parameters: Parameters = {}


class InferBody(Struct):
    id: str = ""
    parameters: Parameters = {}
    inputs: list[InputTensor] = []
    outputs: list[WantedOutput] = []


class InferRequest(Struct):
    """What is left of a request once it is understood. timeout_s, min_accuracy, priority: as in protocol.Infer. binary: the
    output goes out as a binary tensor."""

    id: str
    timeout_s: float
    payload: Array | None
    binary: bool
    min_accuracy: float = 0.0
    priority: int = 0


class _Data(Struct, frozen=True):
    data: Raw = Raw(b"")


class _Inputs(Struct, array_like=True, frozen=True):
    """As many as are ever looked at; more are not built."""

    first: _Data = _Data()
    second: _Data = _Data()


class _Outline(Struct):
    """What may be large of a body."""

    inputs: _Inputs = _Inputs()


_body_decoder = msgspec.json.Decoder(InferBody)
_outline_decoder = msgspec.json.Decoder(_Outline)


# -- requests -------------------------------------------------------------------------------------------------------------


def read(body: bytes, encoding: str, header_length: str | None, limit: int, described: Described) -> Steps[InferRequest]:
    """A request as it came. limit: of its body, inflated [bytes]. Raises InferError."""
    body = yield from inflate(body, encoding, limit)
    return (yield from parse(body, header_length, described))


def traceparent(said: Sequence[str]) -> str:
    """Which trace a request goes on from, as its headers of that name say; several of them, or one that is too long, count
    as none."""
    return said[0] if len(said) == 1 and len(said[0]) <= MAX_TRACEPARENT else ""


def take_payload(asked: InferRequest, memory: SharedMemory) -> bytes | None:
    """The payload as it travels; it is not kept here. Raises InferError for one that no message holds."""
    array, asked.payload = asked.payload, None
    if array is not None and array.nbytes > MAX_BODY_BYTES - MAX_HEAD_BYTES:
        raise too_large(MAX_BODY_BYTES)
    return None if array is None else memory.pack(GATEWAY_KEEPS, array)


def inflate(body: bytes, encoding: str, limit: int) -> Steps[bytes]:
    """Undo a Content-Encoding; a small body must not become a big one."""
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "deflate"):
        raise InferError(415, f"Content-Encoding '{encoding}' is not supported, gzip and deflate are")
    inflater = zlib.decompressobj(wbits=47)
    expanded = max(SMALL_BYTES, MAX_EXPANSION * len(body))
    parts: list[bytes] = []
    size, rest = 0, body
    while True:
        try:
            parts.append(inflater.decompress(rest, INFLATED_BYTES))
        except zlib.error as error:
            raise InferError(400, f"the body is not {encoding}: {error}") from None
        rest = inflater.unconsumed_tail
        size += len(parts[-1])
        if size > limit:
            raise too_large(limit)
        if size > expanded:
            raise InferError(413, f"the body is more than {MAX_EXPANSION} times as large as it came", "expansion")
        if inflater.eof:
            return b"".join(parts)
        if len(parts[-1]) < INFLATED_BYTES:
            raise InferError(400, f"the body is not {encoding}: it ends early")
        yield


def too_large(limit: int) -> InferError:
    return InferError(413, f"the body is larger than {limit} bytes", "size")


def parse(body: bytes, header_length: str | None, described: Described) -> Steps[InferRequest]:
    """Understand the body of an infer request. Raises InferError."""
    header, rest = _split(body, header_length)
    large = len(header) > MAX_TERMS_BYTES
    try:
        if large:
            yield
            _check_terms(header)
            yield
        request = _body_decoder.decode(header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InferError(400, f"the request is not inference JSON: {error}") from None
    if large:
        yield
    return (yield from understand(request, _binary_parts(request.inputs, rest), described))


def _check_terms(header: memoryview) -> None:
    """Objects are built only of what is small; a tensor's values are looked at later, slice by slice."""
    if len(header) > MAX_TEXT_BYTES:
        raise InferError(413, f"the JSON is larger than {MAX_TEXT_BYTES} bytes; large tensors go as binary ones", "size")
    inputs = _outline_decoder.decode(header).inputs
    if len(header) - len(inputs.first.data) - len(inputs.second.data) > MAX_TERMS_BYTES:
        raise InferError(413, f"the JSON is larger than {MAX_TERMS_BYTES} bytes beside the data of its input", "size")


def understand(request: InferBody, parts: Mapping[str, memoryview], described: Described) -> Steps[InferRequest]:
    """What a request asks for. parts: the raw data of those inputs that have any. Raises InferError."""
    tensor = _only_input(request.inputs, described)
    payload = None
    if tensor is not None:
        payload = oip_tensors.unbatched((yield from oip_tensors.read(tensor, parts.get(tensor.name))), described.input)
    terms = request.parameters
    return InferRequest(
        request.id,
        _timeout_s(terms),
        payload,
        _wants_binary(request, described.output),
        _number(terms, "min_accuracy", 1.0),
        _priority(terms),
    )


def _split(body: bytes, header_length: str | None) -> tuple[memoryview, memoryview]:
    whole = memoryview(body)
    if header_length is None:
        return whole, whole[len(whole) :]
    digits = header_length.isascii() and header_length.isdigit() and len(header_length) < 20
    if not digits or int(header_length) > len(body):
        raise InferError(
            400, f"Inference-Header-Content-Length '{header_length}' is not a length within the body of {len(body)} bytes"
        )
    return whole[: int(header_length)], whole[int(header_length) :]


def _binary_parts(inputs: list[InputTensor], rest: memoryview) -> dict[str, memoryview]:
    """Binary data of the inputs that have it, in the order of the inputs."""
    parts: dict[str, memoryview] = {}
    start = 0
    for tensor in inputs:
        size = tensor.parameters.get("binary_data_size")
        if size is None:
            continue
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(rest) - start:
            raise InferError(400, f"input '{tensor.name}': binary_data_size {size} does not fit the body")
        if len(tensor.data):
            raise InferError(400, f"input '{tensor.name}' has both data and binary_data_size")
        parts[tensor.name] = rest[start : start + size]
        start += size
    if start != len(rest):
        raise InferError(400, f"{len(rest) - start} bytes follow the last binary input")
    return parts


def _only_input(inputs: list[InputTensor], described: Described) -> InputTensor | None:
    expected = described.input
    for tensor in inputs:
        if tensor.name != expected.name:
            raise InferError(400, f"input '{tensor.name}' is unknown, '{described.pipeline}' takes '{expected.name}'")
    if len(inputs) > 1:
        raise InferError(400, f"input '{expected.name}' stands twice")
    if not inputs and not expected.optional:
        raise InferError(400, f"input '{expected.name}' is missing")
    return inputs[0] if inputs else None


def _timeout_s(parameters: Parameters) -> float:
    """Triton's reserved parameter: microseconds, end to end."""
    return _number(parameters, "timeout", MAX_TIMEOUT_S * 1e6, " microseconds") / 1e6


def _priority(parameters: Parameters) -> int:
    priority = _number(parameters, "priority", MAX_PRIORITY)
    if priority != int(priority):
        raise InferError(400, f"priority must be a whole number, not {priority!r}")
    return int(priority)


def _number(parameters: Parameters, name: str, most: float, unit: str = "") -> float:
    value = parameters.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise InferError(400, f"{name} must be 0 to {most:.0f}{unit}, not {value!r}")
    return value


def _wants_binary(request: InferBody, output: Tensor) -> bool:
    wish = request.parameters.get("binary_data_output", False)
    for wanted in request.outputs:
        if wanted.name != output.name:
            raise InferError(400, f"output '{wanted.name}' is unknown, '{output.name}' is the only one")
        wish = wanted.parameters.get("binary_data", wish)
    return wish is True
