"""HTTP front end of a gateway node: the Open Inference Protocol v2 over starlette and uvicorn, one process."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version

import msgspec
import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loki_rl.errors import UserError
from loki_rl.serving.edge import front_end, http_answers, limits, oip, oip_models
from loki_rl.serving.edge.http_protocol import Connection, Door
from loki_rl.serving.edge.limits import MAX_BODY_BYTES, Memory, Refusals, Shares
from loki_rl.serving.edge.oip import InferRequest
from loki_rl.serving.edge.oip_tensors import InferError
from loki_rl.serving.edge.steps import Pace
from loki_rl.serving.gateway.async_client import AsyncClient
from loki_rl.serving.observe import metrics
from loki_rl.serving.process import parent_watch
from loki_rl.serving.security.guards import Guards
from loki_rl.serving.security.tls import Renewed
from loki_rl.serving.security.tls_server import TlsServer
from loki_rl.serving.transport.protocol import MSGPACK, Described, Infer, Refused

_CONNECT_S = 0.5


class _IndexBody(msgspec.Struct):
    ready: bool = False


class HttpFront:
    """The application's routes; `client` is there while it runs. guards: TLS and keys. Raises ApiKeyError or TlsError."""

    client: AsyncClient

    def __init__(self, endpoint: str, max_body_bytes: int = MAX_BODY_BYTES, guards: Guards | None = None) -> None:
        guards = guards or Guards()
        certificate = guards.certificate()
        self._endpoint = endpoint
        self._max_body_bytes = max_body_bytes
        self._refusals = Refusals()
        self._shares = Shares(limits.MAX_PER_CLIENT)
        self._keys = guards.keys()
        self._tls = None if certificate is None else Renewed(certificate)

    def application(self) -> ASGIApp:
        model = "/v2/models/{model}"
        both = (model, model + "/versions/{version}")
        repository = "/v2/repository/models/{model}"
        routes = [  # tried in order: the busy ones first
            *(Route(path + "/infer", self.infer, methods=["POST"]) for path in both),
            Route("/v2/models/stats", self.statistics),
            *(Route(path, self.model_metadata) for path in both),
            *(Route(path + "/ready", self.model_ready) for path in both),
            *(Route(path + "/config", self.model_config) for path in both),
            *(Route(path + "/stats", self.statistics) for path in both),
            Route("/v2", server_metadata),
            Route("/v2/health/live", live),
            Route("/v2/health/ready", self.ready),
            Route("/v2/repository/index", self.index, methods=["POST"]),
            *(Route(f"{repository}/{verb}", self.no_control, methods=["POST"]) for verb in ("load", "unload")),
            Route("/metrics", self.metrics),
            Route("/loki/state", self.state),
            Route("/loki/ledger", self.ledger),
            Route("/loki/run", self.begin_run, methods=["POST"]),
        ]
        handlers = {**http_answers.HANDLERS, InferError: self._refused}
        routed = Starlette(routes=routes, exception_handlers=handlers, lifespan=self._lifespan)
        return self._closing(routed)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[dict[str, Door]]:
        self.client = AsyncClient(self._endpoint)
        self._pace = Pace()
        # One that is there should not look absent to the first request; one that is not must not hold up the start.
        await self.client.connected(_CONNECT_S)
        door = Door(self._refusals, limits.connections(), self._keys)
        look = asyncio.create_task(self._look(door))
        yield {"door": door}
        look.cancel()
        self.client.close()

    async def _look(self, door: Door) -> None:
        """After connections, memory, and what the gateway is to be told."""
        memory = Memory()
        while True:
            await asyncio.sleep(limits.LOOK_S)
            await door.look()
            memory.look()
            for renewed in (self._keys, self._tls):
                if renewed is not None:
                    renewed.look()
            self._refusals.tell(self.client.tell)

    def server(self, config: uvicorn.Config) -> uvicorn.Server:
        if self._tls is None:
            return uvicorn.Server(config)
        return TlsServer(config, self._tls, limits.HEAD_S, lambda: self._refusals.count("tls"))

    async def _refused(self, request: Request, fault: InferError) -> Response:
        self._refusals.count(fault.reason)
        return await http_answers.refused(request, fault)

    def _closing(self, routed: ASGIApp) -> ASGIApp:
        """The answers of a plane that is about to stop close their connections: what comes next on one would be cut."""

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            async def sending(message: Message) -> None:
                if message["type"] == "http.response.start" and self.client.leaving:
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
                await send(message)

            await routed(scope, receive, sending)

        return application

    # -- inference ----------------------------------------------------------------------------------------------------

    async def infer(self, request: Request) -> Response:
        described = await self._model(request)
        oip_models.check_pipeline(described, request.path_params["model"])
        asked = await self._asked(request, described)
        id = self.client.take_id()
        watch = asyncio.create_task(self._cancel_when_gone(request, id))
        try:
            parent = oip.traceparent(request.headers.getlist("traceparent")) if described.traced else ""
            wanted = Infer(id, described.pipeline, asked.timeout_s, asked.min_accuracy, asked.priority, parent)
            with self._shares.one(self._whose(request)):
                answer = await self.client.infer(wanted, oip.take_payload(asked, self.client.memory))
        finally:
            watch.cancel()
        if isinstance(answer, Refused):
            raise InferError(400, answer.message)
        return http_answers.inferred(answer, asked, described, request.headers.get("accept-encoding", ""))

    def _whose(self, request: Request) -> str:
        """The name of its key, or its address."""
        return getattr(request.state, "owner", "") or request.state.connection.peer

    async def _asked(self, request: Request, described: Described) -> InferRequest:
        connection: Connection = request.state.connection
        body, headers = await self._body(request, self._max_body_bytes), request.headers
        encoding, length = headers.get("content-encoding", ""), headers.get("inference-header-content-length")
        steps = oip.read(body, encoding, length, self._max_body_bytes, described)
        asked = await self._pace.finish(steps, lambda: not connection.gone)
        if asked is None:
            raise ClientDisconnect
        connection.release()
        return asked

    async def _model(self, request: Request) -> Described:
        """What is served, if the model and version of the path are among it."""
        model, version = request.path_params["model"], request.path_params.get("version", "")
        return oip_models.check_model(await self.client.description(), model, version)

    async def _body(self, request: Request, limit: int) -> bytes:
        """One that is too large is read to its end and let go, within reason: most clients look for no answer before they
        have sent all, and would see a broken connection instead of why."""
        declared = request.headers.get("content-length", "0")
        length = int(declared) if declared.isdigit() else 0
        if length > limits.LET_GO * limit or (length > limit and "expect" in request.headers):
            raise oip.too_large(limit)
        parts: list[bytes] = []
        size = 0
        async for part in request.stream():
            size += len(part)
            if size <= limit:
                parts.append(part)
            elif size > limits.LET_GO * limit:
                break
        if size > limit:
            raise oip.too_large(limit)
        return b"".join(parts)

    async def _cancel_when_gone(self, request: Request, id: int) -> None:
        """After the body, the next thing a connection says is that it is closed."""
        while (await request.receive())["type"] != "http.disconnect":
            continue
        self.client.cancel(id)

    # -- models -------------------------------------------------------------------------------------------------------

    async def ready(self, _: Request) -> Response:
        reason = await self.client.readiness()
        return http_answers.error(503, reason, http_answers.SOON) if reason else Response()

    async def model_ready(self, request: Request) -> Response:
        await self._model(request)
        return await self.ready(request)

    async def model_metadata(self, request: Request) -> Response:
        return http_answers.json(oip_models.metadata(await self._model(request), request.path_params["model"]))

    async def model_config(self, request: Request) -> Response:
        return http_answers.json(oip_models.config(await self._model(request), request.path_params["model"]))

    async def statistics(self, request: Request) -> Response:
        """Of one model, or of all where the path names none."""
        model = request.path_params.get("model")
        described = await (self.client.description() if model is None else self._model(request))
        rows = oip_models.statistics(described, await self.client.state(), model)
        return http_answers.json({"model_stats": rows})

    async def index(self, request: Request) -> Response:
        body = await self._body(request, limits.MAX_TERMS_BYTES)
        try:
            wanted = msgspec.json.decode(body or b"{}", type=_IndexBody)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InferError(400, f"the request is not the JSON of an index: {error}") from None
        described = await self.client.description()
        return http_answers.json(oip_models.index(described, not await self.client.readiness(), wanted.ready))

    async def no_control(self, request: Request) -> Response:
        await self._model(request)
        raise InferError(400, "models are loaded and unloaded by the plan, not by clients")

    # -- the plane ----------------------------------------------------------------------------------------------------

    async def metrics(self, _: Request) -> Response:
        state = await self.client.state()
        return Response(metrics.exposition(state), media_type=metrics.CONTENT_TYPE)

    async def state(self, request: Request) -> Response:
        state = await self.client.state()
        if request.headers.get("accept") == MSGPACK:
            return Response(msgspec.msgpack.encode(state), media_type=MSGPACK)
        return http_answers.json(state)

    async def ledger(self, _: Request) -> Response:
        return Response(await self.client.ledger(), media_type="application/json")

    async def begin_run(self, request: Request) -> Response:
        http_answers.check_origin(request.headers)
        return http_answers.json({"origin_s": await self.client.begin_run()})


