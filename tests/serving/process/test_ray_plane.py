"""A plane on a Ray cluster: several hosts on this machine, an address of loopback each. What is lost with a host, and what
one that joins is used for."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

pytest.importorskip("ray", reason="Ray is not installed; run 'make ray'")

from ray.cluster_utils import Cluster

from loki_rl.core.options import ClusterOptions
from loki_rl.files.config import PipelineFile, load_pipeline
from loki_rl.reading.scenes import scenes
from loki_rl.serving.gateway.client import Client, Inference
from loki_rl.serving.process import supervisor
from loki_rl.serving.process.launch import LaunchError, LocalPlane
from loki_rl.serving.process.ray_launcher import RayLauncher
from loki_rl.serving.transport.curve import make_key_pair, secure_client
from tests.serving.driving import PATIENCE_S, eventually

CORE = {"num_cpus": 1, "include_dashboard": False}
RPS = 80.0
EXACT: dict[str, Any] = {"policy": "exact", "policy_options": {"initial_rps": RPS}, "check": True}
STATIC: dict[str, Any] = {"policy": "static", "policy_options": {"servers": 6, "demand_rps": 200.0}, "check": True}


class Hosts:
    """A cluster whose first host is the launcher's."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self._last = 1
        self.add()

    def add(self, **resources: float) -> Any:
        self._last += 1
        return self.cluster.add_node(node_ip_address=f"127.0.0.{self._last}", **CORE, resources=resources)

    def lose(self, host: Any) -> None:
        """Without a word, as when its power fails."""
        self.cluster.remove_node(host, allow_graceful=False)

    def launcher(self, options: ClusterOptions) -> RayLauncher:
        return RayLauncher(options, self.cluster.address)


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    """One host to begin with, where there is room for one process."""
    import ray

    ray.shutdown()  # of other tests
    made = Hosts()
    yield made
    ray.shutdown()
    made.cluster.shutdown()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has no host after three seconds is not waited for."""
    monkeypatch.setattr(supervisor, "PLACE_S", 3.0)


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


def test_nobody_without_the_keys_of_a_plane_reaches_a_node(hosts: Hosts, quick_traffic: ClusterOptions) -> None:
    plane = LocalPlane(quick_traffic, **STATIC, launcher=hosts.launcher(quick_traffic), worker_processes=1)
    with plane, Client(plane.front) as client, zmq.Context() as context:
        assert plane._supervisor is not None
        described = plane._supervisor._roster.plane
        assert described.keys is not None
        stranger = make_key_pair()
        for node in (described.launcher, described.node("gateway"), described.node("workers-0")):
            for keys in (None, stranger):
                socket = context.socket(zmq.PUSH)
                socket.setsockopt(zmq.LINGER, 0)
                if keys is not None:
                    secure_client(socket, keys, described.keys.public)
                # Only where it is let in is there anybody to send to.
                socket.setsockopt(zmq.IMMEDIATE, 1)
                socket.setsockopt(zmq.SNDTIMEO, 300)
                socket.connect(described.outside(node))
                with pytest.raises(zmq.Again):
                    socket.send(b"garbage")
                socket.close()
        assert client.infer(timeout_s=PATIENCE_S).outcome == "ok"
    assert all(bye.malformed == 0 for bye in plane.byes.values())


def test_a_cluster_without_room_is_one_sentence(hosts: Hosts, quick_traffic: ClusterOptions) -> None:
    import ray

    launcher = hosts.launcher(quick_traffic)
    taken = ray.remote(num_cpus=1)(Hold).remote()
    ray.get(taken.here.remote())
    plane = LocalPlane(quick_traffic, **STATIC, launcher=launcher, worker_processes=1, start_s=10.0)
    try:
        with pytest.raises(LaunchError, match=r"workers-0 did not come up \(no host has room for it\) within 10 s"), plane:
            pass
    finally:
        ray.kill(taken)


@pytest.mark.timeout(180)
def test_a_lost_host_costs_no_request_and_one_that_joins_is_used(hosts: Hosts, quick_traffic: ClusterOptions) -> None:
    """Three processes of two workers each: two hosts at first, then three, two, and three again."""
    hosts.add()
    plane = LocalPlane(quick_traffic, **EXACT, launcher=hosts.launcher(quick_traffic), worker_processes=3)
    with plane, Client(plane.front) as client:
        eventually(lambda: len(plane.absent) == 1 and serving(client) == 4, "a plane does not begin with what is there")
        client.begin_run()
        crowd = Crowd(client, RPS)
        crowd.until(lambda: len(crowd.answers) > 20, "nothing is answered")
        third = hosts.add()
        crowd.until(lambda: not plane.absent and serving(client) == 6, "a host that joins is not used")
        hosts.lose(third)
        crowd.until(lambda: plane.ended and serving(client) == 4, "the loss was not noticed")
        crowd.until(lambda: plane.absent, "what was there has no host, and nobody says so")
        hosts.add()
        crowd.until(lambda: not plane.absent and serving(client) == 6, "what was lost does not come back on a new host")
        crowd.end()
        assert set(crowd.answers) == set(crowd.sent)
        assert set(crowd.answers.values()) == {1}
        assert client.unasked == 0
        assert crowd.outcomes == {"ok": len(crowd.sent)}
        counted = [second.outcomes for second in client.ledger().tally.seconds.values()]
        assert sum(map(sum, counted)) == len(crowd.sent)


def answers(options: ClusterOptions, file: PipelineFile, pictures: list[bytes], **rest: Any) -> list[list[bytes]]:
    """What a plane of real models says of each picture."""
    static: dict[str, Any] = {"policy": "static", "policy_options": {"servers": 2, "demand_rps": 0.5}}
    plane = LocalPlane(options, engine="onnx", pipeline_file=str(file.path), **static, **rest)
    with plane, Client(plane.front) as client:
        found = [client.infer(picture, timeout_s=PATIENCE_S) for picture in pictures]
    assert {one.outcome for one in found} == {"ok"}
    return [[output.tobytes() for output in one.outputs] for one in found]


@pytest.mark.timeout(180)
def test_models_on_two_hosts_answer_as_on_one(hosts: Hosts, reading: PipelineFile, fonts: tuple[Path, ...]) -> None:
    hosts.add()
    options = ClusterOptions(load_pipeline(reading.path, slo_ms=10_000.0).pipeline, 2)
    pictures = [scene.jpeg for scene in scenes(3, 7, fonts)]
    placed = answers(options, reading, pictures, launcher=hosts.launcher(options))
    assert placed == answers(options, reading, pictures)
    assert any(placed)


class Hold:
    """Takes a core."""

    def here(self) -> bool:
        return True
