"""A plane of real processes as standard tools see it: HTTP by several processes, gRPC, metrics, and a stop that clients
notice in time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc
import tritonclient.http
import zmq
from tritonclient.utils import InferenceServerException

from loki_rl.core.options import ClusterOptions
from loki_rl.serving.gateway.client import Client
from loki_rl.serving.process.launch import LaunchError, LocalPlane
from loki_rl.serving.state import PlaneState
from loki_rl.serving.transport.listening import listen


def free_port() -> int:
    with zmq.Context() as context, context.socket(zmq.PAIR) as probe:
        return probe.bind_to_random_port("tcp://127.0.0.1")


class Plane:
    def __init__(self, options: ClusterOptions) -> None:
        self.http, self.grpc = free_port(), free_port()
        self.plane = LocalPlane(
            options,
            policy="static",
            policy_options={"servers": options.servers, "demand_rps": 20.0},
            http_port=self.http,
            http_processes=3,
            grpc_port=self.grpc,
            check=True,
        )

    def get(self, path: str) -> tuple[int, bytes]:
        """Each question on a connection of its own, so that any of the processes may answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()


@pytest.fixture(scope="module")
def served(quick_traffic: ClusterOptions) -> Iterator[Plane]:
    folder = Path(tempfile.mkdtemp(prefix="lt-"))
    former = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(folder)
    plane = Plane(quick_traffic)
    with plane.plane:
        yield plane
    shutil.rmtree(folder)
    os.environ.pop("XDG_RUNTIME_DIR")
    if former is not None:
        os.environ["XDG_RUNTIME_DIR"] = former


def test_http_and_grpc_serve_the_same_pipeline(served: Plane) -> None:
    assert {"http", "http-1", "http-2", "grpc"} <= served.plane.pids.keys()
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{served.http}") as client:
        assert client.infer("traffic", []).get_response()["parameters"]["outcome"] == "ok"
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{served.grpc}") as client:
        assert client.infer("traffic", []).get_response().parameters["outcome"].string_param == "ok"


def test_an_answered_request_is_in_the_statistics_of_every_process(served: Plane) -> None:
    before = counts(served)
    with Client(served.plane.front) as client:
        answer = client.infer()
    leaves = {task: sum(path[-1].startswith(prefix) for path in answer.served) for task, prefix in
              (("car_classification", "efficientnet"), ("facial_recognition", "genderNet"))}  # fmt: skip
    for _ in range(6):
        after = counts(served)
        grown = {name: after[name] - before[name] for name in after}
        assert grown.pop("traffic") == grown.pop("traffic.object_detection") == 1
        assert grown == {f"traffic.{task}": count for task, count in leaves.items()}


def counts(served: Plane) -> dict[str, int]:
    rows = json.loads(served.get("/v2/models/stats")[1])["model_stats"]
    return {row["name"]: row["inference_count"] for row in rows}


def test_the_state_knows_plan_stages_and_workers(served: Plane) -> None:
    with Client(served.plane.front) as client:
        while not settled(state := client.state()):
            continue  # a worker tells the controller before its first credit reaches the router
    assert state.control is not None
    assert state.control.plan is not None
    assert [stage.task for stage in state.stages] == ["object_detection", "car_classification", "facial_recognition"]
    assert len(state.control.workers) == 6
    assert all(worker.loads <= 1 for worker in state.control.workers)


def settled(state: PlaneState) -> bool:
    """As many workers pull, and say that they serve, as the plan has."""
    assert state.control is not None
    assert state.control.plan is not None
    used = sum(place.replicas for place in state.control.plan.placements)
    pulling = sum(sum(stage.pulling.values()) for stage in state.stages)
    return pulling == used == sum(bool(worker.serving) for worker in state.control.workers)


def test_metrics_are_those_of_the_whole_plane(served: Plane) -> None:
    status, text = served.get("/metrics")
    assert status == 200
    for name in (b"loki_requests_total", b"loki_queue_seconds_bucket", b"loki_plan_accuracy", b"nv_inference_count"):
        assert b"\n" + name + b"{" in text