async def server_metadata(_: Request) -> Response:
    return http_answers.json({"name": oip_models.NAME, "version": version("loki-rl"), "extensions": oip_models.EXTENSIONS})


async def live(_: Request) -> Response:
    return Response()


# -- the process ----------------------------------------------------------------------------------------------------------


def server(front: HttpFront) -> uvicorn.Server:
    """A uvicorn server for these routes; run it with `server(front).run(sockets=[listen(host, port)])`."""
    config = uvicorn.Config(
        front.application(),
        loop="uvloop",
        http=Connection,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=limits.IDLE_S,
        timeout_graceful_shutdown=5,
    )
    return front.server(config)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = front_end.arguments("loki_rl.serving.edge.http", __doc__, 8000)
    options = parser.parse_args(arguments)
    front_end.begin("http", options)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    bound = front_end.listening("http", parser, options)
    try:
        serving = server(HttpFront(options.front, guards=front_end.guards(options)))
    except UserError as error:
        parser.exit(2, f"http: {error}\n")
    gc.collect()
    gc.freeze()  # as in a node: what the start made stays for good
    uvloop.run(_serve(serving, bound, options.tethered))
    return 0


async def _serve(serving: uvicorn.Server, bound: socket.socket, tethered: bool) -> None:
    if tethered:
        parent_watch.pulse(asyncio.get_running_loop())
    await serving.serve(sockets=[bound])


if __name__ == "__main__":
    sys.exit(main())
