"""Letters between hosts: inboxes on tcp take what the plane's own nodes write, and nothing else."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise

import pytest
import zmq

from loki_rl.serving.transport import wire
from loki_rl.serving.transport.curve import CurveKeyError, KeyPair, make_key_pair, needs_keys, secure_client
from loki_rl.serving.transport.mailbox import Mailbox
from loki_rl.serving.transport.monitor import Monitor
from loki_rl.serving.transport.wire import ControlWord, Up
from tests.serving.driving import eventually, held_port
from tests.serving.security.relay import Relay

KEYS = make_key_pair()


class Host:
    """A mailbox in a context of its own, as on another host."""

    def __init__(self, name: str, endpoints: dict[str, str], keys: KeyPair | None = KEYS) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        # For nodes of its own host, too, where files have owners.
        self.box = Mailbox(self.context, name, {**endpoints, name: f"inproc://{name}"}, endpoints[name], keys)
        self.words: list[ControlWord] = []

    def heard(self) -> list[ControlWord]:
        self.words += self.box.take(64)[1]
        return self.words

    def close(self) -> None:
        self.box.close()
        self.context.destroy(linger=0)


@pytest.fixture
def endpoints() -> dict[str, str]:
    return {name: f"tcp://127.0.0.1:{held_port()}" for name in ("a", "b")}


@pytest.fixture
def hosts(endpoints: dict[str, str]) -> Iterator[tuple[Host, Host]]:
    a, b = Host("a", endpoints), Host("b", endpoints)
    yield a, b
    a.close()
    b.close()


def test_nodes_of_a_plane_write_to_each_other(hosts: tuple[Host, Host]) -> None:
    a, b = hosts
    for number in range(100):
        a.box.say("b", Up(str(number)))
        b.box.say("a", Up(str(number)))
    expected = [Up(str(number)) for number in range(100)]
    eventually(lambda: len(a.heard()) == len(b.heard()) == 100, "letters are missing")
    assert a.words == b.words == expected


@pytest.mark.parametrize("who", ["plain", "unknown", "other server"])
def test_who_has_not_the_keys_of_the_plane_is_not_heard(
    hosts: tuple[Host, Host], endpoints: dict[str, str], who: str
) -> None:
    a, b = hosts
    stranger = make_key_pair()
    for _ in range(20):
        with zmq.Context() as context, context.socket(zmq.PUSH) as forger:
            forger.linger = 0
            forger.setsockopt(zmq.RECONNECT_IVL, -1)
            if who != "plain":
                pair = stranger if who == "unknown" else KEYS
                secure_client(forger, pair, KEYS.public if who == "unknown" else stranger.public)
            monitor = Monitor(context, forger, zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH)
            forger.connect(endpoints["b"])
            with suppress(zmq.Again):  # it was turned away by then
                forger.send(bytes(wire.encode_control(Up("forged"))), zmq.NOBLOCK)
            assert monitor.handle.poll(20_000), "it is not turned away"
            monitor.close()
    a.box.say("b", Up("true"))
    eventually(b.heard, "the plane's own letter is missing")
    assert b.words == [Up("true")]
    assert (b.box.received, b.box.malformed) == (1, 0)


def test_a_recorded_session_cannot_be_said_again(endpoints: dict[str, str]) -> None:
    b = Host("b", endpoints)
    relay = Relay(int(endpoints["b"].rpartition(":")[2]))
    a = Host("a", {**endpoints, "b": f"tcp://127.0.0.1:{relay.port}"})
    a.box.say("b", Up("true"))
    eventually(b.heard, "the letter is missing")
    a.close()
    relay.close()
    (said,) = relay.said
    assert len(said) > 500
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", int(endpoints["b"].rpartition(":")[2])), timeout=60) as peer:
            peer.sendall(said)
            peer.shutdown(socket.SHUT_WR)
            while peer.recv(1 << 16):
                continue
    assert b.heard() == [Up("true")]
    assert (b.box.received, b.box.malformed) == (1, 0)
    b.close()


@pytest.mark.parametrize("endpoint", ["tcp://0.0.0.0:5555", "tcp://10.0.0.1:5555", "tcp://[::]:5555", "tcp://node:5555"])
def test_without_keys_no_inbox_is_open_to_other_hosts(endpoint: str) -> None:
    assert needs_keys(endpoint)
    with zmq.Context() as context:
        with pytest.raises(CurveKeyError, match="has no keys for its nodes"):
            Mailbox(context, "a", {"a": "inproc://a"}, endpoint)
        box = Mailbox(context, "b", {"b": "inproc://b", "a": endpoint})
        with pytest.raises(CurveKeyError, match="has no keys for its nodes"):
            box.say("a", Up("b"))
        box.close()


def test_files_need_no_keys() -> None:
    assert not any(map(needs_keys, ("ipc:///run/front", "tcp://127.0.0.1:5555", "tcp://localhost:5555", "tcp://[::1]:1")))


def test_what_is_printed_of_a_pair_is_not_its_secret() -> None:
    pairs = [make_key_pair() for _ in range(3)]
    assert all(pair.secret not in repr(pair) and pair.secret not in f"{pair}" for pair in pairs)
    assert all(one != other for one, other in pairwise(pairs))
