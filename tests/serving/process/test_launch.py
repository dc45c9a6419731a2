"""Whole planes of real processes: they start, serve, survive the death of workers, and leave nothing behind."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import pytest
import zmq
from msgspec.structs import replace

from loki_rl.control.compiling import SENTENCE
from loki_rl.core.journal import replay
from loki_rl.core.messages import Outcome
from loki_rl.core.options import ClusterOptions
from loki_rl.files.config import load_pipeline
from loki_rl.serving.gateway.client import Client, Inference
from loki_rl.serving.observe.logs import LogOptions
from loki_rl.serving.plane import Layout
from loki_rl.serving.process.launch import LaunchError, LocalPlane
from loki_rl.serving.process.layout import nodes_of
from loki_rl.serving.security.guards import Guards
from tests.serving.driving import PATIENCE_S, drive, eventually, patient

SERVERS = 6
# One worker of each task for every three servers: on both hosts there is one of each.
EVEN = """
from loki_rl.core.plan import Placement, Plan
FASTEST = {"object_detection": "yolov5n", "car_classification": "efficientnet-b0", "facial_recognition": "genderNet_11"}
class Even:
    def decide(self, snapshot):
        places = tuple(Placement(task, FASTEST[task], 4, len(snapshot.servers) // 3) for task in sorted(FASTEST))
        split = dict.fromkeys(FASTEST, 1.0) | {"object_detection": 0.5}
        return Plan("hardware", places, len(snapshot.servers), 0.9, 1.0, 20.0, 100.0, split, {})
def make(*_):
    return Even()
"""


@pytest.fixture(scope="module")
def options() -> ClusterOptions:
    return ClusterOptions(patient(load_pipeline("traffic").pipeline), SERVERS)


@pytest.fixture(autouse=True)
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Run directories under a short path of this test's own (tmp_path may be too long); none is left at the end."""
    folder = Path(tempfile.mkdtemp(prefix="lt-"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    yield folder
    left = [entry.name for entry in folder.iterdir()]
    shutil.rmtree(folder)
    assert not left


Start = Callable[..., LocalPlane]


@pytest.fixture
def plane_of(options: ClusterOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Starts a plane whose plan is known: to find one takes longer than to start all processes."""
    (tmp_path / "even.py").write_text(EVEN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")

    def make(**changes: Any) -> LocalPlane:
        policy = {} if "policy" in changes else {"policy_factory": "even:make"}
        return LocalPlane(options, check=True, **(policy | changes))

    return make


def sockets(base: Path) -> list[Path]:
    """Inboxes of nodes in their first life, and of the launcher."""
    return [file for file in base.glob("*/*.0") if file.is_socket()]


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and waits to be noticed does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("layout", get_args(Layout))
def test_a_plane_serves_and_stops_every_node_is_content_and_its_journal_replays(
    plane_of: Start, tmp_path: Path, layout: Layout
) -> None:
    with plane_of(journal=tmp_path / "journal", layout=layout) as plane:
        pids = plane.pids
        with Client(plane.front) as client:
            assert client.describe().ready
            client.begin_run()
            assert drive(client, 2.0, 15.0).keys() <= {"ok", "late"}
            tally = client.ledger().tally
        assert tally.arrivals == sum(tally.outcome(outcome) for outcome in Outcome)
        plane.check()
    assert not any(map(alive, pids.values()))
    assert plane.byes.keys() == pids.keys()
    assert {(bye.frames, bye.faults, bye.strays, bye.malformed) for bye in plane.byes.values()} == {(0, 0, 0, 0)}
    for name in pids:
        entries = replay([(tmp_path / "journal" / f"{name}.0.journal").read_bytes()], check=True)
        assert isinstance(entries, int), f"{name}: {entries}"
        assert entries > 20


def test_a_killed_worker_process_costs_no_request_and_comes_back(plane_of: Start) -> None:
    with plane_of() as plane:
        victim = plane.pids["workers-1"]

        def kill(age: float) -> None:
            if age > 0.5 and alive(victim):
                os.kill(victim, signal.SIGKILL)

        with Client(plane.front) as client:
            client.begin_run()
            counts = drive(client, 2.0, 40.0, kill)
        assert counts == {"ok": sum(counts.values())}
        supervisor = plane._supervisor
        assert supervisor is not None
        eventually(lambda: plane.restarted == 1 and "workers-1" in supervisor.up, "not restarted")
        assert plane.pids["workers-1"] != victim
        plane.check()
    assert "workers-1" in plane.byes


def test_noise_in_every_inbox_does_not_stop_the_plane(plane_of: Start, base: Path) -> None:
    noise = [
        [b"GET / HTTP/1.1\r\n\r\n"],
        [b"\x12"],
        [b"\x12\xc1"],
        [b"\x22\xc1", b"a frame"],
        [b"\x32?"],
        [b"x"] * 200,
        [b"", b""],
    ]
    messages = 1 + 1 + 1 + 1 + 1 + 200 + 2  # a part that nothing announces is a message of its own
    with plane_of() as plane, zmq.Context() as context:
        inboxes = sockets(base)
        assert len(inboxes) == len(plane.pids) + 1
        for inbox in inboxes:
            with context.socket(zmq.PUSH) as stranger:
                stranger.setsockopt(zmq.LINGER, 5000)
                stranger.connect(f"ipc://{inbox}")
                for parts in noise:
                    stranger.send_multipart(parts)
        with Client(plane.front) as client:
            assert client.infer().outcome == "ok"
    assert {bye.malformed for bye in plane.byes.values()} == {messages}


def test_http_is_part_of_the_plane_when_asked_for(plane_of: Start) -> None:
    with plane_of(http_port=0) as plane:
        with urllib.request.urlopen(f"http://127.0.0.1:{plane.http_port}/v2/health/ready", timeout=60) as answer:
            assert answer.status == 200
        pids = plane.pids
        assert "http" in pids
    assert not any(map(alive, pids.values()))


@pytest.mark.parametrize("layout", get_args(Layout))
def test_requests_in_flight_are_answered_before_a_plane_stops(plane_of: Start, layout: Layout) -> None:
    with contextlib.ExitStack() as stack:
        with plane_of(layout=layout) as plane:
            client = stack.enter_context(Client(plane.front))
            for _ in range(20):
                client.submit()
            client.ledger()  # they have all been read
            plane.check()
        answers = client.poll(2 * PATIENCE_S)
    assert len(answers) == 20, plane.byes
    assert {answer.outcome for answer in answers if isinstance(answer, Inference)} <= {"ok", "dropped", "late"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"policy": "exakt"}, "node 'controller' ended with code 1: .*no policy 'exakt'; did you mean 'exact'"),
        ({"policy_factory": "json:nothing"}, "node 'controller' ended with code 1: .*'json:nothing' cannot be loaded"),
        ({"engine": "onnx", "pipeline_file": "nowhere.yaml"}, "ended with code 1: .*nowhere.yaml"),
        ({"native": "garbage"}, "^'garbage' is no address for native clients; write tcp://127.0.0.1:PORT$"),
        ({"native": "tcp://127.0.0.1"}, "is no address for native clients"),
        ({"native": "ipc:///tmp/front"}, "is no address for native clients"),
        (
            {"native": "tcp://0.0.0.0:5555"},
            "'0.0.0.0' can be reached .*: give --native-keys, .*--behind-proxy",
        ),
        ({"native": "tcp://256.0.0.1:1", "guards": Guards(behind_proxy=True)}, "cannot listen on 256.0.0.1:1: "),
        ({"http_port": 0, "guards": Guards(tls_cert="a.pem")}, "TLS needs both a certificate and its key"),
        ({"http_port": 0, "guards": Guards(tls_client_ca="a.pem")}, "certificates of clients are asked for with TLS only"),
        ({"http_port": 0, "guards": Guards(native_keys="keys")}, "--native-keys is for native clients"),
        ({"http_port": 0, "guards": Guards(api_key_file="no-such-file")}, "no-such-file cannot be read"),
        ({"http_port": 8000, "http_host": "0.0.0.0"}, "'0.0.0.0' can be reached from other hosts: give --tls-cert"),
        (
            {"http_port": 8000, "http_host": "0.0.0.0", "guards": Guards(api_key_file="keys")},
            "'0.0.0.0' can be reached from other hosts: give --tls-cert, --tls-key and --api-key-file",
        ),
        (
            {"http_port": 8000, "http_host": "0.0.0.0", "guards": Guards("a.pem", "b.pem")},
            "'0.0.0.0' can be reached from other hosts: give --tls-cert, --tls-key and --api-key-file",
        ),
        ({"grpc_port": 8001, "http_host": "::"}, "'::' can be reached from other hosts"),
        ({"http_port": 8000, "http_host": ""}, "'' can be reached from other hosts"),
    ],
)
def test_a_plane_that_cannot_start_says_why_in_one_sentence(plane_of: Start, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(LaunchError, match=sentence) as caught, plane_of(**changes):
        pass
    assert "\n" not in str(caught.value)


def test_a_plane_without_a_plan_in_time_says_so(plane_of: Start, tmp_path: Path) -> None:
    (tmp_path / "stubborn.py").write_text("def make(*_):\n    return None\n")
    with (
        pytest.raises(LaunchError, match=r"no plan was in force .* within 4 s") as caught,
        plane_of(policy_factory="stubborn:make", start_s=4.0),
    ):
        pass
    assert "no attribute 'decide'" in str(caught.value)


START_S = 15.0
SLOW = f"""
import time
from even import make as even
from loki_rl.control.compiling import compiling
def make(*_):
    compiling.begin()
    time.sleep({START_S + 1.0})
    compiling.end()
    return even()
"""
COLD = """
from even import make as even
from loki_rl.control.compiled import lean
@lean
def double(x):
    return 2 * x
def make(*_):
    double(1)
    return even()
"""


@pytest.mark.skipif(find_spec("numba") is None, reason="numba is not installed: nothing is compiled")
def test_a_first_start_says_that_it_compiles(
    plane_of: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cold.py").write_text(COLD)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "numba"))
    said = []
    for _ in range(2):
        with plane_of(policy_factory="cold:make") as plane:
            assert plane.warm
        said.append([record.getMessage() for record in caplog.records])
        caplog.clear()
    assert said == [[SENTENCE], []]


def test_the_limit_of_a_start_is_for_what_is_not_compiled(plane_of: Start, tmp_path: Path) -> None:
    """A node that says it compiles is waited for: here for longer than the plane has to start."""
    (tmp_path / "slow.py").write_text(SLOW)
    with plane_of(policy_factory="slow:make", start_s=START_S) as plane:
        assert plane.warm


def test_a_plane_on_a_public_address_says_so_loudly_and_serves(plane_of: Start, caplog: pytest.LogCaptureFixture) -> None:
    guards = Guards(behind_proxy=True)
    with plane_of(native="tcp://0.0.0.0:0", http_host="0.0.0.0", http_port=0, guards=guards) as plane:
        assert caplog.text.count("listening on 0.0.0.0 without TLS or without keys") == 1
        with Client(plane.native.replace("0.0.0.0", "127.0.0.1")) as client:
            assert client.infer().outcome == "ok"
        assert "native" in plane.pids


def test_native_clients_get_their_answers_when_a_plane_stops(plane_of: Start) -> None:
    with contextlib.ExitStack() as stack:
        with plane_of(native="tcp://127.0.0.1:0") as plane:
            client = stack.enter_context(Client(plane.native))
            for _ in range(20):
                client.submit()
            client.ledger()
        found: list[object] = []
        while len(found) < 20 and (more := client.poll(2 * PATIENCE_S)):
            found += more
    assert len(found) == 20


def test_what_a_plane_writes_is_for_its_user_alone(plane_of: Start, base: Path, tmp_path: Path) -> None:
    with plane_of(journal=tmp_path / "journal", logs=LogOptions(str(tmp_path / "logs"))):
        (folder,) = base.iterdir()
        written = [folder / "plane.json", folder / "lock"]
        written += [*tmp_path.glob("journal/*"), *tmp_path.glob("logs/*")]
        assert len(written) > 12
        assert {stat.S_IMODE(file.stat().st_mode) for file in written} == {0o600}
        folders = (folder, tmp_path / "journal", tmp_path / "logs")
        assert {stat.S_IMODE(one.stat().st_mode) for one in folders} == {0o700}


def test_too_few_open_files_are_told_before_anything_starts(plane_of: Start) -> None:
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = len(os.listdir("/proc/self/fd")) + 30
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, allowed[1]))
    try:
        with pytest.raises(LaunchError, match=rf"a process may open {few} files here, but this plane needs \d+"), plane_of():
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, allowed)


def test_a_journal_on_a_full_disk_costs_no_request(plane_of: Start, tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / "gateway.0.journal").symlink_to("/dev/full")
    with plane_of(journal=tmp_path / "journal") as plane, Client(plane.front) as client:
        client.begin_run()
        counts = drive(client, 3.0, 300.0)
        assert counts.keys() <= {"ok", "late", "dropped"}
        assert client.ledger().tally.arrivals == counts.total()
    assert plane.byes["gateway"].faults <= 1
    assert plane.byes["router-0"].faults == 0


ORPHANS = """
import signal
from loki_rl.files.config import load_pipeline
from loki_rl.core.options import ClusterOptions
from loki_rl.serving.process.launch import LocalPlane
options = ClusterOptions(load_pipeline("traffic").pipeline, 3)
with LocalPlane(options, policy="static", policy_options={"servers": 3, "demand_rps": 1.0}):
    signal.pause()
"""


def test_nothing_survives_a_launcher_that_is_killed(options: ClusterOptions, base: Path) -> None:
    launcher = subprocess.Popen([sys.executable, "-c", ORPHANS])
    nodes = len(nodes_of(replace(options, servers=3), "emulated"))
    eventually(lambda: len(children(launcher.pid)) == nodes and len(sockets(base)) == nodes + 1, "not up")
    pids = children(launcher.pid)
    launcher.kill()
    launcher.wait()
    eventually(lambda: not any(map(alive, pids)), "orphans are left")
    with pytest.raises(LaunchError), LocalPlane(options, native="garbage"):
        pass  # starting another plane sweeps what the first one left


def children(pid: int) -> list[int]:
    """Processes whose parent this is."""
    lists = [task.joinpath("children").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return [int(child) for line in lists for child in line.split()]
