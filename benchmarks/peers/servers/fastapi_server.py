"""A service as one writes it by hand: FastAPI, a process for each core, both models in each of them, no batches across
requests; the lines of one picture are recognised together. Run by the peer's own Python."""

from __future__ import annotations

import asyncio
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import uvicorn
from fastapi import FastAPI, Request, Response

from benchmarks.peers.servers import oip
from benchmarks.peers.servers.both import answer_of
from benchmarks.peers.servers.routes import answered, describe
from benchmarks.peers.servers.spec import Spec, read_spec

SPEC = "PEER_SPEC"


def make_app() -> FastAPI:
    """Called in each process."""
    spec = msgspec.json.decode(Path(os.environ[SPEC]).read_bytes(), type=Spec)
    app, serve = FastAPI(), answer_of(spec)
    # One thread: a process has one core, and what waits for it should wait in turn.
    executor = ThreadPoolExecutor(1)
    describe(app, spec.kind)

    @app.post(f"/v2/models/{spec.kind}/infer")
    async def infer(request: Request) -> Response:
        tensor = oip.read(await request.body(), int(request.headers[oip.HEADER]))
        running = asyncio.get_running_loop().run_in_executor(executor, serve, tensor)
        try:
            # What still waits for the thread by then never runs.
            return answered(await asyncio.wait_for(running, spec.timeout_s))
        except TimeoutError:
            return Response(status_code=504)

    return app


def main() -> None:
    spec = read_spec()
    os.environ[SPEC] = sys.argv[1]
    uvicorn.run(
        "benchmarks.peers.servers.fastapi_server:make_app",
        factory=True,
        host="127.0.0.1",
        port=spec.port,
        workers=len(os.sched_getaffinity(0)),
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main()
