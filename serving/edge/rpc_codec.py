"""Messages of inference.GRPCInferenceService and what a gateway means by them. Owns the translation; must not know servers,
sockets, nor how a request is served.

The message classes are those that tritonclient ships.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from google.protobuf import json_format
from google.protobuf.message import Message
from tritonclient.grpc import service_pb2 as pb

from loki_rl.serving.edge import oip, oip_answers
from loki_rl.serving.edge.oip import VERSION, InferBody, InferError, InferRequest, InputTensor, Parameters, WantedOutput
from loki_rl.serving.edge.oip_answers import binary, output_elements
from loki_rl.serving.gateway.connection import Inference
from loki_rl.serving.transport.protocol import Described
from loki_rl.serving.transport.wire import MAX_DIMENSIONS, MAX_SIZE, pack

# Where values of a type stand in InferTensorContents.
_FIELDS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents",
}  # fmt: skip


def read_request(message: Any, described: Described) -> InferRequest:
    """Understand a ModelInferRequest. Raises InferError."""
    inputs = [InputTensor(one.name, one.datatype, _shape(one), _parameters(one.parameters)) for one in message.inputs]
    outputs = [WantedOutput(one.name, _parameters(one.parameters)) for one in message.outputs]
    body = InferBody(message.id, _parameters(message.parameters), inputs, outputs)
    return oip.understand(body, _parts(message), described)


def _shape(tensor: Any) -> list[int]:
    """As the schema of InputTensor has it, which only decoding checks."""
    if len(tensor.shape) > MAX_DIMENSIONS or any(not 0 <= size <= MAX_SIZE for size in tensor.shape):
        raise InferError(400, f"input '{tensor.name}': a shape has at most {MAX_DIMENSIONS} sizes of 0 to {MAX_SIZE}")
    return list(tensor.shape)


def _parameters(given: Mapping[str, Any]) -> Parameters:
    found: Parameters = {}
    for name, value in given.items():
        kind = value.WhichOneof("parameter_choice")
        found[name] = None if kind is None else getattr(value, kind)
    return found


def _parts(message: Any) -> dict[str, memoryview]:
    """Raw data per input: as it came, or made of typed contents. Raises InferError."""
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise InferError(400, f"{len(raw)} raw contents came with {len(message.inputs)} inputs")
    if raw:
        return {one.name: memoryview(data) for one, data in zip(message.inputs, raw, strict=True)}
    return {one.name: memoryview(_contents(one)) for one in message.inputs if one.HasField("contents")}


def _contents(tensor: Any) -> bytes:
    if tensor.datatype == "BYTES":
        return binary(list(tensor.contents.bytes_contents))
    field, dtype = _FIELDS.get(tensor.datatype, ""), oip.TYPES.get(tensor.datatype)
    if not field or dtype is None:
        raise InferError(400, f"input '{tensor.name}': {tensor.datatype} has no typed contents; send it raw")
    values = np.array(getattr(tensor.contents, field))
    if values.size and not oip.fits(values, dtype):
        raise InferError(400, f"input '{tensor.name}': not all values are {tensor.datatype}")
    return values.astype(dtype).tobytes()


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


def payload(request: InferRequest) -> bytes | None:
    return None if request.payload is None else pack(request.payload)


def metadata(answer: Inference, retry_after_s: int) -> tuple[tuple[str, str], ...]:
    """What goes with the status of a call that got no result: the parameters of an answer, and when to come back."""
    told = ("loki-parameters", msgspec.json.encode(oip_answers.parameters(answer)).decode())
    return (told, ("retry-after", str(retry_after_s))) if retry_after_s else (told,)
