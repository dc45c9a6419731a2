"""Values of a tensor as they stand in JSON: counted against its shape before they are built, then read slice by slice.

What a list of lists costs to build has little to do with its length in bytes: ten million empty ones are 29 KB of gzip and
hold up a process for seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from loki_rl.serving.edge.steps import Steps

# About a millisecond.
SLICE_BYTES = 64 << 10
_NOT_STRUCTURE = bytes(set(range(256)) - set(b"[],"))
_BLANKS = bytes.maketrans(b"[]", b"  ")
_DECODERS: dict[str, msgspec.json.Decoder[list[Any]]] = {
    "b": msgspec.json.Decoder(list[bool]),
    "f": msgspec.json.Decoder(list[float]),
    "i": msgspec.json.Decoder(list[int]),
    "u": msgspec.json.Decoder(list[int]),
}

Array = npt.NDArray[Any]


class CountError(ValueError):
    """There are not as many values as the shape has. found: how many there are."""

    def __init__(self, found: int) -> None:
        super().__init__(found)
        self.found = found


class ValuesError(ValueError):
    """Not values of this type, or not in rows of equal length."""


def numbers(text: bytes, shape: Sequence[int], dtype: np.dtype[Any]) -> Steps[Array]:
    """The values of a JSON array, flat. They stand in one list, or nested as the shape is. text: well formed JSON.
    Raises CountError or ValuesError."""
    count = math.prod(shape)
    structure = text.translate(None, _NOT_STRUCTURE)
    yield from _pause(text)
    values = text.translate(_BLANKS)
    yield from _pause(text)
    # Commas stand between values and nowhere else: n values have n - 1 of them, however they are nested.
    found = structure.count(b",") + 1 if values.strip(b", \t\r\n") else 0
    if found != count:
        raise CountError(found)
    yield from _pause(text)
    if structure != b"[" + b"," * (count - 1) + b"]" and structure != _nested(shape, len(structure)):
        raise ValuesError
    yield from _pause(text)
    return (yield from _read(values, count, dtype))


def _pause(text: bytes) -> Steps[None]:
    """Each pass over a short text is short."""
    if len(text) > SLICE_BYTES:
        yield


def _nested(shape: Sequence[int], most: int) -> bytes:
    """What an array of this shape has of brackets and commas; something shorter where that is more than `most` bytes."""
    structure = b""
    known = list(shape)
    for size in reversed(known[: known.index(0) + 1] if 0 in known else known):
        if (len(structure) + 1) * size > most + 1:
            return b""
        structure = b"[" + (structure + b",") * (size - 1) + structure * bool(size) + b"]"
    return structure


def _read(values: bytes, count: int, dtype: np.dtype[Any]) -> Steps[Array]:
    """Commas are as many as they should be: so are values, or a slice is no list of them."""
    array = np.empty(count, dtype)
    decoder = _DECODERS[dtype.kind]
    filled = start = 0
    while filled < count:
        end = _cut(values, start)
        try:
            part = decoder.decode(b"[" + values[start:end] + b"]")
            if not part:  # blanks where a value should be
                raise ValuesError
            with np.errstate(over="ignore"):  # beyond a small float: infinite
                array[filled : filled + len(part)] = np.array(part, dtype)
        except (msgspec.DecodeError, UnicodeDecodeError, OverflowError):
            raise ValuesError from None
        filled, start = filled + len(part), end + 1
        if filled < count:
            yield
    return array


def _cut(values: bytes, start: int) -> int:
    """Where the slice that begins here ends: at a comma, or at the end."""
    if len(values) - start <= SLICE_BYTES:
        return len(values)
    end = values.rfind(b",", start, start + SLICE_BYTES)
    end = end if end >= 0 else values.find(b",", start)
    return end if end >= 0 else len(values)
