"""Two Ray Serve deployments, one a model, both batched by `serve.batch`; the first is the way in and calls the second by
its handle, once for each line of a picture. Run by the peer's own Python. Annotations are objects here, since Ray sends
these classes to other processes, where FastAPI would not find what a name stands for."""

import asyncio
import os
import signal
import threading
from tempfile import gettempdir
from typing import Any

import ray
from fastapi import FastAPI, Request, Response
from ray import serve
from ray.serve.config import HTTPOptions

from benchmarks.peers.servers import oip
from benchmarks.peers.servers.routes import answered, describe
from benchmarks.peers.servers.spec import Spec, StageSpec, read_spec
from benchmarks.peers.servers.stages import Array, Detection, Null, Recognition

# serve.batch knows its size when the class is made; the replica then says the one it was asked for.
batched = serve.batch(max_batch_size=16, batch_wait_timeout_s=0.0)
null_app, reading_app = FastAPI(), FastAPI()
describe(null_app, "null")
describe(reading_app, "reading")


@serve.deployment
class NullB:
    def __init__(self, stage: StageSpec) -> None:
        self._model = Null(stage)
        self.run.set_max_batch_size(stage.batch)

    @batched
    async def run(self, tensors: list[Array]) -> list[Array]:
        return self._model.run(tensors)


@serve.deployment
@serve.ingress(null_app)
class NullA:
    def __init__(self, stage: StageSpec, following: Any) -> None:
        self._model, self._following = Null(stage), following
        self.run.set_max_batch_size(stage.batch)

    @batched
    async def run(self, tensors: list[Array]) -> list[Array]:
        return self._model.run(tensors)

    @null_app.post("/v2/models/null/infer")
    async def infer(self, request: Request) -> Response:
        tensor = await self.run(oip.read(await request.body(), int(request.headers[oip.HEADER])))
        return answered(oip.floats("null", await self._following.run.remote(tensor)))


@serve.deployment
class Recogniser:
    def __init__(self, stage: StageSpec) -> None:
        self._model = Recognition(stage)
        self.run.set_max_batch_size(stage.batch)

    @batched
    async def run(self, crops: list[Array]) -> list[bytes]:
        return await asyncio.to_thread(self._model.texts, crops)


@serve.deployment
@serve.ingress(reading_app)
class Detector:
    def __init__(self, stage: StageSpec, following: Any) -> None:
        self._model, self._following = Detection(stage), following
        self.run.set_max_batch_size(stage.batch)

    @batched
    async def run(self, pictures: list[Array]) -> list[list[Array]]:
        return await asyncio.to_thread(self._model.crops, pictures)

    @reading_app.post("/v2/models/reading/infer")
    async def infer(self, request: Request) -> Response:
        crops = await self.run(oip.read(await request.body(), int(request.headers[oip.HEADER])))
        texts = await asyncio.gather(*(self._following.run.remote(crop) for crop in crops))
        return answered(oip.elements("reading", texts))


def bound(spec: Spec) -> Any:
    first: Any
    second: Any
    first, second = (NullA, NullB) if spec.kind == "null" else (Detector, Recogniser)
    cores = len(os.sched_getaffinity(0))
    options = {"num_replicas": spec.replicas, "ray_actor_options": {"num_cpus": cores / (4 * spec.replicas)}}
    # Ray gives a replica five requests at a time unless told, fewer than a batch.
    following = second.options(**options, max_ongoing_requests=4 * spec.stages[1].batch).bind(spec.stages[1])
    return first.options(**options, max_ongoing_requests=max(5, 2 * spec.stages[0].batch)).bind(spec.stages[0], following)


def main() -> None:
    spec = read_spec()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cores = len(os.sched_getaffinity(0))
    ray.init(num_cpus=cores, include_dashboard=False, log_to_driver=False, _temp_dir=gettempdir())
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=spec.port, request_timeout_s=spec.timeout_s))
    serve.run(bound(spec), name=spec.kind, route_prefix="/")
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    stopped.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
