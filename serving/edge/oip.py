"""Requests of the Open Inference Protocol v2 with Triton's binary tensors: their bytes to one payload and its terms.

One BYTES element (in JSON as base64) becomes uint8 [n], as an encoded picture is; numbers keep type and shape. Whether that
is what the first model takes, its adapter says.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
import zlib
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta, Raw, Struct

from loki_rl.core.requests.items import MAX_PRIORITY
from loki_rl.serving.transport.protocol import MAX_TIMEOUT_S, Described, Tensor, shortened
from loki_rl.serving.transport.wire import DTYPES, MAX_DIMENSIONS, MAX_SIZE, indexable

VERSION = "1"

Parameters = dict[str, str | int | float | bool | None]
Array = npt.NDArray[Any]


class InferError(ValueError):
    """The client is at fault. status: of HTTP; the message is one sentence, cut where it quotes too much of the request."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(shortened(message))
        self.status = status


class InputTensor(Struct):
    name: str
    datatype: str
    shape: Annotated[list[Annotated[int, Meta(ge=0, le=MAX_SIZE)]], Meta(max_length=MAX_DIMENSIONS)]
    parameters: Parameters = {}
    # Not `Raw | None`: msgspec then refuses arrays.
    data: Raw = Raw(b"")


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


_body_decoder = msgspec.json.Decoder(InferBody)


# -- requests -------------------------------------------------------------------------------------------------------------


def inflate(body: bytes, encoding: str, limit: int) -> bytes:
    """Undo a Content-Encoding; a small body must not become a big one."""
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "deflate"):
        raise InferError(415, f"Content-Encoding '{encoding}' is not supported, gzip and deflate are")
    inflater = zlib.decompressobj(wbits=47)
    try:
        inflated = inflater.decompress(body, limit)
    except zlib.error as error:
        raise InferError(400, f"the body is not {encoding}: {error}") from None
    if inflater.unconsumed_tail:
        raise too_large(limit)
    if not inflater.eof:
        raise InferError(400, f"the body is not {encoding}: it ends early")
    return inflated


def too_large(limit: int) -> InferError:
    return InferError(413, f"the body is larger than {limit} bytes")


def parse(body: bytes, header_length: str | None, described: Described) -> InferRequest:
    """Understand the body of an infer request. Raises InferError."""
    header, rest = _split(body, header_length)
    try:
        request = _body_decoder.decode(header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InferError(400, f"the request is not inference JSON: {error}") from None
    return understand(request, _binary_parts(request.inputs, rest), described)


def understand(request: InferBody, parts: Mapping[str, memoryview], described: Described) -> InferRequest:
    """What a request asks for. parts: the raw data of those inputs that have any. Raises InferError."""
    tensor = _only_input(request.inputs, described)
    payload = None if tensor is None else _payload(tensor, parts)
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


# -- tensors --------------------------------------------------------------------------------------------------------------


def _payload(tensor: InputTensor, parts: Mapping[str, memoryview]) -> Array:
    part = parts.get(tensor.name)
    if part is None and not len(tensor.data):
        raise InferError(400, f"input '{tensor.name}' has neither data nor binary_data_size")
    if tensor.datatype == "BYTES":
        element = _bytes_from_json(tensor) if part is None else _bytes_from_binary(tensor, part)
        return np.frombuffer(element, np.uint8)
    dtype = DTYPES.get(tensor.datatype)
    if dtype is None:
        raise InferError(400, f"input '{tensor.name}' is BYTES or one of {', '.join(DTYPES)}, not '{tensor.datatype}'")
    return _numbers_from_json(tensor, dtype) if part is None else _numbers_from_binary(tensor, part, dtype)


def _require_one_element(tensor: InputTensor, elements: int) -> None:
    if math.prod(tensor.shape) != 1 or elements != 1:
        raise InferError(
            400, f"input '{tensor.name}' of type BYTES has one element, shape [1], not {elements} of shape {tensor.shape}"
        )


def _bytes_from_json(tensor: InputTensor) -> bytes:
    elements = np.asarray(_json_data(tensor), dtype=object).ravel()
    _require_one_element(tensor, len(elements))
    try:
        return base64.b64decode(elements[0], validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise InferError(
            400, f"input '{tensor.name}': BYTES in JSON are base64; other bytes go as a binary tensor"
        ) from None


def _bytes_from_binary(tensor: InputTensor, part: memoryview) -> memoryview:
    """The element is preceded by its length."""
    length = struct.unpack_from("<I", part)[0] if len(part) >= 4 else None
    _require_one_element(tensor, 1)
    if length is None or length != len(part) - 4:
        raise InferError(
            400,
            f"input '{tensor.name}': a binary BYTES element is 4 bytes of length and that many more, not {len(part)} bytes",
        )
    return part[4:]


def _numbers_from_json(tensor: InputTensor, dtype: np.dtype[Any]) -> Array:
    data = _json_data(tensor)
    try:
        array = np.asarray(data)
    except (ValueError, OverflowError):  # rows of different lengths, or numbers beyond any type
        array = np.empty(1, object)
    if array.size and not fits(array, dtype):
        allowed = f"{tensor.datatype} data are {_allowed(dtype)}, in rows of equal length"
        raise InferError(400, f"input '{tensor.name}': {allowed}")
    with np.errstate(over="ignore"):  # beyond a small float: infinite
        return _shaped(tensor, array.astype(dtype).ravel())


def fits(array: Array, dtype: np.dtype[Any]) -> bool:
    """Whether these are values of this type, as they may stand in JSON or protobuf."""
    if dtype.kind == "b":
        return array.dtype.kind == "b"
    if dtype.kind == "f":
        return array.dtype.kind in "iuf"
    return array.dtype.kind in "iu" and bool(array.min() >= np.iinfo(dtype).min and array.max() <= np.iinfo(dtype).max)


def _allowed(dtype: np.dtype[Any]) -> str:
    if dtype.kind in "bf":
        return {"b": "true or false", "f": "numbers"}[dtype.kind]
    return f"whole numbers from {np.iinfo(dtype).min} to {np.iinfo(dtype).max}"


def _numbers_from_binary(tensor: InputTensor, part: memoryview, dtype: np.dtype[Any]) -> Array:
    if len(part) % dtype.itemsize:
        what = f"{len(part)} bytes are no whole number of {tensor.datatype} values"
        raise InferError(400, f"input '{tensor.name}': {what}")
    return _shaped(tensor, np.frombuffer(part, dtype))


def _shaped(tensor: InputTensor, flat: Array) -> Array:
    if math.prod(tensor.shape) != flat.size or not indexable(tensor.shape):
        raise InferError(400, f"input '{tensor.name}': shape {tensor.shape} does not hold {flat.size} values")
    return flat.reshape(tensor.shape)


def _json_data(tensor: InputTensor) -> list[object]:
    try:
        return msgspec.json.decode(tensor.data, type=list[object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InferError(400, f"input '{tensor.name}': {error}") from None
