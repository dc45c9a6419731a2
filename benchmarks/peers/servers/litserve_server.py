"""LitServe: an API whose workers, one a core, have both models. Not batched: a worker that forms batches asks its queue
without pause, and on a CPU that costs more than batches save. Run by the peer's own Python. Annotations are objects
here, since LitServe makes its route of them."""

import os
from typing import Annotated

import litserve
from fastapi import Depends, Request, Response

from benchmarks.peers.servers import oip
from benchmarks.peers.servers.both import answer_of
from benchmarks.peers.servers.routes import answered, describe
from benchmarks.peers.servers.spec import Spec, read_spec
from benchmarks.peers.servers.stages import Array


async def tensor(request: Request) -> Array:
    """Of the body; LitServe itself reads JSON or forms alone."""
    return oip.read(await request.body(), int(request.headers[oip.HEADER]))


class BothModels(litserve.LitAPI):
    def __init__(self, spec: Spec, api_path: str) -> None:
        super().__init__(api_path=api_path)
        self._chain = spec

    def setup(self, device: str) -> None:  # noqa: ARG002
        self._answer = answer_of(self._chain)

    def decode_request(self, request: Annotated[Array, Depends(tensor)]) -> Array:
        return request

    def predict(self, x: Array) -> tuple[bytes, int]:
        return self._answer(x)

    def encode_response(self, output: tuple[bytes, int]) -> Response:
        return answered(output)


def main() -> None:
    spec = read_spec()
    api = BothModels(spec, f"/v2/models/{spec.kind}/infer")
    workers = len(os.sched_getaffinity(0))
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=workers, timeout=spec.timeout_s)
    describe(server.app, spec.kind)
    server.run(host="127.0.0.1", port=spec.port, log_level="warning", generate_client_file=False, access_log=False)


if __name__ == "__main__":
    main()
