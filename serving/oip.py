"""Codec of the Open Inference Protocol v2 with Triton's binary tensors: bytes of a request to one payload, one answer to
bytes. Owns what is well-formed and the sentence that says why not; must not know HTTP routes or sockets.

A picture may come as BYTES [1] (the encoded file; in JSON as base64) or as UINT8, [n] (the encoded file) or
[height, width, 3] (pixels).
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
import zlib
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta, Raw, Struct

from loki_rl.serving.client import Inference
from loki_rl.serving.protocol import MAX_TIMEOUT_S, Described, Tensor

VERSION = "1"
PLATFORM = "loki_rl_pipeline"

Parameters = dict[str, str | int | float | bool | None]
Array = npt.NDArray[Any]
Json = dict[str, object]


class RequestError(ValueError):
    """The client is at fault. status: of HTTP; the message is one sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class InputTensor(Struct):
    name: str
    datatype: str
    shape: list[Annotated[int, Meta(ge=0, le=1 << 32)]]
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
    """What is left of a request once it is understood. binary: the output goes out as a binary tensor."""

    id: str
    timeout_s: float
    payload: Array | None
    binary: bool


_body_decoder = msgspec.json.Decoder(InferBody)


# -- requests -------------------------------------------------------------------------------------------------------------


def inflate(body: bytes, encoding: str, limit: int) -> bytes:
    """Undo a Content-Encoding; a small body must not become a big one."""
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "deflate"):
        raise RequestError(415, f"Content-Encoding '{encoding}' is not supported, gzip and deflate are")
    inflater = zlib.decompressobj(wbits=47)
    try:
        inflated = inflater.decompress(body, limit)
    except zlib.error as error:
        raise RequestError(400, f"the body is not {encoding}: {error}") from None
    if inflater.unconsumed_tail:
        raise too_large(limit)
    if not inflater.eof:
        raise RequestError(400, f"the body is not {encoding}: it ends early")
    return inflated


def too_large(limit: int) -> RequestError:
    return RequestError(413, f"the body is larger than {limit} bytes")


