"""Native clients over TCP: a real gateway socket behind the proxy, an unmodified client, and strangers who go too far."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop
import zmq

from loki_rl.serving.edge import native_proxy
from loki_rl.serving.edge.native_proxy import Proxy
from loki_rl.serving.gateway.client import Client
from loki_rl.serving.security.key_folder import ServerKeys
from loki_rl.serving.transport.listening import listen
from tests.serving.driving import eventually
from tests.serving.edge.test_zmtp import GREETING, frame

READY = b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"


class Running:
    """A proxy in a thread of its own."""

    def __init__(self, front: str, keys: ServerKeys | None = None) -> None:
        self._loop = uvloop.new_event_loop()
        self._stop = asyncio.Event()
        bound = listen("127.0.0.1", 0)
        bound.listen()
        self.port = bound.getsockname()[1]
        self.proxy = Proxy(front.removeprefix("ipc://"), keys)
        self._thread = threading.Thread(target=self._run, args=(bound,), daemon=True)
        self._thread.start()
        self.url = f"tcp://127.0.0.1:{self.port}"

    def _run(self, bound: socket.socket) -> None:
        self._loop.run_until_complete(self.proxy.serve(bound, self._stop))
        self._loop.close()

    def stranger(self, said: bytes = b"") -> socket.socket:
        peer = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        peer.sendall(said)
        return peer

    def greeted(self, said: bytes) -> socket.socket:
        """A stranger who shakes hands first, as libzmq would."""
        peer = self.stranger(GREETING + READY)
        assert peer.recv(1 << 16)[:1] == b"\xff"
        peer.sendall(said)
        return peer

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


@pytest.fixture
def gateway(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    made = type(request.getfixturevalue("scripted"))(f"ipc://{tmp_path}/front")
    yield made
    made.close()


@pytest.fixture
def running(gateway: Any) -> Iterator[Running]:
    made = Running(gateway.endpoint)
    yield made
    made.close()


def closed(peer: socket.socket) -> bool:
    """Whether the other side ends the connection, whatever it says before."""
    with contextlib.suppress(ConnectionError):
        while peer.recv(1 << 16):
            continue
    peer.close()
    return True


def test_a_client_is_served_and_big_payloads_pass(running: Running, gateway: Any) -> None:
    payload = np.arange(3_000_000, dtype=np.uint8)
    with Client(running.url) as client:
        for _ in range(3):
            assert client.infer(payload).outcome == "ok"
    assert len(gateway.entered) == 3
    assert running.proxy.refused == 0
    eventually(lambda: not running.proxy.connections, "a connection is left")
    assert running.proxy.unfinished == 0


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        GREETING + READY + frame(0, True) * 100_000,
        GREETING + READY + frame(200, True) * 100_000,
        GREETING + READY + b"\x02" + (1 << 40).to_bytes(8, "big"),
    ],
)
def test_who_goes_too_far_loses_the_connection_and_others_are_served(
    running: Running, said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with Client(running.url) as client:
        assert client.infer(np.zeros(3, np.uint8)).outcome == "ok"
        peer = running.stranger()
        with contextlib.suppress(ConnectionError):
            peer.sendall(said)
        assert closed(peer)
        assert client.infer(np.zeros(3, np.uint8)).outcome == "ok"
    assert running.proxy.refused == 1
    assert caplog.text.count("is closed: ") == 1


def test_what_begins_and_does_not_end_in_time_is_closed(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_proxy, "RECEIPT_S", 0.0)
    peer = running.stranger(GREETING + READY + frame(9, True))
    assert closed(peer)
    assert running.proxy.unfinished == 0


def test_unfinished_messages_share_one_limit(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_proxy, "MAX_UNFINISHED_BYTES", 1500)
    first = running.greeted(frame(1000, True))
    eventually(lambda: running.proxy.unfinished == 1000, "it never came")
    assert closed(running.greeted(frame(1000, True)))
    eventually(lambda: running.proxy.unfinished == 1000, "what was refused is still counted")
    first.close()
    eventually(lambda: running.proxy.unfinished == 0, "who left is still counted")


@pytest.mark.parametrize(("files", "most"), [(-1, 400), (1 << 20, 400), (1024, 400), (512, 156), (64, 8)])
def test_where_few_files_may_be_open_fewer_connect(files: int, most: int) -> None:
    assert native_proxy.most_connections(files) == most


def test_only_so_many_connect(running: Running) -> None:
    running.proxy.most_connections = 2
    kept = [running.stranger(), running.stranger()]
    eventually(lambda: len(running.proxy.connections) == 2, "not connected")
    assert closed(running.stranger())
    kept.pop().close()
    eventually(lambda: len(running.proxy.connections) == 1, "not gone")
    with Client(running.url) as client:
        assert client.infer(np.zeros(3, np.uint8)).outcome == "ok"
    kept.pop().close()


def test_without_a_gateway_connections_end_and_clients_find_it_later(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    running = Running(f"ipc://{tmp_path}/front")
    assert closed(running.stranger())
    with zmq.Context() as context, context.socket(zmq.DEALER) as early:
        early.linger = 0
        early.connect(running.url)
        later = type(request.getfixturevalue("scripted"))(f"ipc://{tmp_path}/front")
        with Client(running.url) as client:
            assert client.infer(np.zeros(3, np.uint8)).outcome == "ok"
    running.close()
    later.close()
