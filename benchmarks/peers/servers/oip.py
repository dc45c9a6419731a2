"""The Open Inference Protocol as a hand-written service speaks it: one tensor in, one out, binary tensors only. Owns
the bytes; must not import a server."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from benchmarks.peers.servers.spec import Kind

Array = npt.NDArray[Any]

HEADER = "Inference-Header-Content-Length"
SERVER = {"name": "peer", "version": "1", "extensions": []}
# Work -> what it takes and gives.
TENSORS: dict[Kind, tuple[dict[str, Any], dict[str, Any]]] = {
    "null": (
        {"name": "x", "datatype": "FP32", "shape": [1, 16]},
        {"name": "y", "datatype": "FP32", "shape": [1, 16]},
    ),
    "reading": (
        {"name": "image", "datatype": "BYTES", "shape": [1]},
        {"name": "text", "datatype": "BYTES", "shape": [-1]},
    ),
}


class _Tensor(Struct):
    datatype: str
    shape: list[int]


class _Request(Struct):
    inputs: list[_Tensor]


_requests = msgspec.json.Decoder(_Request)


def metadata(kind: Kind) -> dict[str, Any]:
    """What GET /v2/models/KIND answers."""
    takes, gives = TENSORS[kind]
    return {"name": kind, "versions": ["1"], "platform": "peer", "inputs": [takes], "outputs": [gives]}


def configuration(kind: Kind) -> dict[str, Any]:
    """What GET /v2/models/KIND/config answers: Triton's load generator asks for it."""
    sides = [
        {"name": side["name"], "data_type": f"TYPE_{side['datatype'].replace('BYTES', 'STRING')}", "dims": side["shape"]}
        for side in TENSORS[kind]
    ]
    return {"name": kind, "platform": "peer", "max_batch_size": 0, "input": sides[:1], "output": sides[1:]}


def read(body: bytes, header_length: int) -> Array:
    """The tensor of a request: floats as sent, or the bytes of its one element."""
    tensor = _requests.decode(body[:header_length]).inputs[0]
    if tensor.datatype == "FP32":
        return np.frombuffer(body, "<f4", offset=header_length).reshape(tensor.shape)
    return np.frombuffer(body, np.uint8, offset=header_length + (4 if tensor.datatype == "BYTES" else 0))


def floats(kind: Kind, tensor: Array) -> tuple[bytes, int]:
    """An answer with floats, and the length of its header."""
    return _answer(kind, list(tensor.shape), tensor.tobytes())


def elements(kind: Kind, found: Sequence[bytes]) -> tuple[bytes, int]:
    """An answer with elements of bytes, and the length of its header."""
    return _answer(kind, [len(found)], b"".join(struct.pack("<I", len(one)) + one for one in found))


def _answer(kind: Kind, shape: list[int], data: bytes) -> tuple[bytes, int]:
    gives = TENSORS[kind][1]
    output = {"name": gives["name"], "datatype": gives["datatype"], "shape": shape}
    tensor = output | {"parameters": {"binary_data_size": len(data)}}
    header = msgspec.json.encode({"model_name": kind, "model_version": "1", "outputs": [tensor]})
    return header + data, len(header)