def test_a_request_may_ask_for_accuracy_but_not_for_more_than_there_is(served: Plane) -> None:
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{served.http}") as client:
        answer = client.infer("traffic", [], parameters={"min_accuracy": 0.95}, priority=1).get_response()
        assert answer["parameters"]["accuracy"] >= 0.95
        refused = r"\[400\] rejected: min_accuracy 1 is above 0.99\d+, the most that"
        with pytest.raises(InferenceServerException, match=refused):
            client.infer("traffic", [], parameters={"min_accuracy": 1.0})


def test_a_request_that_cannot_make_it_is_refused_with_a_reason(served: Plane) -> None:
    body = json.dumps({"inputs": [], "parameters": {"timeout": 20_000}}).encode()
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"http://127.0.0.1:{served.http}/v2/models/traffic/infer", body, timeout=60)
    with caught.value as answer:
        assert answer.code == 503
        assert 1 <= int(answer.headers["Retry-After"]) <= 20
        told = json.loads(answer.read())
    assert told["parameters"]["stage"] == "object_detection"
    assert told["parameters"]["late_ms"] > 0
    assert "'object_detection' would have ended" in told["error"]


def test_a_front_end_that_is_killed_comes_back_and_the_others_go_on(served: Plane) -> None:
    victim = served.plane.pids["http-1"]
    os.kill(victim, signal.SIGKILL)
    while served.plane.pids.get("http-1") in (None, victim):
        with suppress(ConnectionError):  # a connection that the killed process had not taken yet
            assert served.get("/v2/health/live")[0] == 200
    assert served.plane.restarted == 1
    served.plane.check()


def test_a_port_that_somebody_has_is_not_shared_silently(served: Plane, quick_traffic: ClusterOptions) -> None:
    for port in ({"http_port": served.http, "http_processes": 2}, {"grpc_port": served.grpc}):
        plane = LocalPlane(quick_traffic, policy="static", **port)  # type: ignore[arg-type]
        with pytest.raises(LaunchError, match=r"cannot listen on 127.0.0.1:\d+: "), plane:
            pass


def test_grpc_without_its_extra_is_told_before_anything_starts(
    quick_traffic: ClusterOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loki_rl.serving.process.launch.find_spec", lambda name: None if name == "tritonclient" else name)
    plane = LocalPlane(quick_traffic, grpc_port=free_port())
    with pytest.raises(LaunchError, match=r"needs the extra loki-rl\[grpc\]"), plane:
        pass


def test_after_sigterm_a_server_is_not_ready_but_serves_until_a_second_one(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "loki_rl", "serve", "traffic", "--workers", "6", "--policy", "static", "--load-s", "0",
               "--slo-ms", "5000", "--http-port", str(port), "--drain-s", "60", "--demand-rps", "20", "--json"]  # fmt: skip
    errors = (tmp_path / "errors").open("w+b")
    with errors, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process:
        site: Any = Plane.__new__(Plane)
        site.http = port
        wait_for(site, 200, process)
        process.send_signal(signal.SIGTERM)
        wait_for(site, 503, process)
        with tritonclient.http.InferenceServerClient(f"127.0.0.1:{port}", concurrency=3) as client:
            assert client.is_server_live()
            assert client.infer("traffic", []).get_response()["parameters"]["outcome"] == "ok"
            open_still = [client.async_infer("traffic", []) for _ in range(3)]
            while json.loads(site.get("/loki/state")[1])["requests"]["arrivals"] < 4:
                continue
            process.send_signal(signal.SIGTERM)
            assert [one.get_result().get_response()["parameters"]["missing"] for one in open_still] == [0, 0, 0]
        result, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    figures = json.loads(result)
    assert figures["arrivals"] == figures["ok"] + figures["late"] == 4


def wait_for(site: Plane, status: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            if site.get("/v2/health/ready")[0] == status:
                return
        except OSError:
            continue  # nobody listens yet
    raise AssertionError("the server ended")


def test_listening_is_shared_only_if_both_say_so() -> None:
    first = listen("127.0.0.1", 0, shared=True)
    first.listen(1)
    port = first.getsockname()[1]
    listen("127.0.0.1", port, shared=True).close()
    with pytest.raises(OSError, match="in use"):
        listen("127.0.0.1", port)
    first.close()
