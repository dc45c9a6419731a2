"""Readiness and the account of a plane whose parts are stopped: they tell what clients would meet, and wait for nobody;
and a plane that leaves."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from loki_rl.core.options import ClusterOptions
from loki_rl.serving.gateway.client import Client
from loki_rl.serving.process.launch import LocalPlane
from tests.serving.driving import eventually
from tests.serving.edge.test_edge import Plane

BODY = json.dumps({"inputs": [], "parameters": {"timeout": 30_000_000}}).encode()


@pytest.fixture
def served(quick_traffic: ClusterOptions, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plane]:
    folder = Path(tempfile.mkdtemp(prefix="lt-"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    plane = Plane(quick_traffic)
    with plane.plane:
        yield plane
    shutil.rmtree(folder)


@contextmanager
def stopped(plane: LocalPlane, node: str) -> Iterator[None]:
    pid = plane.pids[node]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_readiness_needs_stages_and_no_controller(served: Plane) -> None:
    eventually(lambda: served.get("/v2/health/ready")[0] == 200, "the plane is never ready")
    with stopped(served.plane, "controller"), Client(served.plane.front) as client:
        # Routers of a busy machine may be late now and then; the controller is never there.
        for _ in range(3):
            eventually(lambda: served.get("/v2/health/ready")[0] == 200, "a plane without controller is not ready")
        eventually(lambda: client.state().ready, "a plane without controller is not ready")
        state = client.state()
        assert (state.control, len(state.stages), state.silent) == (None, 3, [])
        assert client.infer(timeout_s=30.0).outcome == "ok"
        assert b'loki_answers{part="controller",pipeline="traffic"} 0.0' in served.get("/metrics")[1]
    with stopped(served.plane, "router-1"), Client(served.plane.front) as client:
        eventually(lambda: served.get("/v2/health/ready")[0] == 503, "a stage that does not answer is ready")
        reason = "stage 'car_classification' does not answer"
        assert json.loads(served.get("/v2/health/ready")[1]) == {"error": reason}
        state = client.state()
        assert (state.ready, state.unready, state.silent) == (False, reason, ["car_classification"])
        assert state.control is not None
    eventually(lambda: served.get("/v2/health/ready")[0] == 200, "the stage does not come back")


class KeptAlive:
    """Requests one after the other on connections that are kept until the server closes them in its answer."""

    def __init__(self, port: int) -> None:
        self.statuses: list[int] = []
        self.closed = threading.Event()
        self.faults: list[Exception] = []
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self.closed.is_set():
                self._connection.request("POST", "/v2/models/traffic/infer", BODY)
                answer = self._connection.getresponse()
                answer.read()
                self.statuses.append(answer.status)
                if answer.headers.get("Connection") == "close":
                    self.closed.set()
        except (OSError, http.client.HTTPException) as error:
            self.faults.append(error)
        self._connection.close()

    def join(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()


def test_a_plane_that_leaves_closes_kept_connections_with_an_answer(served: Plane) -> None:
    clients = [KeptAlive(served.http) for _ in range(12)]
    eventually(lambda: all(len(client.statuses) > 3 for client in clients), "requests are not served")
    assert not any(client.closed.is_set() for client in clients)
    served.plane.leave()
    for client in clients:
        client.join()
    assert [client.faults for client in clients] == [[]] * 12
    assert {status for client in clients for status in client.statuses} == {200}
    eventually(lambda: served.get("/v2/health/ready")[0] == 503, "it is ready until the end")
    assert json.loads(served.get("/v2/health/ready")[1]) == {"error": "the server is about to stop"}


def test_a_request_that_outlasts_the_patience_of_its_front_end_is_cancelled(site: Any, responder: Any) -> None:
    responder.script = lambda _: None
    assert site.infer(parameters={"timeout": 1000})[0] == 503
    responder.wait_until(lambda: responder.withdrawn == [responder.entered[0].key])
