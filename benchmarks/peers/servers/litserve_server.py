"""LitServe: an API whose workers, one a core, have both models, batched by LitServe where batches pay. Run by the peer's
own Python. Annotations are objects here, since LitServe makes its route of them."""

import os
from typing import Annotated, Any

import litserve
from fastapi import Depends, Request, Response

from benchmarks.peers.servers import oip
from benchmarks.peers.servers.routes import answered, describe
from benchmarks.peers.servers.spec import Spec, read_spec
from benchmarks.peers.servers.stages import Array, Detection, Null, Recognition


async def tensor(request: Request) -> Array:
    """Of the body; LitServe itself reads JSON or forms alone."""
    return oip.read(await request.body(), int(request.headers[oip.HEADER]))


class NullApi(litserve.LitAPI):
    def __init__(self, spec: Spec, **options: Any) -> None:
        super().__init__(**options)
        self._spec_of_models = spec

    def setup(self, device: str) -> None:  # noqa: ARG002
        self._first, self._second = (Null(stage) for stage in self._spec_of_models.stages)

    def decode_request(self, request: Annotated[Array, Depends(tensor)]) -> Array:
        return request

    def batch(self, inputs: list[Array]) -> list[Array]:
        return inputs

    def predict(self, tensors: list[Array]) -> list[Array]:
        return self._second.run(self._first.run(tensors))

    def unbatch(self, output: list[Array]) -> list[Array]:
        return output

    def encode_response(self, output: Array) -> Response:
        return answered(oip.floats("null", output))


class ReadingApi(litserve.LitAPI):
    def __init__(self, spec: Spec, **options: Any) -> None:
        super().__init__(**options)
        self._spec_of_models = spec

    def setup(self, device: str) -> None:  # noqa: ARG002
        first, second = self._spec_of_models.stages
        self._detection, self._recognition = Detection(first), Recognition(second)

    def decode_request(self, request: Annotated[Array, Depends(tensor)]) -> Array:
        return request

    def predict(self, picture: Array) -> list[bytes]:
        return self._recognition.texts(self._detection.crops([picture])[0])

    def encode_response(self, output: list[bytes]) -> Response:
        return answered(oip.elements("reading", output))


def main() -> None:
    spec = read_spec()
    kind = NullApi if spec.kind == "null" else ReadingApi
    api = kind(spec, max_batch_size=spec.stages[0].batch, batch_timeout=0.0, api_path=f"/v2/models/{spec.kind}/infer")
    workers = len(os.sched_getaffinity(0))
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=workers, timeout=spec.timeout_s)
    describe(server.app, spec.kind)
    server.run(host="127.0.0.1", port=spec.port, log_level="warning", generate_client_file=False, access_log=False)


if __name__ == "__main__":
    main()
