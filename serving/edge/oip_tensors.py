"""The input of a request of the Open Inference Protocol v2: its JSON or its bytes to one array."""

from __future__ import annotations

import base64
import binascii
import math
import struct
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta, Raw, Struct

from loki_rl.serving.edge import json_data
from loki_rl.serving.edge.steps import Steps
from loki_rl.serving.transport.protocol import Tensor, Turning, shortened
from loki_rl.serving.transport.wire import DTYPES, MAX_DIMENSIONS, MAX_SIZE, indexable

# A tensor's parameter: its BYTES are base64 (the usual case), or text as it is.
BASE64 = "base64"
# Of what stands for BYTES: an encoded file, or pixels.
PICTURE_RANKS = {1, 3}

Parameters = dict[str, str | int | float | bool | None]
Array = npt.NDArray[Any]


class InferError(ValueError):
    """The client is at fault. status: of HTTP; the message is one sentence, cut where it quotes too much of the request.
    reason: what it is counted as."""

    def __init__(self, status: int, message: str, reason: Turning = "malformed") -> None:
        super().__init__(shortened(message))
        self.status = status
        self.reason = reason


class InputTensor(Struct):
    name: str
    datatype: str
    shape: Annotated[list[Annotated[int, Meta(ge=0, le=MAX_SIZE)]], Meta(max_length=MAX_DIMENSIONS)]
    parameters: Parameters = {}
    # Not `Raw | None`: msgspec then refuses arrays.
    data: Raw = Raw(b"")


def read(tensor: InputTensor, part: memoryview | None) -> Steps[Array]:
    """part: its raw data, if it has any. Raises InferError."""
    if part is None and not len(tensor.data):
        raise InferError(400, f"input '{tensor.name}' has neither data nor binary_data_size")
    if tensor.datatype == "BYTES":
        element = _bytes_from_json(tensor) if part is None else _bytes_from_binary(tensor, part)
        return np.frombuffer(element, np.uint8)
    dtype = DTYPES.get(tensor.datatype)
    if dtype is None:
        raise InferError(400, f"input '{tensor.name}' is BYTES or one of {', '.join(DTYPES)}, not '{tensor.datatype}'")
    return (yield from _numbers_from_json(tensor, dtype)) if part is None else _numbers_from_binary(tensor, part, dtype)


def require_one_element(tensor: InputTensor, elements: int) -> None:
    """Raises InferError."""
    if math.prod(tensor.shape) != 1 or elements != 1:
        raise InferError(
            400, f"input '{tensor.name}' of type BYTES has one element, shape [1], not {elements} of shape {tensor.shape}"
        )


def _bytes_from_json(tensor: InputTensor) -> bytes:
    """Commas stand between elements: neither base64 nor an array of one has any."""
    text = bytes(tensor.data)
    commas, brackets = text.count(b","), text.count(b"[")
    if commas or brackets > MAX_DIMENSIONS:
        require_one_element(tensor, commas + 1)
    elements = np.asarray(_json_data(tensor), dtype=object).ravel()
    require_one_element(tensor, len(elements))
    plain = tensor.parameters.get(BASE64, True) is False
    try:
        return elements[0].encode() if plain else base64.b64decode(elements[0], validate=True)
    except (AttributeError, binascii.Error, TypeError, ValueError):
        raise InferError(
            400,
            f"input '{tensor.name}': BYTES in JSON are base64, or text with the tensor's parameter '{BASE64}' false; other "
            "bytes go as a binary tensor",
        ) from None


def unbatched(array: Array, takes: Tensor) -> Array:
    """Without the batch axis of 1 that Triton's clients put before the shape of a single request."""
    ranks = {len(takes.shape)}
    if takes.datatype == "BYTES":
        ranks = PICTURE_RANKS if array.dtype == np.uint8 else set()
    one = array.ndim > 1 and array.shape[0] == 1 and array.ndim not in ranks and array.ndim - 1 in ranks
    return array[0] if one else array


def _bytes_from_binary(tensor: InputTensor, part: memoryview) -> memoryview:
    """The element is preceded by its length."""
    length = struct.unpack_from("<I", part)[0] if len(part) >= 4 else None
    require_one_element(tensor, 1)
    if length is None or length != len(part) - 4:
        raise InferError(
            400,
            f"input '{tensor.name}': a binary BYTES element is 4 bytes of length and that many more, not {len(part)} bytes",
        )
    return part[4:]


def _numbers_from_json(tensor: InputTensor, dtype: np.dtype[Any]) -> Steps[Array]:
    text = bytes(tensor.data)
    if not text.lstrip().startswith(b"["):
        raise InferError(400, f"input '{tensor.name}': Expected `array` of values as data")
    if not indexable(tensor.shape):
        raise _unfilled(tensor, 0)
    try:
        flat = yield from json_data.numbers(text, tensor.shape, dtype)
    except json_data.CountError as error:
        raise _unfilled(tensor, error.found) from None
    except json_data.ValuesError:
        allowed = f"{tensor.datatype} data are {_allowed(dtype)}, in rows of equal length"
        raise InferError(400, f"input '{tensor.name}': {allowed}") from None
    return flat.reshape(tensor.shape)


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
        raise _unfilled(tensor, flat.size)
    return flat.reshape(tensor.shape)


def _unfilled(tensor: InputTensor, found: int) -> InferError:
    return InferError(400, f"input '{tensor.name}': shape {tensor.shape} does not hold {found} values")


def _json_data(tensor: InputTensor) -> list[object]:
    try:
        return msgspec.json.decode(tensor.data, type=list[object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InferError(400, f"input '{tensor.name}': {error}") from None
