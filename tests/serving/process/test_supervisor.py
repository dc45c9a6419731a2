"""The watch over a plane of real processes: whatever ends or stands still is started again, and the plane goes on."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, get_args

import pytest
import zmq
from msgspec.structs import replace

from loki_rl.core.messages import Outcome
from loki_rl.core.options import ClusterOptions
from loki_rl.serving.gateway.client import Client, Inference
from loki_rl.serving.plane import Layout
from loki_rl.serving.process import restart_budget
from loki_rl.serving.process.heartbeat import SILENT_S
from loki_rl.serving.process.launch import LaunchError, LocalPlane
from loki_rl.serving.process.layout import nodes_of
from loki_rl.serving.process.restart_budget import FEW_STARTS, RESTARTS
from loki_rl.serving.transport import wire
from loki_rl.serving.transport.wire import Hung
from tests.serving.driving import PATIENCE_S, drive, eventually
from tests.serving.process.test_launch import alive

NATIVE = "tcp://127.0.0.1:0"  # any free port

STATIC: dict[str, Any] = {"policy": "static", "policy_options": {"servers": 6, "demand_rps": 20.0}}
Start = Callable[..., AbstractContextManager[LocalPlane]]


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Run directories under a short path of this test's own; none is left at the end."""
    folder = Path(tempfile.mkdtemp(prefix="lt-"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    yield folder
    left = [entry.name for entry in folder.iterdir()]
    shutil.rmtree(folder)
    assert not left


@pytest.fixture
def start(quick_traffic: ClusterOptions, base: Path) -> Start:  # noqa: ARG001
    """Starts a plane, and asks at its end that no process is left."""

    @contextlib.contextmanager
    def make(**changes: Any) -> Iterator[LocalPlane]:
        with LocalPlane(quick_traffic, check=True, **STATIC, **changes) as plane:
            yield plane
            pids = plane.pids
        assert not any(map(alive, pids.values()))

    return make


def end(plane: LocalPlane, name: str, number: int = signal.SIGKILL) -> int:
    """Send a signal to a process; its pid."""
    pid = plane.pids[name]
    os.kill(pid, number)
    return pid


def follow(plane: LocalPlane, name: str, former: int) -> None:
    """Wait until it has a successor that listens."""
    supervisor = plane._supervisor
    assert supervisor is not None
    eventually(lambda: plane.pids.get(name, former) != former and name in supervisor.up, f"'{name}' did not come back")


def test_what_a_plane_does_not_need_is_started_a_few_times_and_its_ends_are_troubles(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "failing.py").write_text("raise SystemExit('it will not do')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(restart_budget, "FEW_DELAY_S", 0.05)
    with start(beside={"onlooker": ("failing",)}) as plane, Client(plane.front) as client:
        client.begin_run()

        def troubles() -> dict[str, tuple[int, str]]:
            return {one.kind: (one.count, one.said) for one in client.state().troubles}

        eventually(lambda: troubles().get("onlooker", (0, ""))[0] == FEW_STARTS, "it is not started again")
        said = troubles()["onlooker"][1]
        assert said.startswith("'onlooker' is gone: its process ended with code 1; it was started 4 times and stays away")
        assert said.endswith("it will not do")
        assert drive(client, 0.5, 10.0) == {"ok": 5}
        assert "onlooker" not in plane.pids
        plane.check()


@pytest.mark.parametrize(
    ("name", "layout"),
    [("workers-1", "spread"), ("router-2", "spread"), ("gateway", "spread"), ("controller", "spread"),
     ("workers-1", "compact"), ("gateway", "compact"), ("controller", "compact")],
)  # fmt: skip
def test_whatever_ends_is_started_again_and_the_plane_goes_on(start: Start, name: str, layout: Layout) -> None:
    with start(layout=layout) as plane, Client(plane.front) as client:
        follow(plane, name, end(plane, name))
        plane.check()
        assert plane.restarted == 1
        (ended,) = plane.ended
        assert ended.startswith(f"'{name}': its process ended with signal 9: ")
        client.wait_ready(60.0)
        assert client.infer(timeout_s=PATIENCE_S).outcome == "ok"
    assert name in plane.byes


@pytest.mark.parametrize("layout", get_args(Layout))
def test_a_gateway_that_was_started_again_serves_clients_at_once(start: Start, layout: Layout) -> None:
    with start(layout=layout) as plane:
        follow(plane, "gateway", end(plane, "gateway"))
        with Client(plane.front) as again:
            assert again.describe().ready
            assert again.infer(timeout_s=PATIENCE_S).outcome == "ok"
            assert again.ledger().tally.arrivals == 1


def test_a_worker_that_is_killed_again_and_again_is_started_more_rarely_and_the_others_serve(start: Start) -> None:
    """The lifetime of a plane has room for any number of restarts, a minute has not."""
    with start() as plane, Client(plane.front) as client:
        began = time.monotonic()
        for _ in range(RESTARTS):
            follow(plane, "workers-0", end(plane, "workers-0"))
        assert time.monotonic() - began > 0.5 + 1.0 + 2.0 + 4.0, "without a pause"
        end(plane, "workers-0")
        eventually(lambda: len(plane.ended) == RESTARTS + 1, "its end was not noticed")
        client.begin_run()
        assert drive(client, 1.0, 10.0).keys() <= {"ok", "late"}
        assert "workers-0" not in plane.pids
        assert plane.restarted == RESTARTS
        plane.check()


@pytest.mark.parametrize("layout", get_args(Layout))
def test_a_worker_process_that_stands_still_is_found_killed_and_started_again(start: Start, layout: Layout) -> None:
    with start(layout=layout) as plane, Client(plane.front) as client:
        client.begin_run()
        former = end(plane, "workers-1", signal.SIGSTOP)
        ended = drive(client, 4.0, 20.0)
        follow(plane, "workers-1", former)
        assert ended.keys() <= {"ok", "late"}, "what it had is given to others"
        tally = client.ledger().tally
        assert tally.arrivals == sum(tally.outcome(outcome) for outcome in Outcome) == sum(ended.values())
        # Whichever is noticed first: that the process is silent, or that a batch does not come back from it.
        assert "gave no sign of life for" in plane.ended[0] or "its batch is overdue" in plane.ended[0]


@pytest.mark.parametrize("name", ["router-1", "http-1"])
def test_any_other_process_that_stands_still_is_started_again_too(start: Start, name: str) -> None:
    with start(http_port=0, http_processes=2) as plane:
        former = end(plane, name, signal.SIGSTOP)
        eventually(lambda: plane.pids.get(name, former) != former, "it was not found")
        assert "gave no sign of life for" in plane.ended[0]
        assert plane.pids["http"], "only that one"
        # Connections are dealt out to both, in whatever order.
        for _ in range(8):
            with urllib.request.urlopen(f"http://127.0.0.1:{plane.http_port}/v2/health/live", timeout=60) as answer:
                assert answer.status == 200
        assert plane.restarted == 1


@pytest.mark.parametrize(("number", "why"), [(signal.SIGKILL, "signal 9"), (signal.SIGSTOP, "gave no sign of life for")])
def test_the_proxy_of_native_clients_is_started_again_and_they_find_it(start: Start, number: int, why: str) -> None:
    with start(native=NATIVE) as plane, Client(plane.front) as witness, Client(plane.native) as client:
        assert client.infer().outcome == "ok"
        client.submit(timeout_s=600.0)
        end(plane, "native", number)
        (lost,) = client.poll(30.0)
        assert isinstance(lost, Inference)
        assert lost.outcome in ("failed", "ok")
        client.wait_ready(60.0)
        assert client.infer().outcome == "ok"
        assert plane.restarted == 1
        assert why in plane.ended[0]
        eventually(lambda: not witness.state().requests.in_flight, "what a lost client had stays in flight")


def test_native_clients_find_the_gateway_that_was_started_again(start: Start) -> None:
    with start(native=NATIVE) as plane, Client(plane.native) as client:
        assert client.infer().outcome == "ok"
        former = end(plane, "gateway")
        eventually(lambda: "gateway" not in plane.pids or plane.pids["gateway"] != former, "its end was not noticed")
        client.wait_ready(60.0)
        assert client.infer().outcome == "ok"
        assert plane.restarted == 1


def test_processes_that_do_nothing_are_not_taken_for_silent_ones(start: Start) -> None:
    """Nor is anything that was said before the launcher itself could look."""
    with start(http_port=0, native=NATIVE) as plane:
        pids = plane.pids
        supervisor = plane._supervisor
        assert supervisor is not None
        with supervisor._changed:
            time.sleep(SILENT_S + 0.5)  # the watch stands still
        again = time.monotonic() + 1.0
        eventually(lambda: supervisor._look_at > again, "the watch does not go on")
        assert plane.pids == pids
        assert plane.restarted == 0


def test_a_worker_that_a_router_gives_up_is_killed_but_not_its_successor(start: Start, base: Path) -> None:
    with start() as plane, zmq.Context() as context, context.socket(zmq.PUSH) as router:
        (inbox,) = base.glob("*/launcher.0")
        router.connect(f"ipc://{inbox}")
        former = plane.pids["workers-1"]
        for _ in range(3):  # of the same life; worker 3 lives in the same process
            router.send(wire.encode_control(Hung(1, 0, "worker 1 does not come back from a batch")))
            router.send(wire.encode_control(Hung(3, 0, "worker 3 does not come back from a batch")))
        follow(plane, "workers-1", former)
        router.send(wire.encode_control(Hung(1, 0, "worker 1 does not come back from a batch")))
        router.send(wire.encode_control(Hung(77, 0, "there is no such worker")))
        router.send(wire.encode_control(Hung(0, 0, "worker 0 does not come back from a batch")))
        eventually(lambda: len(plane.ended) == 2, "the last word was not followed")
        assert plane.ended[0].startswith("'workers-1': worker 1 does not come back from a batch: ")
        assert plane.ended[1].startswith("'workers-0': worker 0 does not come back from a batch: ")
        plane.check()


def test_a_restart_that_a_full_disk_prevents_is_tried_again(
    start: Start, base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with start() as plane:
        (file,) = base.glob("*/plane.json")
        file.with_name("plane.json.new").mkdir()  # so it cannot be written
        former = end(plane, "workers-0")
        eventually(lambda: "'workers-0' cannot be started: " in caplog.text, "it is not said")
        assert plane.restarted == 0
        plane.check()
        file.with_name("plane.json.new").rmdir()
        follow(plane, "workers-0", former)


def test_where_nothing_can_be_started_any_more_the_plane_has_failed(start: Start, base: Path) -> None:
    with start() as plane:
        (file,) = base.glob("*/plane.json")
        file.with_name("plane.json.new").mkdir()
        for name in plane.pids:
            end(plane, name)
        eventually(lambda: plane.failure, "nobody noticed")
        with pytest.raises(LaunchError, match=r"no process of the plane is left, and '.*' cannot be started: "):
            plane.check()


def test_a_watch_that_fails_is_said_and_the_plane_still_stops(start: Start) -> None:
    with start(http_port=0) as plane:
        supervisor = plane._supervisor
        assert supervisor is not None
        pids = plane.pids
        supervisor._mailbox.inbox.close()
        with pytest.raises(LaunchError, match="the watch over the plane's processes failed: "):
            eventually(plane.check, "nobody noticed")
        assert all(map(alive, pids.values())), "what serves is not torn down by it"
    assert not any(map(alive, pids.values()))


def test_what_fails_on_one_errand_costs_only_that(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    with start() as plane:
        supervisor = plane._supervisor
        assert supervisor is not None
        supervisor.say("nobody", Hung(0, 0, ""))
        follow(plane, "workers-0", end(plane, "workers-0"))
        assert "KeyError" in caplog.text
        plane.check()


def test_emulated_workers_share_as_many_processes_as_asked_for(quick_traffic: ClusterOptions) -> None:
    def workers(count: int, servers: int = 6) -> list[int]:
        nodes = nodes_of(replace(quick_traffic, servers=servers), "emulated", worker_processes=count)
        return [len(node.actors) for node in nodes if node.is_worker]

    assert workers(6) == [1] * 6
    assert workers(4) == [2, 2, 1, 1]
    assert workers(8, servers=3) == [1] * 3
