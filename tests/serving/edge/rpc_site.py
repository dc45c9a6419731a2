"""A running gRPC front end, and a good request to it."""

from __future__ import annotations

import asyncio
import queue
import threading
from typing import Any

from tritonclient.grpc import service_pb2 as pb

from loki_rl.serving.edge import rpc
from loki_rl.serving.security.guards import Guards


class Site:
    """A running gRPC server in a thread of its own."""

    def __init__(self, endpoint: str, guards: Guards | None = None) -> None:
        self._guards = guards
        self._ports: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, args=(endpoint,), daemon=True)
        self._thread.start()
        self.url = f"127.0.0.1:{self._ports.get(timeout=60)}"

    def _run(self, endpoint: str) -> None:
        self._loop.run_until_complete(rpc.serve(endpoint, "127.0.0.1", 0, self._ports.put, self._stop, guards=self._guards))
        self._loop.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


def message(**changes: Any) -> Any:
    """A good request as typed contents, changed."""
    request = pb.ModelInferRequest(model_name="reading")
    request.inputs.add(name="image", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"abc")
    request.MergeFrom(pb.ModelInferRequest(**changes))
    return request
