"""Clients that vanish: what they had in flight is withdrawn, and what others have is not."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from loki_rl.core.effects import Reply
from loki_rl.core.messages import GATEWAY, Abandoned, Outcome
from loki_rl.core.options import ClusterOptions
from loki_rl.serving.gateway.client import Client
from loki_rl.serving.gateway.client_socket import Entered
from loki_rl.serving.gateway.departures import Departures
from loki_rl.serving.process.launch import LocalPlane
from loki_rl.serving.transport.driver import Delivery
from loki_rl.serving.transport.protocol import Beat, Infer, encode
from loki_rl.serving.transport.timers import Timers
from tests.serving.driving import eventually
from tests.serving.gateway.test_client_socket import Peer

# Sends as many requests as its argument says, tells of it, and stays.
LEAVER = """
import signal, sys
from loki_rl.serving.gateway.client import Client
with Client(sys.argv[1]) as client:
    for _ in range(int(sys.argv[2])):
        client.submit(timeout_s=60.0)
    client.state()
    print("sent", flush=True)
    signal.pause()
"""


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


def collected(departures: Departures, timers: Timers, until: Any) -> list[Delivery]:
    """What a driver would be given by the two sources until a condition holds."""
    poller = zmq.Poller()
    poller.register(departures.handle, zmq.POLLIN)
    poller.register(timers.handle, zmq.POLLIN)
    found: list[Delivery] = []
    while not until(found):
        ready = dict(poller.poll(5000))
        assert ready, "nothing happens"
        if departures.handle in ready:
            found += departures.collect(time.monotonic())
        if timers.handle in ready:
            found += timers.collect(time.monotonic())
    return found


def test_requests_of_a_client_that_left_are_withdrawn_and_those_of_others_stay(peer: Peer) -> None:
    timers = Timers()
    departures = Departures(peer.front, timers)
    mine = [peer.enter(id).key for id in (1, 2)]
    gone, peer.socket = peer.socket, peer.connect()
    other = peer.enter(1)
    gone.close(linger=0)
    (letter, frames), *more = collected(departures, timers, bool)
    assert (letter.to, letter.message, list(frames), more) == (GATEWAY, Abandoned(mine), [], [])
    for key in mine:
        peer.front.reply(Reply(key, 1, Outcome.CANCELLED, 0.1, 0.0, [], 1, "cancelled by the client"))
    assert peer.front.vanished == 2
    assert peer.front.departed() == []
    peer.front.reply(Reply(other.key, 2, Outcome.OK, 0.1, 1.0, [], 0, ""))
    answers = [peer.answer()[0]]
    while isinstance(answers[-1], Beat):
        answers.append(peer.answer()[0])
    assert answers[-1].id == 1
    timers.close()


def test_a_client_without_requests_may_come_and_go(peer: Peer) -> None:
    timers = Timers()
    departures = Departures(peer.front, timers)
    entered = peer.enter()
    for number in range(20):
        visitor = peer.connect()
        visitor.send(encode(Infer(number, "chain")))
        assert peer.front.socket.poll(5000)
        (event,) = peer.front.receive()
        assert isinstance(event, Entered)
        peer.front.reply(Reply(event.key, 1, Outcome.OK, 0.1, 1.0, [], 0, ""))
        assert visitor.poll(5000)
        visitor.close(linger=0)
    quiet = time.monotonic() + 0.3
    poller = zmq.Poller()
    poller.register(departures.handle, zmq.POLLIN)
    poller.register(timers.handle, zmq.POLLIN)
    while time.monotonic() < quiet:
        for handle, _ in poller.poll(50):
            source = timers if handle == timers.handle else departures
            assert list(source.collect(time.monotonic())) == []
    peer.front.reply(Reply(entered.key, 1, Outcome.OK, 0.1, 1.0, [], 0, ""))
    timers.close()


@pytest.mark.parametrize("native", ["", "tcp://127.0.0.1"])
def test_a_plane_does_not_run_what_a_killed_client_had_in_flight(
    quick_traffic: ClusterOptions, monkeypatch: pytest.MonkeyPatch, native: str
) -> None:
    folder = Path(tempfile.mkdtemp(prefix="lt-"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    settings: Any = {"policy": "static", "policy_options": {"servers": 6, "demand_rps": 20.0}}
    if native:
        settings["native"] = f"{native}:0"
    with LocalPlane(quick_traffic, **settings, check=True) as plane, Client(plane.front) as witness:
        command = [sys.executable, "-c", LEAVER, plane.native or plane.front, "3000"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as leaver:
            assert leaver.stdout is not None
            assert leaver.stdout.readline() == b"sent\n"
            os.kill(leaver.pid, signal.SIGKILL)
        eventually(lambda: not witness.state().requests.in_flight, "the requests of a client that is gone stay in flight")
        requests = witness.state().requests
        assert requests.arrivals == 3000 == sum(requests.outcomes)
        assert requests.outcomes[Outcome.CANCELLED] > 2000
        assert witness.infer(timeout_s=30.0).outcome == "ok"
    shutil.rmtree(folder)


def test_a_client_that_gives_up_cancels(responder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loki_rl.serving.gateway.client.PATIENCE_S", 0.0)
    responder.script = lambda _: None
    with Client(responder.endpoint) as client, pytest.raises(Exception, match="no answer from"):
        client.infer(b"\x89PNG", timeout_s=0.05)
    responder.wait_until(lambda: responder.withdrawn == [responder.entered[0].key])