def parse(body: bytes, header_length: str | None, described: Described) -> InferRequest:
    """Understand the body of an infer request. Raises RequestError."""
    header, rest = _split(body, header_length)
    try:
        request = _body_decoder.decode(header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(400, f"the request is not inference JSON: {error}") from None
    parts = _binary_parts(request.inputs, rest)
    tensor = _only_input(request.inputs, described)
    payload = None if tensor is None else _payload(tensor, parts)
    return InferRequest(request.id, _timeout_s(request.parameters), payload, _wants_binary(request, described.output))


def _split(body: bytes, header_length: str | None) -> tuple[memoryview, memoryview]:
    whole = memoryview(body)
    if header_length is None:
        return whole, whole[len(whole) :]
    digits = header_length.isascii() and header_length.isdigit() and len(header_length) < 20
    if not digits or int(header_length) > len(body):
        raise RequestError(
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
            raise RequestError(400, f"input '{tensor.name}': binary_data_size {size} does not fit the body")
        if len(tensor.data):
            raise RequestError(400, f"input '{tensor.name}' has both data and binary_data_size")
        parts[tensor.name] = rest[start : start + size]
        start += size
    if start != len(rest):
        raise RequestError(400, f"{len(rest) - start} bytes follow the last binary input")
    return parts


def _only_input(inputs: list[InputTensor], described: Described) -> InputTensor | None:
    expected = described.input
    for tensor in inputs:
        if tensor.name != expected.name:
            raise RequestError(400, f"input '{tensor.name}' is unknown, '{described.pipeline}' takes '{expected.name}'")
    if len(inputs) > 1:
        raise RequestError(400, f"input '{expected.name}' stands twice")
    if not inputs and not expected.optional:
        raise RequestError(400, f"input '{expected.name}' is missing")
    return inputs[0] if inputs else None


def _timeout_s(parameters: Parameters) -> float:
    """Triton's reserved parameter: microseconds, end to end."""
    timeout = parameters.get("timeout", 0)
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 <= timeout <= MAX_TIMEOUT_S * 1e6:
        raise RequestError(400, f"timeout must be 0 to {MAX_TIMEOUT_S * 1e6:.0f} microseconds, not {timeout!r}")
    return timeout / 1e6


def _wants_binary(request: InferBody, output: Tensor) -> bool:
    wish = request.parameters.get("binary_data_output", False)
    for wanted in request.outputs:
        if wanted.name != output.name:
            raise RequestError(400, f"output '{wanted.name}' is unknown, '{output.name}' is the only one")
        wish = wanted.parameters.get("binary_data", wish)
    return wish is True


# -- tensors --------------------------------------------------------------------------------------------------------------


def _payload(tensor: InputTensor, parts: dict[str, memoryview]) -> Array:
    part = parts.get(tensor.name)
    if part is None and not len(tensor.data):
        raise RequestError(400, f"input '{tensor.name}' has neither data nor binary_data_size")
    if tensor.datatype == "BYTES":
        element = _bytes_from_json(tensor) if part is None else _bytes_from_binary(tensor, part)
        return np.frombuffer(element, np.uint8)
    if tensor.datatype == "UINT8":
        return _uint8_from_json(tensor) if part is None else _uint8_from_binary(tensor, part)
    raise RequestError(400, f"input '{tensor.name}' is BYTES or UINT8, not '{tensor.datatype}'")


def _require_one_element(tensor: InputTensor, elements: int) -> None:
    if math.prod(tensor.shape) != 1 or elements != 1:
        raise RequestError(
            400, f"input '{tensor.name}' of type BYTES has one element, shape [1], not {elements} of shape {tensor.shape}"
        )


def _bytes_from_json(tensor: InputTensor) -> bytes:
    elements = np.asarray(_json_data(tensor), dtype=object).ravel()
    _require_one_element(tensor, len(elements))
    try:
        return base64.b64decode(elements[0], validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise RequestError(
            400, f"input '{tensor.name}': BYTES in JSON are base64; other bytes go as a binary tensor"
        ) from None


def _bytes_from_binary(tensor: InputTensor, part: memoryview) -> memoryview:
    """The element is preceded by its length."""
    length = struct.unpack_from("<I", part)[0] if len(part) >= 4 else None
    _require_one_element(tensor, 1)
    if length is None or length != len(part) - 4:
        raise RequestError(
            400,
            f"input '{tensor.name}': a binary BYTES element is 4 bytes of length and that many more, not {len(part)} bytes",
        )
    return part[4:]


def _uint8_from_json(tensor: InputTensor) -> Array:
    data = _json_data(tensor)
    try:
        array = np.asarray(data)
    except (ValueError, OverflowError):  # rows of different lengths, or numbers beyond any type
        array = np.empty(1, object)
    if array.size and (array.dtype.kind not in "iu" or array.min() < 0 or array.max() > 255):
        raise RequestError(
            400, f"input '{tensor.name}': UINT8 data are whole numbers from 0 to 255, in rows of equal length"
        )
    return _shaped(tensor, array.astype(np.uint8).ravel())


def _uint8_from_binary(tensor: InputTensor, part: memoryview) -> Array:
    return _shaped(tensor, np.frombuffer(part, np.uint8))


def _shaped(tensor: InputTensor, flat: Array) -> Array:
    if math.prod(tensor.shape) != flat.size or len(tensor.shape) > 8:
        raise RequestError(400, f"input '{tensor.name}': shape {tensor.shape} does not hold {flat.size} values")
    return flat.reshape(tensor.shape)


def _json_data(tensor: InputTensor) -> list[object]:
    try:
        return msgspec.json.decode(tensor.data, type=list[object])
    except (msgspec.DecodeError, RecursionError) as error:
        raise RequestError(400, f"input '{tensor.name}': {error}") from None


# -- answers --------------------------------------------------------------------------------------------------------------


def metadata(described: Described) -> Json:
    """GET /v2/models/NAME."""
    return {
        "name": described.pipeline,
        "versions": [VERSION],
        "platform": PLATFORM,
        "inputs": [_tensor_metadata(described.input)],
        "outputs": [_tensor_metadata(described.output)],
    }


def _tensor_metadata(tensor: Tensor) -> Json:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


def parameters(answer: Inference) -> Json:
    """How it was served; `served` joins the variant paths of the leaves."""
    return {
        "outcome": answer.outcome,
        "accuracy": answer.accuracy,
        "latency_ms": 1000 * answer.latency_s,
        "served": ",".join(map("/".join, answer.served)),
        "missing": answer.missing,
    }


def encode(answer: Inference, request: InferRequest, described: Described) -> tuple[bytes, int | None]:
    """The body of a success, and the length of its JSON if a binary tensor follows."""
    elements = _elements(answer, described)
    output: Json = {"name": described.output.name, "datatype": "BYTES", "shape": [len(elements)]}
    whole = {
        "model_name": described.pipeline,
        "model_version": VERSION,
        "id": request.id,
        "parameters": parameters(answer),
        "outputs": [output],
    }
    if not request.binary:
        output["data"] = [element.decode("utf-8", "replace") for element in elements]
        return msgspec.json.encode(whole), None
    data = b"".join(struct.pack("<I", len(element)) + element for element in elements)
    output["parameters"] = {"binary_data_size": len(data)}
    header = msgspec.json.encode(whole)
    return header + data, len(header)


def _elements(answer: Inference, described: Described) -> list[bytes]:
    """One per finished leaf: what the model said, or, where no model ran, who would have."""
    if described.engine == "emulated":
        return ["/".join(path).encode() for path in answer.served]
    return [output.tobytes() for output in answer.outputs]
