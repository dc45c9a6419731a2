"""Native clients with keys: a real gateway socket behind the proxy, clients that show a key that is allowed, and strangers
of every kind, who get nothing and cost no request."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from loki_rl.serving.edge import native_proxy
from loki_rl.serving.gateway.client import Client, ClientError, pack_payload
from loki_rl.serving.security.key_folder import ClientKeys, ServerKeys, allow, make_client, make_server
from loki_rl.serving.transport.curve import KeyPair, make_key_pair, secure_client
from loki_rl.serving.transport.protocol import MAX_MESSAGE_BYTES, Infer, encode
from tests.serving.driving import eventually
from tests.serving.edge.test_native_proxy import READY, Running, closed
from tests.serving.edge.test_zmtp import GREETING, frame
from tests.serving.security.relay import Relay

PICTURE = np.zeros(3, np.uint8)


@pytest.fixture
def gateway(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    made = type(request.getfixturevalue("scripted"))(f"ipc://{tmp_path}/front")
    yield made
    made.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Keys of the plane, and of alice, who may come."""
    server = make_server(tmp_path / "plane")
    allow(tmp_path / "plane", "alice", make_client(tmp_path / "alice", server))
    return tmp_path


@pytest.fixture
def running(gateway: Any, folder: Path) -> Iterator[Running]:
    made = Running(gateway.endpoint, ServerKeys(folder / "plane"))
    yield made
    made.close()


def request(id: int = 1) -> list[bytes]:
    return [bytes(encode(Infer(id, "reading", 0.0, 0.0, 0))), pack_payload(PICTURE)]


@contextlib.contextmanager
def dealer(url: str, pair: KeyPair | None = None, server: str = "") -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as made:
        made.linger = 0
        made.setsockopt(zmq.RECONNECT_IVL, -1)
        if pair is not None:
            secure_client(made, pair, server)
        made.connect(url)
        yield made


def served(running: Running, folder: Path) -> None:
    with Client(running.url, keys=folder / "alice") as client:
        assert client.infer(PICTURE).outcome == "ok"


def test_a_client_with_a_key_is_served_and_big_payloads_pass(running: Running, gateway: Any, folder: Path) -> None:
    payload = np.arange(8_000_000, dtype=np.uint8)
    with Client(running.url, keys=folder / "alice") as client:
        for _ in range(4):
            assert client.infer(payload).outcome == "ok"
        ids = [client.submit(PICTURE) for _ in range(500)]
        found: list[Any] = []
        while len(found) < len(ids) and (more := client.poll(60)):
            found += more
        assert sorted(answer.id for answer in found) == ids
    assert len(gateway.entered) == 504
    assert running.proxy.refused == 0
    eventually(lambda: not running.proxy.connections, "a connection is left")
    assert running.proxy.unfinished == 0


def test_nothing_of_a_connection_stays_in_the_folder(running: Running, folder: Path) -> None:
    served(running, folder)
    assert [path.name for path in folder.glob("front*")] == ["front"]


def test_a_key_may_come_and_go_while_the_plane_serves(running: Running, folder: Path) -> None:
    public = make_client(folder / "bob", folder / "plane" / "server.key")
    with Client(running.url, 0.5, keys=folder / "bob") as client, pytest.raises(ClientError, match="let nobody in"):
        client.describe()
    there = allow(folder / "plane", "bob", public)
    with Client(running.url, keys=folder / "bob") as client:
        assert client.infer(PICTURE).outcome == "ok"
    there.unlink()
    with Client(running.url, 0.5, keys=folder / "bob") as client, pytest.raises(ClientError, match="let nobody in"):
        client.describe()
    served(running, folder)


def test_a_file_that_is_no_key_keeps_nobody_in_and_nobody_out(folder: Path) -> None:
    keys = ServerKeys(folder / "plane")
    alice, bob = ClientKeys(folder / "alice").pair.public, make_client(folder / "bob", folder / "plane" / "server.key")
    there = folder / "plane" / "clients"
    (there / "bob.key").touch()  # as while it is copied
    assert keys.allows(alice)
    (there / "alice.key").unlink()
    assert not keys.allows(alice)
    (there / "bob.key").write_bytes(bob.read_bytes())
    assert keys.allows(ClientKeys(folder / "bob").pair.public)
    (there / "bob.key").write_bytes(make_client(folder / "carol", folder / "plane" / "server.key").read_bytes())
    assert not keys.allows(ClientKeys(folder / "bob").pair.public)
    assert keys.allows(ClientKeys(folder / "carol").pair.public)


@pytest.mark.parametrize("who", ["plain", "unknown", "other server"])
def test_other_keys_get_nothing(running: Running, gateway: Any, folder: Path, who: str) -> None:
    mine = ClientKeys(folder / "alice")
    pair, server = {
        "plain": (None, ""),
        "unknown": (make_key_pair(), mine.server),
        "other server": (mine.pair, make_key_pair().public),
    }[who]
    for _ in range(20):
        with dealer(running.url, pair, server) as stranger:
            stranger.send_multipart(request())
            assert not stranger.poll(20)
    served(running, folder)
    assert len(gateway.entered) == 1


