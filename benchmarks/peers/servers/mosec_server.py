"""Two mosec stages, one a model, batched by mosec where batches pay; the second gets all crops of a picture in one item.
mosec answers POST alone, so it cannot say what it serves. Run by the peer's own Python."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import msgspec
from mosec import Server, Worker

from benchmarks.peers.servers import oip
from benchmarks.peers.servers.spec import Spec, StageSpec, read_spec
from benchmarks.peers.servers.stages import Array, Detection, Null, Recognition

SPEC = "PEER_SPEC"
# Longer than any header of a request; a worker does not see the field that tells its length.
HEADER_BYTES = 512
# Of one run of a model: mosec gives a worker up that takes longer.
RUN_S = 30.0


def stage(number: int) -> StageSpec:
    return msgspec.json.decode(Path(os.environ[SPEC]).read_bytes(), type=Spec).stages[number]


class In(Worker):
    """What reads a request."""

    def deserialize(self, data: bytes) -> Array:
        _, end = json.JSONDecoder().raw_decode(data[:HEADER_BYTES].decode("latin-1"))
        return oip.read(data, end)


class Out(Worker):
    """What writes an answer."""

    resp_mime_type = "application/octet-stream"

    def serialize(self, data: tuple[bytes, int]) -> bytes:
        return data[0]


class NullA(In):
    def __init__(self) -> None:
        super().__init__()
        self._model = Null(stage(0))

    def forward(self, data: list[Array]) -> list[Array]:
        return self._model.run(data)


class NullB(Out):
    def __init__(self) -> None:
        super().__init__()
        self._model = Null(stage(1))

    def forward(self, data: list[Array]) -> list[tuple[bytes, int]]:
        return [oip.floats("null", tensor) for tensor in self._model.run(data)]


class Detector(In):
    def __init__(self) -> None:
        super().__init__()
        self._model = Detection(stage(0))

    def forward(self, data: Array) -> list[Array]:
        return self._model.crops([data])[0]


class Recogniser(Out):
    def __init__(self) -> None:
        super().__init__()
        self._model = Recognition(stage(1))

    def forward(self, data: list[Array]) -> tuple[bytes, int]:
        return oip.elements("reading", self._model.texts(data))


def main() -> None:
    spec = read_spec()
    os.environ[SPEC] = str(Path(sys.argv[1]).absolute())
    # mosec takes these from the command line alone.
    options = {"address": "127.0.0.1", "port": spec.port, "timeout": round(1000 * spec.timeout_s), "wait": 0}
    sys.argv[1:] = [f"--{name}={value}" for name, value in options.items()] + ["--log-level=warning"]
    server, route = Server(), f"/v2/models/{spec.kind}/infer"
    workers: list[Any] = [NullA, NullB] if spec.kind == "null" else [Detector, Recogniser]
    batch = spec.stages[0].batch
    for worker in workers:
        server.append_worker(worker, num=spec.replicas, max_batch_size=batch, timeout=RUN_S, route=route)
    server.run()


if __name__ == "__main__":
    main()
