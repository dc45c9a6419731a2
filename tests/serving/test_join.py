"""Nodes that join a running plane over loopback: their workers serve, and with the node its workers are lost, no request."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from msgspec.structs import replace

from loki_rl.config import load_pipeline
from loki_rl.core.messages import Outcome
from loki_rl.core.options import ClusterOptions
from loki_rl.serving.agent import Agent, JoinError, free_ports
from loki_rl.serving.client import Client
from loki_rl.serving.guests import Guests
from loki_rl.serving.launch import LaunchError, LocalPlane, layout
from loki_rl.serving.loopback import LoopbackError, check_loopback
from loki_rl.serving.plane import PlaneFile, pack_options
from loki_rl.serving.wire import Alive, Control, Declined, Join, Joined, Known, Left, Lost, Welcome
from tests.serving.driving import drive, eventually, patient

SERVERS = 4


@pytest.fixture(scope="module")
def options() -> ClusterOptions:
    return ClusterOptions(patient(load_pipeline("traffic").pipeline), SERVERS, interval_s=0.5)


@contextmanager
def joinable(options: ClusterOptions) -> Iterator[tuple[LocalPlane, Client, str]]:
    (port,) = free_ports(1)
    policy = {"servers": SERVERS, "initial_rps": 20.0}
    plane = LocalPlane(options, policy="hardware", policy_options=policy, join_port=port, check=True)
    with plane, Client(plane.front) as client:
        client.wait_ready()
        client.begin_run()
        yield plane, client, f"tcp://127.0.0.1:{port}"


@contextmanager
def joined(join: str, workers: int) -> Iterator[subprocess.Popen[str]]:
    """`loki-rl node` as a user runs it, once it says that it has joined."""
    command = [sys.executable, "-m", "loki_rl", "node", "--join", join, "--workers", str(workers)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "joined" in line, line
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def servers(client: Client) -> set[int]:
    control = client.state().control
    return set() if control is None else {worker.number for worker in control.workers}


def test_the_workers_of_a_node_serve_and_are_lost_with_it_without_a_request(options: ClusterOptions) -> None:
    with joinable(options) as (plane, client, join), joined(join, 2) as node:
        eventually(lambda: servers(client) == set(range(SERVERS + 2)), "the workers never reported")
        eventually(lambda: plane.guests == 2, "the launcher does not count them")

        def kill(age: float) -> None:
            if age > 1.0 and node.poll() is None:
                os.kill(node.pid, signal.SIGKILL)

        ended = drive(client, 4.0, 20.0, kill)
        assert ended.keys() <= {"ok", "late"}, "what they had is given to others"
        eventually(lambda: plane.guests == 0, "the launcher does not notice")
        eventually(lambda: servers(client) == set(range(SERVERS)), "the controller still counts on them")
        tally = client.ledger().tally
        assert tally.arrivals == sum(tally.outcome(outcome) for outcome in Outcome) == sum(ended.values())
        plane.check()


def test_a_node_leaves_in_good_order_and_its_killed_worker_comes_back(options: ClusterOptions) -> None:
    with joinable(options) as (plane, client, join):
        with Agent(join, 1) as agent:
            assert agent.numbers == [SERVERS]
            thread = threading.Thread(target=agent.run)
            thread.start()
            eventually(lambda: SERVERS in servers(client), "the worker never reported")
            former = agent.children[f"{agent.name}-0"].pid
            os.kill(former, signal.SIGKILL)
            eventually(lambda: former not in [child.pid for child in list(agent.children.values())], "nobody noticed")
            eventually(lambda: SERVERS not in servers(client), "the controller was not told")
            eventually(lambda: SERVERS in servers(client), "its successor never reported")
            agent.stop()
            thread.join()
        eventually(lambda: plane.guests == 0, "the launcher was not told")
        eventually(lambda: servers(client) == set(range(SERVERS)), "the controller still counts on it")
        plane.check()


def test_a_node_stops_when_its_plane_is_gone(options: ClusterOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loki_rl.serving.agent.SILENT_S", 0.5)
    with ExitStack() as stack:
        with joinable(options) as (_, _, join):
            agent = stack.enter_context(Agent(join, 1))
        with pytest.raises(JoinError, match="is gone; its workers here have stopped"):
            agent.run()


# -- the launcher's side ----------------------------------------------------------------------------------------------------


class Desk:
    """Guests of a plane that is only written down; what they are told is kept."""

    def __init__(self, options: ClusterOptions) -> None:
        self.said: list[tuple[str, Control]] = []
        self.lost: list[tuple[str, str]] = []
        self.plane = PlaneFile(pack_options(options), layout(options, "emulated"), "ipc://front", guests=True)
        self.guests = Guests(
            self.plane,
            lambda node, word: self.said.append((node, word)),
            lambda *_: None,
            lambda node, endpoint, _: self.lost.append((node.name, endpoint)),
        )
        self.peers = [node.name for node in self.plane.nodes if not node.is_worker]

    def join(self, *workers: str, now: float = 0.0) -> None:
        self.guests.hear(Join("tcp://127.0.0.1:7000", list(workers)), {}, now)

    def know(self) -> None:
        for peer in self.peers:
            self.guests.hear(Known("guest-1", peer), dict.fromkeys(self.peers, "tcp://127.0.0.1:1"), 0.0)


def test_a_node_is_welcome_once_everybody_knows_its_workers(options: ClusterOptions) -> None:
    desk = Desk(options)
    desk.join("tcp://127.0.0.1:7001", "tcp://127.0.0.1:7002")
    assert [(node, type(word)) for node, word in desk.said] == [(peer, Joined) for peer in desk.peers]
    desk.said.clear()
    desk.know()
    ((node, word),) = desk.said
    assert isinstance(word, Welcome)
    assert (node, word.name, desk.guests.workers) == ("guest-1", "guest-1", 2)


def test_numbers_are_never_given_twice(options: ClusterOptions) -> None:
    desk = Desk(options)
    for _ in range(2):
        desk.join("tcp://127.0.0.1:7001")
        desk.guests.hear(Left(f"guest-{desk.guests._count}"), {}, 0.0)
    actors = [word.nodes[0][2] for node, word in desk.said if node == "gateway" and isinstance(word, Joined)]
    assert actors == [[f"worker:{SERVERS}"], [f"worker:{SERVERS + 1}"]]


def test_a_silent_node_is_given_up_and_one_that_is_heard_of_is_not(options: ClusterOptions) -> None:
    desk = Desk(options)
    desk.join("tcp://127.0.0.1:7001")
    desk.guests.hear(Alive("guest-1"), {}, 2.9)
    desk.guests.watch(5.8)
    assert not desk.lost
    desk.guests.watch(6.0)
    assert desk.lost == [("guest-1-0", "tcp://127.0.0.1:7001")]
    assert desk.guests.workers == 0


def test_the_successor_of_a_worker_has_an_address_of_its_own(options: ClusterOptions) -> None:
    desk = Desk(options)
    desk.join("tcp://127.0.0.1:7001")
    desk.guests.hear(Lost("guest-1", "guest-1-0", "signal 9", "tcp://127.0.0.1:7009"), {}, 0.0)
    assert desk.lost == [("guest-1-0", "tcp://127.0.0.1:7009")]
    assert desk.guests.workers == 1
    desk.guests.hear(Lost("guest-1", "guest-1-0", "signal 9", ""), {}, 0.0)
    assert desk.guests.workers == 0


@pytest.mark.parametrize(
    ("endpoint", "workers", "sentence"),
    [
        ("tcp://10.0.0.7:7000", ["tcp://127.0.0.1:7001"], "is not on this host"),
        ("tcp://127.0.0.1:7000", ["tcp://example.org:7001"], "is not on this host"),
        ("tcp://127.0.0.1:7000", [], "1 to 64 workers, not 0"),
    ],
)
def test_what_comes_from_outside_is_checked(
    options: ClusterOptions, endpoint: str, workers: list[str], sentence: str
) -> None:
    desk = Desk(options)
    desk.guests.hear(Join(endpoint, workers), {}, 0.0)
    ((_, word),) = desk.said
    assert isinstance(word, Declined)
    assert sentence in word.reason
    assert not desk.guests.open


# -- addresses --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:1", "tcp://127.8.8.8:9", "tcp://localhost:70", "tcp://[::1]:70"])
def test_this_host(endpoint: str) -> None:
    assert check_loopback(endpoint) == endpoint


@pytest.mark.parametrize(
    ("endpoint", "sentence"),
    [
        ("tcp://192.168.1.5:7000", "planes have no keys yet"),
        ("tcp://0.0.0.0:7000", "planes have no keys yet"),
        ("tcp://node.example:7000", "planes have no keys yet"),
        ("http://127.0.0.1:7000", r"write tcp://127.0.0.1:PORT"),
        ("tcp://127.0.0.1", r"write tcp://127.0.0.1:PORT"),
        ("tcp://127.0.0.1:port", r"write tcp://127.0.0.1:PORT"),
        ("tcp://[::1", r"write tcp://127.0.0.1:PORT"),
    ],
)
def test_elsewhere(endpoint: str, sentence: str) -> None:
    with pytest.raises(LoopbackError, match=sentence):
        check_loopback(endpoint)


def test_nobody_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loki_rl.serving.agent.ANSWER_S", 0.1)
    (port,) = free_ports(1)
    with pytest.raises(JoinError, match="no plane answers at"), Agent(f"tcp://127.0.0.1:{port}", 1):
        pass


def test_a_taken_port_is_told_at_the_start(options: ClusterOptions) -> None:
    with joinable(replace(options, servers=SERVERS)) as (_, _, join):
        plane = LocalPlane(options, join_port=int(join.rpartition(":")[2]))
        with pytest.raises(LaunchError, match="nodes cannot join at"), plane:
            pass
