"""A running HTTP front end, and plain requests to it."""

from __future__ import annotations

import http.client
import json
import threading
from typing import Any

from loki_rl.serving.edge.http import HttpFront, server
from loki_rl.serving.security.guards import Guards
from loki_rl.serving.transport.listening import listen

INPUT = {"name": "image", "datatype": "UINT8", "shape": [3], "data": [1, 2, 3]}
NOT_READY = "the models of the first plan are not loaded yet"
INFER = "/v2/models/reading/infer"


class Site:
    """A running HTTP server, and plain requests to it."""

    def __init__(self, endpoint: str, max_body_bytes: int = 200_000, guards: Guards | None = None) -> None:
        bound = listen("127.0.0.1", 0)
        self.port = bound.getsockname()[1]
        self.url = f"127.0.0.1:{self.port}"
        self._server = server(HttpFront(endpoint, max_body_bytes, guards))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [bound]}, daemon=True)
        bound.listen(128)
        self._thread.start()

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join()

    def ask(self, method: str, path: str, body: bytes | None = None, headers: Any = None) -> tuple[int, Any, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, json.loads(content) if content else None, answer.headers

    def infer(self, **request: Any) -> tuple[int, Any, Any]:
        return self.ask("POST", INFER, json.dumps({"inputs": [INPUT], **request}).encode())
