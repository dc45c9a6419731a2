"""HTTP responses: results, refusals and faults as status, headers and JSON."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_address
from socket import gethostname
from typing import Any
from urllib.parse import urlsplit

import msgspec
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from loki_rl.serving.edge import oip_answers
from loki_rl.serving.edge.oip import InferRequest
from loki_rl.serving.edge.oip_tensors import InferError
from loki_rl.serving.gateway.connection import GatewayGoneError, Inference
from loki_rl.serving.transport.protocol import Described
from loki_rl.serving.transport.wire import WireError

SOON = {"Retry-After": "1"}


def json(content: object, status: int = 200, headers: Any = None) -> Response:
    return Response(msgspec.json.encode(content), status, headers, media_type="application/json")


def error(status: int, sentence: str, headers: Any = None) -> Response:
    return json({"error": sentence}, status, headers)


def inferred(answer: Inference, asked: InferRequest, described: Described, accepted: str) -> Response:
    """The result, or why there is none and when to come back. accepted: the client's Accept-Encoding."""
    verdict = oip_answers.verdict(answer)
    if verdict is None:
        return _result(*oip_answers.encode(answer, asked, described), accepted)
    parameters = oip_answers.parameters(answer)
    headers = {"Retry-After": str(verdict.retry_after_s)} if verdict.retry_after_s else None
    return json({"error": verdict.sentence, "id": asked.id, "parameters": parameters}, verdict.status, headers)


def _result(body: bytes, header_length: int | None, accepted: str) -> Response:
    body, encoding = oip_answers.compress(body, accepted)
    headers = {"Content-Encoding": encoding} if encoding else {}
    if header_length is None:
        return Response(body, media_type="application/json", headers=headers)
    # The length is that of the JSON before compression.
    headers["Inference-Header-Content-Length"] = str(header_length)
    return Response(body, media_type="application/octet-stream", headers=headers)


def check_origin(headers: Headers) -> None:
    """That no page of another site asks, through the browser of somebody who may: such a page says where it comes from, and
    reaches us by our address only if it says so. Raises InferError."""
    host, origin = headers.get("host", ""), headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != host:
        raise InferError(403, f"pages of '{origin}' may not do this", "origin")
    if host and not _ours(host):
        raise InferError(403, f"'{host}' is not this host: ask by its name or its address", "origin")


def _ours(host: str) -> bool:
    """An address, or a name that nobody else can point here."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    with suppress(ValueError):
        return bool(ip_address(name))
    return name in ("localhost", gethostname().lower())


# -- handlers of what routes raise ----------------------------------------------------------------------------------------


async def unrouted(request: Request, fault: HTTPException) -> Response:
    """What no route takes."""
    sentences = {404: f"there is no '{request.url.path}' here", 405: f"'{request.url.path}' does not take {request.method}"}
    return error(fault.status_code, sentences.get(fault.status_code, fault.detail), fault.headers)


async def refused(_: Request, fault: InferError) -> Response:
    return error(fault.status, str(fault))


async def malformed(_: Request, fault: WireError) -> Response:
    """A tensor that cannot be sent on."""
    return error(400, str(fault))


async def gone(_: Request, fault: GatewayGoneError) -> Response:
    return error(503, str(fault), SOON)


async def nobody(_: Request, __: ClientDisconnect) -> Response:
    """The client left in the middle of its body; uvicorn lets the answer fall."""
    return Response(status_code=400)


async def failed(_: Request, __: Exception) -> Response:
    """A fault of ours; uvicorn logs it."""
    return error(500, "the server failed on this request")


HANDLERS: dict[Any, Any] = {
    HTTPException: unrouted,
    InferError: refused,
    WireError: malformed,
    GatewayGoneError: gone,
    ClientDisconnect: nobody,
    Exception: failed,
}
