"""Messages of inference.GRPCInferenceService and what a gateway means by them.

The message classes are those that tritonclient ships.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from typing import Any, TypeVar

import msgspec
import numpy as np
from google.protobuf import json_format
from google.protobuf.message import Message
from tritonclient.grpc import service_pb2 as pb

from loki_rl.serving.edge import oip, oip_answers, oip_tensors
from loki_rl.serving.edge.limits import MAX_LISTED, MAX_TERMS_BYTES, MAX_TEXT_BYTES
from loki_rl.serving.edge.oip import VERSION, InferBody, InferRequest, WantedOutput
from loki_rl.serving.edge.oip_answers import binary, output_elements
from loki_rl.serving.edge.oip_tensors import InferError, InputTensor, Parameters
from loki_rl.serving.edge.steps import Steps
from loki_rl.serving.gateway.connection import Inference
from loki_rl.serving.transport.protocol import Described
from loki_rl.serving.transport.wire import DTYPES, MAX_DIMENSIONS, MAX_SIZE

# Where values of a type stand in InferTensorContents.
_FIELDS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents",
}  # fmt: skip
# Numbers of fields of a ModelInferRequest, and of one of its inputs.
_INPUTS, _RAW_CONTENTS, _CONTENTS = 5, 7, 5
# Typed contents read at a time: about a millisecond.
SLICE_VALUES = 16 << 10
UNREADABLE = "the request is not the message that this method takes"

Listed = TypeVar("Listed", bound=Sized)


def check_size(data: bytes) -> None:
    """Of a ModelInferRequest that is not read yet, as of JSON: objects are built only of what is small, and of values that
    are slices of numbers. Raises InferError."""
    if len(data) <= MAX_TERMS_BYTES:
        return
    large, values = _lengths(data, 0, len(data), {_RAW_CONTENTS: True, _INPUTS: False})
    if len(data) - large > MAX_TERMS_BYTES:
        raise InferError(413, f"the message is larger than {MAX_TERMS_BYTES} bytes beside the data of its input", "size")
    if values > MAX_TEXT_BYTES:
        raise InferError(413, f"typed contents are larger than {MAX_TEXT_BYTES} bytes; send them raw", "size")


def check_small(data: bytes) -> None:
    """Of any other message. Raises InferError."""
    if len(data) > MAX_TERMS_BYTES:
        raise InferError(413, f"the message is larger than {MAX_TERMS_BYTES} bytes", "size")


def _lengths(data: bytes, start: int, end: int, wanted: Mapping[int, bool]) -> tuple[int, int]:
    """Bytes of the fields that may be large, and of typed contents among them. wanted: numbers of fields -> whether all of
    it may be; else what there is in it."""
    large = values = 0
    for number, (first, last) in _fields(data, start, end):
        if wanted.get(number):
            large += last - first
        elif number in wanted:
            within, _ = _lengths(data, first, last, {_CONTENTS: True})
            large, values = large + within, values + within
    return large, values


def _fields(data: bytes, start: int, end: int) -> Iterator[tuple[int, tuple[int, int]]]:
    """Number and place of the fields that have a length. Raises InferError."""
    for _ in range(MAX_LISTED):
        if start >= end:
            return
        key, start = _varint(data, start)
        match key & 7:
            case 0:
                _, start = _varint(data, start)
            case 1:
                start += 8
            case 5:
                start += 4
            case 2:
                length, start = _varint(data, start)
                yield key >> 3, (start, start + length)
                start += length
            case _:
                raise InferError(400, UNREADABLE)
        if start > end:
            raise InferError(400, UNREADABLE)
    raise InferError(413, f"the message has more than {MAX_LISTED} fields", "size")


def _varint(data: bytes, start: int) -> tuple[int, int]:
    """Its value, and where it ends."""
    value = 0
    for shift, byte in enumerate(data[start : start + 10]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, start + shift + 1
    raise InferError(400, UNREADABLE)


def read_request(message: Any, described: Described) -> Steps[InferRequest]:
    """Understand a ModelInferRequest. Raises InferError."""
    inputs = [InputTensor(one.name, one.datatype, _shape(one), _parameters(one)) for one in _few(message.inputs)]
    outputs = [WantedOutput(one.name, _parameters(one)) for one in _few(message.outputs)]
    body = InferBody(message.id, _parameters(message), inputs, outputs)
    parts = yield from _parts(message)
    return (yield from oip.understand(body, parts, described))


def _few(listed: Listed) -> Listed:
    """Each is looked at in Python. Raises InferError for more than that may be."""
    if len(listed) > MAX_LISTED:
        raise InferError(400, f"the message lists more than {MAX_LISTED} of something")
    return listed


def _shape(tensor: Any) -> list[int]:
    """As the schema of InputTensor has it, which only decoding checks."""
    if len(tensor.shape) > MAX_DIMENSIONS or any(not 0 <= size <= MAX_SIZE for size in tensor.shape):
        raise InferError(400, f"input '{tensor.name}': a shape has at most {MAX_DIMENSIONS} sizes of 0 to {MAX_SIZE}")
    return list(tensor.shape)


def _parameters(message: Any) -> Parameters:
    found: Parameters = {}
    for name, value in _few(message.parameters).items():
        kind = value.WhichOneof("parameter_choice")
        found[name] = None if kind is None else getattr(value, kind)
    return found


def _parts(message: Any) -> Steps[dict[str, memoryview]]:
    """Raw data per input: as it came, or made of typed contents. Raises InferError."""
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise InferError(400, f"{len(raw)} raw contents came with {len(message.inputs)} inputs")
    if raw:
        return {one.name: memoryview(data) for one, data in zip(message.inputs, raw, strict=True)}
    parts: dict[str, memoryview] = {}
    for one in message.inputs:
        if one.HasField("contents"):
            parts[one.name] = memoryview((yield from _contents(one)))
    return parts


def _contents(tensor: Any) -> Steps[bytes]:
    if tensor.datatype == "BYTES":
        elements = tensor.contents.bytes_contents
        if len(elements) > 1:
            oip_tensors.require_one_element(tensor, len(elements))
        return binary(list(elements))
    field, dtype = _FIELDS.get(tensor.datatype, ""), DTYPES.get(tensor.datatype)
    if not field or dtype is None:
        raise InferError(400, f"input '{tensor.name}': {tensor.datatype} has no typed contents; send it raw")
    values, parts = getattr(tensor.contents, field), []
    for start in range(0, len(values), SLICE_VALUES):
        part = np.array(values[start : start + SLICE_VALUES])
        if not oip_tensors.fits(part, dtype):
            raise InferError(400, f"input '{tensor.name}': not all values are {tensor.datatype}")
        parts.append(part.astype(dtype).tobytes())
        if start + SLICE_VALUES < len(values):
            yield
    return b"".join(parts)


def write_response(answer: Inference, request: InferRequest, described: Described) -> Any:
    """A ModelInferResponse; its output is raw, as Triton's is."""
    elements = output_elements(answer, described)
    response = pb.ModelInferResponse(model_name=described.pipeline, model_version=VERSION, id=request.id)
    for name, value in oip_answers.parameters(answer).items():
        response.parameters[name].CopyFrom(_parameter(value))
    response.outputs.add(name=described.output.name, datatype="BYTES", shape=[len(elements)])
    response.raw_output_contents.append(binary(elements))
    return response


def _parameter(value: object) -> Any:
    if isinstance(value, bool):
        return pb.InferParameter(bool_param=value)
    if isinstance(value, int):
        return pb.InferParameter(int64_param=value)
    if isinstance(value, float):
        return pb.InferParameter(double_param=value)
    return pb.InferParameter(string_param=str(value))


def filled(message: Message, content: Mapping[str, object]) -> Message:
    """The message with the fields of a JSON object, which has the same names in Triton's two protocols."""
    return json_format.ParseDict(content, message)


def metadata(answer: Inference, retry_after_s: int) -> tuple[tuple[str, str], ...]:
    """What goes with the status of a call that got no result: the parameters of an answer, and when to come back."""
    told = ("loki-parameters", msgspec.json.encode(oip_answers.parameters(answer)).decode())
    return (told, ("retry-after", str(retry_after_s))) if retry_after_s else (told,)
