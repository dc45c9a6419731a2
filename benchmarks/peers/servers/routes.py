"""The routes that servers on FastAPI share: what a client of the Open Inference Protocol asks before it infers. Run by
the peer's own Python."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Response

from benchmarks.peers.servers import oip
from benchmarks.peers.servers.spec import Kind


def describe(app: FastAPI, kind: Kind) -> None:
    """Say what is served here."""
    answers: dict[str, Any] = {
        "/v2": oip.SERVER,
        "/v2/health/ready": {},
        f"/v2/models/{kind}": oip.metadata(kind),
        f"/v2/models/{kind}/ready": {},
        f"/v2/models/{kind}/config": oip.configuration(kind),
    }
    for path, answer in answers.items():
        app.add_api_route(path, _always(answer), methods=["GET"])


def answered(answer: tuple[bytes, int]) -> Response:
    body, header_length = answer
    return Response(body, media_type="application/octet-stream", headers={oip.HEADER: str(header_length)})


def _always(answer: Any) -> Any:
    async def route() -> Any:
        return answer

    return route
