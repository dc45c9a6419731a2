"""A real front in a process of its own, and everything of the corpus over real sockets."""

from __future__ import annotations

import http.client
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from loki_rl.serving.process.child import Child, python, wait_for_end
from loki_rl.serving.transport.listening import hold
from tests.serving.driving import eventually
from tests.serving.edge.hostile import ANSWERED, CORPUS, INFER, Hostile, head, request, send


class Front(Struct):
    """A front in a process of its own."""

    port: int
    log: Path
    pid: int = 0

    def resident_mb(self) -> float:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize() / (1 << 20)

    def ask(self, method: str, path: str, body: bytes | None = None) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body)
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()


@pytest.fixture(scope="module")
def gateway(scripted: Any) -> Iterator[Any]:
    """One of a pipeline without payloads."""
    running = type(scripted)(engine="emulated")
    yield running
    running.close()


@pytest.fixture(scope="module")
def front(gateway: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    held = hold("127.0.0.1", 0)
    front = Front(held.getsockname()[1], tmp_path_factory.mktemp("front") / "log")
    where = ("--front", gateway.endpoint, "--port", str(front.port), "--tethered")
    child = Child("http", python("loki_rl.serving.edge.http", *where), front.log)
    front.pid = child.pid
    try:
        eventually(lambda: front.ask("GET", "/v2/health/ready") == 200, "the front is never ready")
        yield front
    finally:
        child.terminate()
        assert wait_for_end(child, 60)
        assert child.reap() in (0, -signal.SIGTERM)
        held.close()


def test_the_corpus_has_sixty_inputs_and_more() -> None:
    assert len({hostile.name for hostile in CORPUS}) == len(CORPUS) >= 60


@pytest.mark.parametrize("hostile", CORPUS, ids=lambda hostile: hostile.name)
def test_what_means_no_good_is_refused_without_a_word_in_the_log(front: Front, gateway: Any, hostile: Hostile) -> None:
    gateway.renew()
    statuses = send(front.port, hostile)
    assert all(400 <= status < 500 for status in statuses), statuses
    assert statuses or hostile.name not in ANSWERED
    assert not gateway.entered
    assert front.ask("GET", "/v2/health/live") == 200
    assert front.ask("POST", INFER, request()) == 200
    assert front.log.read_text() == ""


def test_memory_is_given_back_after_a_flood(front: Front) -> None:
    before = front.resident_mb()
    with ExitStack() as stack:
        for _ in range(8):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", front.port), timeout=60))
            client.sendall(head("Content-Length: 30000000", method="POST", target=INFER) + bytes(25_000_000))
        eventually(lambda: front.resident_mb() > before + 150, "it does not hold what comes")
    eventually(lambda: front.resident_mb() < before + 80, "it keeps what it does not need")