def test_forged_letters_get_nothing(running: Running, gateway: Any, folder: Path) -> None:
    """Requests as plain ZMTP, behind a greeting that promises CURVE or does not, before and after what looks like a
    handshake; and sealed ones that nobody's key has sealed."""
    head, tensor = request()
    plain = frame(len(head), True)[:2] + head + frame(len(tensor), False)[:2] + tensor
    curve = GREETING[:12] + b"CURVE".ljust(20, b"\0") + GREETING[32:]
    hello = b"\x04\xc8\x05HELLO\x01\x00" + bytes(72) + bytes(32) + struct.pack(">Q", 1) + bytes(80)
    sealed = bytes((0, 16 + len(plain) + 17)) + b"\x07MESSAGE" + struct.pack(">Q", 3) + bytes(17) + plain
    for greeting in (GREETING, curve):
        for said in (READY + plain, plain, hello + plain, hello + READY + plain, hello + sealed, sealed):
            for _ in range(5):
                assert closed(running.stranger(greeting + said))
    served(running, folder)
    assert len(gateway.entered) == 1


def test_a_recorded_session_cannot_be_said_again(running: Running, gateway: Any, folder: Path) -> None:
    relay = Relay(running.port)
    with Client(f"tcp://127.0.0.1:{relay.port}", keys=folder / "alice") as client:
        assert client.infer(PICTURE).outcome == "ok"
    relay.close()
    (said,) = relay.said
    assert len(said) > 500
    before = len(gateway.entered)
    for _ in range(50):
        peer = running.stranger(said)
        peer.shutdown(socket.SHUT_WR)
        assert closed(peer)
    served(running, folder)
    assert len(gateway.entered) == before + 1


def test_a_message_without_an_end_is_stopped_and_others_are_served(
    running: Running, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_proxy, "RECEIPT_S", 0.5)
    mine = ClientKeys(folder / "alice")
    part = bytes(1 << 20)
    with dealer(running.url, mine.pair, mine.server) as hoarder:
        hoarder.send_multipart([part] * 100)  # of which the end is kept back for as long as nobody reads
        eventually(lambda: running.proxy.unfinished > MAX_MESSAGE_BYTES, "it is not read")
        assert running.proxy.unfinished < MAX_MESSAGE_BYTES + (4 << 20)
        eventually(lambda: running.proxy.refused, "it goes on for ever")
        served(running, folder)
    eventually(lambda: not running.proxy.connections, "a connection is left")
    assert running.proxy.unfinished == 0


def test_a_message_of_too_many_parts_ends_the_connection(running: Running, gateway: Any, folder: Path) -> None:
    mine = ClientKeys(folder / "alice")
    with dealer(running.url, mine.pair, mine.server) as stranger:
        stranger.send_multipart([*request(), b"", b""])
        eventually(lambda: running.proxy.refused == 1, "it is passed on")
    served(running, folder)
    assert len(gateway.entered) == 1


def test_a_gateway_that_is_lost_is_lost_for_clients_with_keys(running: Running, gateway: Any, folder: Path) -> None:
    gateway.script = lambda _: None
    with Client(running.url, keys=folder / "alice") as client:
        client.submit(PICTURE, timeout_s=60.0)
        eventually(lambda: gateway.entered, "it never came")
        gateway.close()
        (answer,) = client.poll(60)
        assert (answer.outcome, answer.reason) == ("failed", "the gateway was lost before it answered")  # type: ignore[union-attr]
        with pytest.raises(ClientError, match="no answer"):
            client.describe(0.2)
    gateway.close = lambda: None


def test_a_client_that_leaves_is_seen_to_leave(running: Running, gateway: Any, folder: Path) -> None:
    gateway.script = lambda _: None
    with Client(running.url, keys=folder / "alice") as client:
        client.submit(PICTURE, timeout_s=60.0)
        eventually(lambda: gateway.entered, "it never came")
    eventually(lambda: not running.proxy.connections, "a connection is left")


def test_strangers_take_no_room_from_clients(running: Running, folder: Path) -> None:
    running.proxy.most_connections = 2
    with Client(running.url, keys=folder / "alice") as client:
        assert client.infer(PICTURE).outcome == "ok"
        silent = [running.stranger() for _ in range(5)]
        assert all(closed(peer) for peer in silent[:-1])
        assert client.infer(PICTURE).outcome == "ok"
        served(running, folder)
        assert closed(silent[-1])
        assert client.infer(PICTURE).outcome == "ok"


def test_many_at_once(running: Running, gateway: Any, folder: Path) -> None:
    faults: list[object] = []

    def ask() -> None:
        try:
            with Client(running.url, keys=folder / "alice") as client:
                faults.extend(one for _ in range(20) if (one := client.infer(PICTURE).outcome) != "ok")
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert len(gateway.entered) == 400
