"""HTTP front end of a gateway node: the Open Inference Protocol v2 over starlette and uvicorn, one process. Owns routes and
status codes; must not know scheduling, nor the encoding of tensors (serving.oip does)."""

from __future__ import annotations

import argparse
import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from loki_rl.serving import oip
from loki_rl.serving.bridge import Bridge, GatewayGoneError
from loki_rl.serving.client import Inference
from loki_rl.serving.oip import RequestError
from loki_rl.serving.protocol import MAX_MESSAGE_BYTES, Described, Refused
from loki_rl.serving.wire import pack

# A body becomes one message to the gateway, with a header of its own.
MAX_BODY_BYTES = MAX_MESSAGE_BYTES - 4096
_CONNECT_S = 0.5
RETRY_AFTER = {"Retry-After": "1"}


class HttpFront:
    """The application's routes; `bridge` is there while it runs."""

    bridge: Bridge

    def __init__(self, endpoint: str, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self._endpoint = endpoint
        self._max_body_bytes = max_body_bytes

    def application(self) -> Starlette:
        model = "/v2/models/{model}"
        version = model + "/versions/{version}"
        routes = [  # tried in order: the busy ones first
            Route(model + "/infer", self.infer, methods=["POST"]),
            Route(version + "/infer", self.infer, methods=["POST"]),
            *(Route(path, self.model_metadata) for path in (model, version)),
            *(Route(path + "/ready", self.model_ready) for path in (model, version)),
            Route("/v2", server_metadata),
            Route("/v2/health/live", live),
            Route("/v2/health/ready", self.ready),
            Route("/loki/ledger", self.ledger),
            Route("/loki/run", self.begin_run, methods=["POST"]),
        ]
        handlers: dict[Any, Any] = {
            HTTPException: answer_unrouted,
            RequestError: answer_request_error,
            GatewayGoneError: answer_gone,
            ClientDisconnect: answer_nobody,
            Exception: answer_fault,
        }
        return Starlette(routes=routes, exception_handlers=handlers, lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self.bridge = Bridge(self._endpoint)
        # One that is there should not look absent to the first request; one that is not must not hold up the start.
        await self.bridge.connected(_CONNECT_S)
        yield
        self.bridge.close()

    # -- routes -------------------------------------------------------------------------------------------------------

    async def ready(self, _: Request) -> Response:
        described = await self.bridge.describe()
        return Response() if described.ready else _error(503, "not every task has a warm variant yet", RETRY_AFTER)

    async def model_metadata(self, request: Request) -> Response:
        return _json(oip.metadata(await self._model(request)))

    async def model_ready(self, request: Request) -> Response:
        await self._model(request)
        return await self.ready(request)

    async def ledger(self, _: Request) -> Response:
        return Response(await self.bridge.ledger(), media_type="application/json")

    async def begin_run(self, _: Request) -> Response:
        return _json({"origin_s": await self.bridge.begin_run()})

    async def infer(self, request: Request) -> Response:
        described = await self._model(request)
        body = oip.inflate(await self._body(request), request.headers.get("content-encoding", ""), self._max_body_bytes)
        asked = oip.parse(body, request.headers.get("inference-header-content-length"), described)
        payload = None if asked.payload is None else pack(asked.payload)
        id = self.bridge.take_id()
        watch = asyncio.create_task(self._cancel_when_gone(request, id))
        try:
            answer = await self.bridge.infer(id, described.pipeline, asked.timeout_s, payload)
        finally:
            watch.cancel()
        if isinstance(answer, Refused):
            raise RequestError(400, answer.message)
        return _answer(answer, asked, described)

    # -- parts of them ------------------------------------------------------------------------------------------------

    async def _model(self, request: Request) -> Described:
        described = await self.bridge.description()
        model, wanted = request.path_params["model"], request.path_params.get("version", oip.VERSION)
        if model != described.pipeline:
            raise RequestError(404, f"model '{model}' is unknown, '{described.pipeline}' is served here")
        if wanted != oip.VERSION:
            raise RequestError(404, f"model '{model}' has no version '{wanted}', only '{oip.VERSION}'")
        return described

    async def _body(self, request: Request) -> bytes:
        declared = request.headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > self._max_body_bytes:
            raise oip.too_large(self._max_body_bytes)
        parts: list[bytes] = []
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > self._max_body_bytes:
                raise oip.too_large(self._max_body_bytes)
            parts.append(part)
        return b"".join(parts)

    async def _cancel_when_gone(self, request: Request, id: int) -> None:
        """After the body, the next thing a connection says is that it is closed."""
        while (await request.receive())["type"] != "http.disconnect":
            continue
        self.bridge.cancel(id)


async def server_metadata(_: Request) -> Response:
    return _json({"name": "loki-rl", "version": version("loki-rl"), "extensions": ["binary_tensor_data"]})


async def live(_: Request) -> Response:
    return Response()


def _answer(answer: Inference, asked: oip.InferRequest, described: Described) -> Response:
    """ok and what there is of late requests is a success; the rest says why and when to come back."""
    nothing = answer.missing > 0 and not answer.served
    if answer.outcome == "ok" or (answer.outcome == "late" and not nothing):
        body, header_length = oip.encode(answer, asked, described)
        if header_length is None:
            return Response(body, media_type="application/json")
        headers = {"Inference-Header-Content-Length": str(header_length)}
        return Response(body, media_type="application/octet-stream", headers=headers)
    status = 500 if answer.outcome == "failed" else 503
    content = {"error": f"{answer.outcome}: {answer.reason}", "id": asked.id, "parameters": oip.parameters(answer)}
    return _json(content, status, RETRY_AFTER if status == 503 else None)


# -- errors ---------------------------------------------------------------------------------------------------------------


async def answer_unrouted(request: Request, error: HTTPException) -> Response:
    """What no route takes."""
    sentences = {404: f"there is no '{request.url.path}' here", 405: f"'{request.url.path}' does not take {request.method}"}
    return _error(error.status_code, sentences.get(error.status_code, error.detail), error.headers)


async def answer_request_error(_: Request, error: RequestError) -> Response:
    return _error(error.status, str(error))


async def answer_gone(_: Request, error: GatewayGoneError) -> Response:
    return _error(503, str(error), RETRY_AFTER)


async def answer_nobody(_: Request, __: ClientDisconnect) -> Response:
    """The client left in the middle of its body; uvicorn lets the answer fall."""
    return Response(status_code=400)


async def answer_fault(_: Request, __: Exception) -> Response:
    """A fault of ours; uvicorn logs it."""
    return _error(500, "the server failed on this request")


def _json(content: object, status: int = 200, headers: Any = None) -> Response:
    return Response(msgspec.json.encode(content), status, headers, media_type="application/json")


def _error(status: int, sentence: str, headers: Any = None) -> Response:
    return _json({"error": sentence}, status, headers)


# -- the process ----------------------------------------------------------------------------------------------------------


def server(front: HttpFront) -> uvicorn.Server:
    """A uvicorn server for these routes; run it with `server(front).run(sockets=[listen(host, port)])`."""
    config = uvicorn.Config(
        front.application(),
        loop="uvloop",
        http="httptools",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=5,
    )
    return uvicorn.Server(config)


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m loki_rl.serving.http", description=__doc__)
    parser.add_argument("--front", required=True, help="endpoint of the gateway's front, e.g. tcp://127.0.0.1:5555")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--host", default="127.0.0.1")
    options = parser.parse_args(arguments)
    try:
        bound = listen(options.host, options.port)
    except (OSError, OverflowError) as error:
        parser.exit(2, f"http: cannot listen on {options.host}:{options.port}: {error}\n")
    server(HttpFront(options.front)).run(sockets=[bound])
    return 0


if __name__ == "__main__":
    sys.exit(main())
