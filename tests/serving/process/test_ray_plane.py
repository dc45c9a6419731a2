"""A plane on a Ray cluster: several hosts on this machine, an address of loopback each. What is lost with a host, and what
one that joins is used for."""

from __future__ import annotations

import socket
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from msgspec.structs import replace

pytest.importorskip("ray", reason="Ray is not installed; run 'make ray'")

import ray
import tritonclient.grpc
import tritonclient.http

from loki_rl.core.options import ClusterOptions
from loki_rl.core.servers.server_type import ServerType
from loki_rl.files.config import PipelineFile, load_pipeline
from loki_rl.reading.scenes import scenes
from loki_rl.serving.gateway.client import Client, Inference
from loki_rl.serving.plane import PlaneFile
from loki_rl.serving.process import supervisor
from loki_rl.serving.process.launch import LaunchError, LocalPlane
from loki_rl.serving.process.ray_launcher import RayLauncher
from loki_rl.serving.process.supervisor import Supervisor
from loki_rl.serving.transport.addresses import native_server
from loki_rl.serving.transport.curve import make_key_pair, secure_client
from tests.ray_hosts import RayHosts
from tests.serving.driving import PATIENCE_S, eventually
from tests.serving.security.relay import Relay

RPS = 80.0
EXACT: dict[str, Any] = {"policy": "exact", "policy_options": {"initial_rps": RPS}, "check": True}
STATIC: dict[str, Any] = {"policy": "static", "policy_options": {"servers": 6, "demand_rps": 200.0}, "check": True}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has no host after three seconds is told of, and not waited for where it can be done without."""
    monkeypatch.setattr(supervisor, "PLACE_S", 3.0)


def watch_of(plane: LocalPlane) -> Supervisor:
    assert plane._supervisor is not None
    return plane._supervisor


def as_it_is(plane: LocalPlane) -> PlaneFile:
    return watch_of(plane)._roster.plane


class Crowd:
    """Requests at a steady rate, and how often each was answered."""

    def __init__(self, client: Client, rps: float) -> None:
        self.client, self.rps, self.began = client, rps, time.monotonic()
        self.sent: list[int] = []
        self.answers: Counter[int] = Counter()
        self.outcomes: Counter[str] = Counter()

    def go_on(self) -> None:
        """Send what is due and take what has come."""
        while len(self.sent) < (time.monotonic() - self.began) * self.rps:
            self.sent.append(self.client.submit(timeout_s=PATIENCE_S))
        self._take(0.005)

    def until(self, done: Any, what: str) -> None:
        def ready() -> bool:
            self.go_on()
            return bool(done())

        eventually(ready, what)

    def end(self) -> None:
        def ended() -> bool:
            self._take(0.05)
            return self.answers.total() >= len(self.sent)

        eventually(ended, "an answer is missing")

    def _take(self, wait_s: float) -> None:
        for answer in self.client.poll(wait_s):
            assert isinstance(answer, Inference)
            self.answers[answer.id] += 1
            self.outcomes[answer.outcome] += 1


def serving(client: Client) -> int:
    """Workers that the controller plans with and that serve something."""
    control = client.state().control
    return 0 if control is None else sum(bool(one.serving) for one in control.workers)


@pytest.mark.timeout(180)
def test_a_lost_host_costs_no_request_and_one_that_joins_is_used(ray_hosts: RayHosts, quick_traffic: ClusterOptions) -> None:
    """Three processes of two workers each, of which a host takes one: two hosts at first, then three, two and three."""
    ray_hosts.keep(1)
    options = replace(quick_traffic, pool=(ServerType("slot", 6),))
    launcher = RayLauncher(options, ray_hosts.address)
    plane = LocalPlane(options, **EXACT, launcher=launcher, worker_processes=3, layout="compact")
    with plane, Client(plane.front) as client:
        assert as_it_is(plane).node("controller").host == ""
        client.begin_run()
        crowd = Crowd(client, RPS)
        crowd.until(lambda: len(plane.absent) == 1 and serving(client) == 4, "a plane does not begin with what is there")
        crowd.until(lambda: len(crowd.answers) > 20, "nothing is answered")
        third = ray_hosts.add()
        crowd.until(lambda: not plane.absent and serving(client) == 6, "a host that joins is not used")
        ray_hosts.lose(third)
        crowd.until(lambda: plane.ended and serving(client) == 4, "the loss was not noticed")
        crowd.until(lambda: plane.absent, "what was there has no host, and nobody says so")
        ray_hosts.add()
        crowd.until(lambda: not plane.absent and serving(client) == 6, "what was lost does not come back on a new host")
        whole(crowd)


def test_routers_go_where_there_is_room_and_survive_the_loss_of_their_host(
    ray_hosts: RayHosts, quick_traffic: ClusterOptions
) -> None:
    """By a clock of their own. At last they find a place beside the gateway."""
    full = [ray_hosts.hold(address) for address in (ray_hosts.home, *ray_hosts.others)]
    free = [ray_hosts.add() for _ in range(2)]
    launcher = RayLauncher(quick_traffic, ray_hosts.address)
    changes: dict[str, Any] = {"node": ("tests.serving.process.elsewhere",), "history": Path("/nowhere/demand.json")}
    plane = LocalPlane(quick_traffic, **STATIC, **changes, launcher=launcher, worker_processes=2, start_s=90.0)
    try:
        with plane, Client(plane.front) as client:
            names = {one.name for one in as_it_is(plane).nodes}
            eventually(lambda: names <= watch_of(plane).up, "one has no place")
            where = {one.name: one.host for one in as_it_is(plane).nodes}
            assert where.pop("gateway") == ""
            assert {*where.values()} <= {*free}
            turned_away(as_it_is(plane))
            said_again(as_it_is(plane))
            client.begin_run()
            crowd = Crowd(client, RPS)
            crowd.until(lambda: len(crowd.answers) > 20, "nothing is answered")
            ray_hosts.lose(where["router-0"])
            # Two of the six processes find no room on the host that is left.
            crowd.until(lambda: plane.absent, "nobody says that there is no room")
            ray.kill(full.pop(0))
            eventually(lambda: kinds(client) == {"history", "room"}, "what is amiss is not told")
            crowd.until(lambda: {*where} <= watch_of(plane).up, "what was lost does not come back")
            whole(crowd)
    finally:
        for held in full:
            ray.kill(held)
    assert {bye.malformed for name, bye in plane.byes.items() if name != "gateway"} == {0}
    assert plane.byes["gateway"].malformed == 1  # what has been recorded, once


def kinds(client: Client) -> set[str]:
    """Of troubles."""
    return {trouble.kind for trouble in client.state().troubles}


def turned_away(described: PlaneFile) -> None:
    """Nobody without the keys of a plane reaches a node."""
    assert described.keys is not None
    with zmq.Context() as context:
        for node in (described.launcher, *described.nodes):
            for keys in (None, make_key_pair()):
                socket = context.socket(zmq.PUSH)
                socket.setsockopt(zmq.LINGER, 0)
                if keys is not None:
                    secure_client(socket, keys, described.keys.public)
                # Only where it is let in is there anybody to send to.
                socket.setsockopt(zmq.IMMEDIATE, 1)
                socket.setsockopt(zmq.SNDTIMEO, 100)
                socket.connect(described.outside(node))
                with pytest.raises(zmq.Again):
                    socket.send(b"garbage")
                socket.close()


def said_again(described: PlaneFile) -> None:
    """What somebody with the keys once said to the gateway, handshake and all, is nothing when it is said again."""
    assert described.keys is not None
    host, port = native_server(described.outside(described.node("gateway")))
    relay = Relay(port, host)
    with zmq.Context() as context, context.socket(zmq.PUSH) as peer:
        secure_client(peer, described.keys, described.keys.public)
        peer.connect(f"tcp://127.0.0.1:{relay.port}")
        peer.send(b"garbage")
    relay.close()
    (said,) = relay.said
    assert len(said) > 500
    for _ in range(20):
        with socket.create_connection((host, port), timeout=60) as stranger:
            stranger.sendall(said)
            stranger.shutdown(socket.SHUT_WR)
            while stranger.recv(1 << 16):
                continue


def whole(crowd: Crowd) -> None:
    """All that was asked is answered, once, and the ledger knows no more."""
    crowd.end()
    assert set(crowd.answers) == set(crowd.sent)
    assert set(crowd.answers.values()) == {1}
    assert crowd.client.unasked == 0
    assert crowd.outcomes == {"ok": len(crowd.sent)}
    counted = [second.outcomes for second in crowd.client.ledger().tally.seconds.values()]
    assert sum(map(sum, counted)) == len(crowd.sent)


def test_a_cluster_without_room_is_one_sentence(ray_hosts: RayHosts, quick_traffic: ClusterOptions) -> None:
    """Where nobody offers such a server."""
    options = replace(quick_traffic, pool=(ServerType("nowhere", 6),))
    launcher = RayLauncher(options, ray_hosts.address)
    plane = LocalPlane(options, **STATIC, launcher=launcher, worker_processes=1, layout="compact", start_s=5.0)
    sentence = r"no host of the cluster has room for (\S+, )?workers-0 within 5 s"
    with pytest.raises(LaunchError, match=sentence), plane:
        pass


def test_routers_go_to_the_host_of_the_launcher_or_together_to_the_largest(
    ray_hosts: RayHosts, quick_traffic: ClusterOptions
) -> None:
    """Where that of the launcher offers none of its cores."""
    launcher = RayLauncher(quick_traffic, ray_hosts.address)
    ids = {host["NodeManagerAddress"]: host["NodeID"] for host in ray.nodes() if host["Alive"]}
    for address, near in ((ray_hosts.home, ray_hosts.home), (ray_hosts.others[0],) * 2, ("10.0.0.1", ray_hosts.home)):
        launcher.address = address
        assert launcher._near() == ids[near]


@pytest.mark.timeout(180)
def test_models_on_two_hosts_answer_as_on_one(ray_hosts: RayHosts, reading: PipelineFile, fonts: tuple[Path, ...]) -> None:
    """Also by clients of Triton."""
    options = ClusterOptions(load_pipeline(reading.path, slo_ms=10_000.0).pipeline, 2)
    pictures = [scene.jpeg for scene in scenes(3, 7, fonts)]
    static: dict[str, Any] = {"policy": "static", "policy_options": {"servers": 2, "demand_rps": 0.5}}
    common: dict[str, Any] = {"engine": "onnx", "pipeline_file": str(reading.path), **static}
    launcher = RayLauncher(options, ray_hosts.address)
    with LocalPlane(options, **common, launcher=launcher, http_port=0, grpc_port=0) as plane:
        described = as_it_is(plane)
        assert described.node("workers-0").host != described.node("workers-1").host
        placed = answers(plane, pictures)
        standard = [
            asked(module, f"127.0.0.1:{port}", pictures[0])
            for module, port in ((tritonclient.http, plane.http_port), (tritonclient.grpc, plane.grpc_port))
        ]
    with LocalPlane(options, **common) as plane:
        here = answers(plane, pictures)
    assert placed == here
    assert any(placed)
    assert standard == [here[0]] * 2


def answers(plane: LocalPlane, pictures: list[bytes]) -> list[list[bytes]]:
    """What a plane of real models says of each picture."""
    with Client(plane.front) as client:
        found = [client.infer(picture, timeout_s=PATIENCE_S) for picture in pictures]
    assert {one.outcome for one in found} == {"ok"}
    return [[output.tobytes() for output in one.outputs] for one in found]


def asked(module: Any, server: str, picture: bytes) -> list[bytes]:
    """The same of one picture, as Triton's client hears it."""
    tensor = module.InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([picture], object))
    with module.InferenceServerClient(server) as client:
        return [bytes(text) for text in client.infer("reading", [tensor]).as_numpy("text")]
