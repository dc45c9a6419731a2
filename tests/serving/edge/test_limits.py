"""What a front takes of connections, time and memory, over real sockets: each limit, what is said of it, and its count."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from loki_rl.serving.edge import limits
from tests.serving.driving import eventually
from tests.serving.site import INFER, INPUT, Site

BODY = json.dumps({"inputs": [INPUT]}).encode()
POST = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\n".encode()
UPGRADE = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"


@contextmanager
def connected(site: Site, *said: bytes) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", site.port), timeout=60) as client:
        for part in said:
            client.sendall(part)
        yield client


def heard(client: socket.socket) -> bytes:
    """All that is said before the connection is closed."""
    said = b""
    try:
        while part := client.recv(1 << 16):
            said += part
    except ConnectionError:
        pass
    return said


def turned(responder: Any, reason: str) -> int:
    return int(responder.front.turned[reason])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOOK_S", 0.02)


@pytest.fixture
def own(responder: Any) -> Iterator[Site]:
    """A front of its own, whose limits are those at its start."""
    site = Site(responder.endpoint, 4 << 20)
    eventually(lambda: site.ask("GET", "/v2/health/ready")[0] == 200, "the gateway is never ready")
    yield site
    site.close()


# -- time -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [b"", b"\r\n", b"GET /v2 HT", POST + b"X: y"], ids=["nothing", "blank", "line", "header"])
def test_a_head_has_to_end(own: Site, monkeypatch: pytest.MonkeyPatch, responder: Any, said: bytes) -> None:
    monkeypatch.setattr(limits, "HEAD_S", 0.2)
    before = turned(responder, "slow")
    with connected(own, said) as client:
        assert heard(client).startswith(b"HTTP/1.1 408 ")
    eventually(lambda: turned(responder, "slow") == before + 1, "nobody counts it")


def test_who_goes_on_slowly_has_no_more_time(own: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEAD_S", 0.3)
    with connected(own, LIVE) as client:
        client.recv(1000)
        client.settimeout(0.02)
        end = time.monotonic() + 60
        said = b""
        while not said and time.monotonic() < end:
            client.sendall(b"\r\n")
            try:
                said = client.recv(1000)
            except TimeoutError:
                continue
        assert said.startswith(b"HTTP/1.1 408 ")


def test_a_body_has_to_end(own: Site, monkeypatch: pytest.MonkeyPatch, responder: Any) -> None:
    monkeypatch.setattr(limits, "RECEIPT_S", 0.2)
    with connected(own, POST, b"Content-Length: 500\r\n\r\n{") as client:
        assert heard(client).startswith(b"HTTP/1.1 408 ")
    assert own.infer()[0] == 200
    assert len(responder.entered) == 1


def test_an_idle_connection_and_one_that_waits_for_its_answer_stay(
    own: Site, monkeypatch: pytest.MonkeyPatch, responder: Any, ending: Any
) -> None:
    monkeypatch.setattr(limits, "HEAD_S", 0.1)
    monkeypatch.setattr(limits, "RECEIPT_S", 0.1)
    responder.script = lambda _: ending(delay_s=0.4)
    with connected(own, LIVE) as client:
        client.recv(1000)
        assert own.infer()[0] == 200  # four times as long as anything may take to come
        client.sendall(LIVE)
        assert client.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_an_answer_has_to_be_read(own: Site, monkeypatch: pytest.MonkeyPatch, responder: Any) -> None:
    monkeypatch.setattr(limits, "RECEIPT_S", 0.2)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(60)
        client.connect(("127.0.0.1", own.port))
        metrics = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
        client.sendall(metrics * 3000)
        eventually(lambda: turned(responder, "unread"), "it is never closed")


# -- connections ----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["in all", "of a client"])
def few(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, responder: Any) -> Iterator[Site]:
    """A front with room for three connections."""
    if request.param == "in all":
        monkeypatch.setattr(limits, "connections", lambda: 3)
    else:
        monkeypatch.setattr(limits, "MAX_PER_CLIENT", 3)
    monkeypatch.setattr(limits, "RESERVED", 2)
    site = Site(responder.endpoint)
    eventually(lambda: site.ask("GET", "/v2/health/ready")[0] == 200, "the gateway is never ready")
    yield site
    site.close()


def test_probes_are_answered_when_connections_have_run_out(few: Site, responder: Any) -> None:
    before = turned(responder, "connections")
    with ExitStack() as stack:
        for _ in range(3):
            client = stack.enter_context(connected(few, LIVE))
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert few.ask("GET", "/v2/health/live")[0] == 200
        assert few.ask("GET", "/v2/health/ready")[0] == 200
        status, answer, headers = few.ask("POST", INFER, BODY)
        assert (status, answer["error"], headers["Retry-After"]) == (503, "there are too many connections", "1")
        slow = [stack.enter_context(connected(few, b"GET /v2")) for _ in range(5)]
        assert few.ask("GET", "/v2/health/live")[0] == 200
        assert heard(slow[0]) == b"", "the longest there makes room"
        eventually(lambda: turned(responder, "connections") > before + 3, "nobody counts them")
    eventually(lambda: few.ask("POST", INFER, BODY)[0] == 200, "there is no room again")


@pytest.mark.parametrize(
    ("soft", "hard", "room"), [(128, 128, 32), (128, 1 << 12, 1000), (1 << 12, 1 << 12, 1000), (40, 40, 1)]
)
def test_there_is_room_for_as_many_connections_as_descriptors_allow(soft: int, hard: int, room: int) -> None:
    ask = f"import resource as r; r.setrlimit(r.RLIMIT_NOFILE, ({soft}, {hard}))"
    tell = "from loki_rl.serving.edge import limits; print(limits.connections(), r.getrlimit(r.RLIMIT_NOFILE)[0])"
    told = subprocess.run([sys.executable, "-c", f"{ask}; {tell}"], capture_output=True, text=True, check=True)
    assert told.stdout.split() == [str(room), str(max(soft, min(hard, 1096)))]


# -- memory ---------------------------------------------------------------------------------------------------------------


def test_who_holds_most_makes_room(own: Site, monkeypatch: pytest.MonkeyPatch, responder: Any) -> None:
    monkeypatch.setattr(limits, "MAX_HELD_BYTES", 5_000_000)
    before = turned(responder, "memory")
    length = b"Content-Length: 4000000\r\n\r\n"
    with connected(own, POST, length, bytes(1_600_000)), connected(own, POST, length, bytes(3_500_000)) as most:
        assert heard(most).startswith(b"HTTP/1.1 503 ")
        assert own.infer()[0] == 200
        eventually(lambda: turned(responder, "memory") == before + 1, "nobody counts it")


def test_what_a_client_did_not_finish_is_let_go(own: Site, monkeypatch: pytest.MonkeyPatch, responder: Any) -> None:
    monkeypatch.setattr(limits, "MAX_HELD_BYTES", 5 << 20)
    before = turned(responder, "memory")
    for _ in range(5):
        with connected(own, POST, b"Content-Length: 4000000\r\n\r\n", bytes(3_000_000)) as client:
            client.shutdown(socket.SHUT_WR)
            assert heard(client) == b""
        assert own.infer()[0] == 200
    assert turned(responder, "memory") == before


# -- counts ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "reason", "status"),
    [
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", "head", 414),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 101 + b"\r\n", "head", 431),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", "head", 431),
        (b"\x00\xff\r\n\r\n", "unparsable", 400),
        (POST + b"Content-Length: 1\r\n\r\n{", "malformed", 400),
        (POST + UPGRADE + b"Content-Length: 4\r\n\r\n", "malformed", 400),
        (POST + UPGRADE + b"Transfer-Encoding: chunked\r\n\r\n", "malformed", 400),
        (POST + b"Content-Length: 100000000\r\n\r\n", "size", 413),
        (b"POST /loki/run HTTP/1.1\r\nHost: a.example\r\n\r\n", "origin", 403),
    ],
)
def test_refusals_are_counted_by_reason(own: Site, responder: Any, said: bytes, reason: str, status: int) -> None:
    before = turned(responder, reason)
    with connected(own, said) as client:
        assert client.recv(1000).startswith(b"HTTP/1.1 %d " % status)
    eventually(lambda: turned(responder, reason) == before + 1, "nobody counts it")


def test_what_follows_a_wish_for_another_protocol_is_answered(own: Site) -> None:
    """Also where it comes in the same read: who waited for it would wait until the connection is closed."""
    first, last = LIVE.replace(b"\r\n\r\n", b"\r\n" + UPGRADE + b"\r\n"), LIVE.replace(b"Host", b"Connection: close\r\nHost")
    with connected(own, first * 300 + last) as client:
        assert heard(client).count(b"HTTP/1.1 200 ") == 301


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:80"}, 200),
        ({"Host": "127.0.0.1:80"}, 200),
        ({"Host": "[::1]:80"}, 200),
        ({"Host": f"{socket.gethostname()}:80"}, 200),
        ({"Host": "localhost:80", "Origin": "http://localhost:80"}, 200),
        ({"Host": "localhost:80", "Origin": "http://localhost:8080"}, 403),
        ({"Host": "localhost:80", "Origin": "null"}, 403),
        ({"Host": "localhost:80", "Origin": "http://a.example"}, 403),
        ({"Host": "a.example", "Origin": "http://a.example"}, 403),
        ({"Host": "[::"}, 403),
    ],
)
def test_a_run_is_begun_by_who_asks_us_and_not_by_a_page(site: Site, headers: Any, status: int) -> None:
    assert site.ask("POST", "/loki/run", b"", headers)[0] == status
