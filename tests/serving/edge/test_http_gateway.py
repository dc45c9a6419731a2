"""The HTTP front end and the gateway behind it: readiness, a gateway that is absent, silent or back; and its process."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
from typing import Any

import pytest

from loki_rl.serving.transport.listening import listen
from tests.serving.driving import eventually
from tests.serving.site import INFER, NOT_READY, Site


def test_readiness_follows_the_gateway(site: Site, responder: Any) -> None:
    responder.front.ready = False
    eventually(lambda: site.ask("GET", "/v2/health/ready")[0] == 503, "readiness is never asked again")
    status, answer, headers = site.ask("GET", "/v2/models/reading/ready")
    assert (status, answer["error"], headers["Retry-After"]) == (503, NOT_READY, "1")
    assert site.ask("GET", "/v2/health/live")[0] == 200
    responder.front.ready = True
    eventually(lambda: site.ask("GET", "/v2/health/ready")[0] == 200, "readiness is never asked again")


def test_without_a_gateway_everything_but_live_is_503_at_once() -> None:
    site = Site("tcp://127.0.0.1:9")
    assert site.ask("GET", "/v2/health/live")[0] == 200
    for method, path in (
        ("GET", "/v2/health/ready"),
        ("GET", "/v2/models/reading"),
        ("POST", INFER),
        ("GET", "/loki/ledger"),
    ):
        status, answer, _ = site.ask(method, path, b"")
        assert (status, answer["error"]) == (503, "the gateway is not there")
    site.close()


def test_a_gateway_that_comes_back_is_found_again(request: pytest.FixtureRequest) -> None:
    responder_class = type(request.getfixturevalue("emulated"))
    first = responder_class()
    site = Site(first.endpoint)
    assert site.infer()[0] == 200
    first.close()
    assert site.ask("GET", "/v2/health/ready")[0] == 503
    second = responder_class(first.endpoint)
    assert any(site.ask("GET", "/v2/health/ready")[0] == 200 for _ in range(5000))
    assert site.infer()[0] == 200
    site.close()
    second.close()


def test_a_gateway_that_does_not_answer_is_503_in_bounded_time(site: Site, responder: Any) -> None:
    responder.script = lambda _: None
    status, answer, _ = site.infer(parameters={"timeout": 1000})
    assert (status, answer["error"]) == (503, "the gateway does not answer")


def test_runs_and_ledger_over_http(site: Site, responder: Any) -> None:
    site.infer()
    assert site.ask("POST", "/loki/run")[:2] == (200, {"origin_s": responder.origin})
    site.infer()
    status, ledger, _ = site.ask("GET", "/loki/ledger")
    assert status == 200
    assert ledger["tally"]["seconds"]["0"]["arrivals"] == 1


# -- the process ---------------------------------------------------------------------------------------------------------


def test_the_process_serves_until_sigterm_and_a_taken_port_is_exit_2(responder: Any) -> None:
    bound = listen("127.0.0.1", 0)
    port = bound.getsockname()[1]
    command = [sys.executable, "-m", "loki_rl.serving.edge.http", "--front", responder.endpoint, "--port", str(port)]
    bound.listen(1)
    taken = subprocess.run(command, capture_output=True, text=True, check=False)
    assert taken.returncode == 2
    assert taken.stderr.startswith(f"http: cannot listen on 127.0.0.1:{port}: ")
    bound.close()
    with subprocess.Popen(command) as process:
        assert _connected(port)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/v2/health/live")
        assert connection.getresponse().status == 200
        connection.close()
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM)


def _connected(port: int) -> bool:
    """Start-up takes a second; connecting is the only sign of its end from outside."""
    pause = threading.Event()
    for _ in range(3000):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True
        except ConnectionRefusedError:
            pause.wait(0.02)
    return False
