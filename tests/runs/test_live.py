"""A plane that stays up and a replay against it: both keep the same account."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from msgspec import Struct
from msgspec.structs import replace

from loki_rl.control.demand.history_file import HistoryError, read_history
from loki_rl.control.formulation.request import RequestError
from loki_rl.core.messages import Outcome
from loki_rl.files.config import ConfigError
from loki_rl.runs.live import LiveError, ServeOptions, _workers, serve_until_stopped
from loki_rl.runs.options import RunOptions
from loki_rl.runs.replays import TargetError, replay_trace
from loki_rl.runs.result import RunResult
from loki_rl.serving.engines.device import Device
from loki_rl.serving.gateway.client import ClientError
from loki_rl.serving.load.sender import ReplayError
from loki_rl.serving.process.launch import LocalPlane
from loki_rl.serving.profiling.payload_files import PayloadsError
from loki_rl.serving.transport.addresses import AddressError
from loki_rl.traces.demand import MONDAY_S
from tests.serving.driving import held_port


@pytest.fixture(autouse=True, scope="module")
def handlers() -> Iterator[None]:
    """As they were before `serve` took the signals for itself."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


class Day(Struct):
    """A served plane, what it said, and what clients in turn saw of it. named: by those that know its name and no file."""

    said: list[str]
    served: RunResult
    over_http: RunResult
    native: RunResult
    named: list[RunResult]
    history: Path


def while_served(
    run: RunOptions, options: ServeOptions, work: Callable[[], list[RunResult]], logdir: Path | None = None
) -> tuple[RunResult, list[str], list[RunResult]]:
    """Serve until the work is done, then stop as an operator would."""
    said: list[str] = []
    working: list[Future[list[RunResult]]] = []
    with ThreadPoolExecutor(1) as pool:

        def announce(text: str) -> None:
            said.append(text)
            working.append(pool.submit(work))
            working[0].add_done_callback(lambda _: os.kill(os.getpid(), signal.SIGTERM))

        served = serve_until_stopped(run, options, None, announce, logdir)
        return served, said, working[0].result()


@pytest.fixture(scope="module")
def day(small: Path, crowd: Path, tmp_path_factory: pytest.TempPathFactory) -> Day:
    history = tmp_path_factory.mktemp("day") / "history.json"
    native, http = f"tcp://127.0.0.1:{held_port()}", held_port()
    run = RunOptions(str(small), initial_rps=30.0, interval_s=1.0, history=str(history))
    options = ServeOptions(native=native, http_port=http, drain_s=0.0)
    sent = RunOptions(str(small), str(crowd), to_s=2.0)

    by_name = replace(sent, pipeline="small", to_s=1.0)

    def work() -> list[RunResult]:
        for url in (f"http://127.0.0.1:{http}", native):
            with pytest.raises(TargetError, match="serves pipeline 'small', not 'smal', of which there is no file here"):
                replay_trace(url, replace(by_name, pipeline="smal"))
        named = [replay_trace(f"http://127.0.0.1:{http}", by_name), replay_trace(native, replace(by_name, slo_ms=400.0))]
        over_http, natively = (
            replay_trace(f"http://127.0.0.1:{http}", sent),
            replay_trace(native, replace(sent, rate_scale=2.0)),
        )
        return [over_http, natively, *named]

    served, said, (over_http, natively, *named) = while_served(run, options, work)
    return Day(said, served, over_http, natively, named, history)


def test_addresses_are_told_once_the_plane_is_ready(day: Day) -> None:
    (line,) = day.said
    assert line.startswith("small is ready at http://127.0.0.1:")
    assert " and tcp://127.0.0.1:" in line


def test_every_request_ends_once_in_every_account(day: Day) -> None:
    for done in (day.over_http, day.native, day.served):
        done.tally.validate()
        assert done.summary.arrivals == sum(map(done.tally.outcome, Outcome)) > 0


def test_server_and_client_count_the_same_requests(day: Day) -> None:
    """The server's account is of the last run, which the second client began."""
    assert (day.over_http.summary.arrivals, day.native.summary.arrivals) == (30, 60)
    assert day.served.summary.arrivals == 60
    assert day.served.summary.task_executions == day.native.summary.task_executions


def test_what_was_counted_is_in_the_history_that_began_with_it(day: Day) -> None:
    found = read_history(day.history)
    assert 0 < sum(found.recent) <= 110
    assert abs(found.until_s - (time.time() - MONDAY_S)) < 600


def test_a_history_that_is_none_is_told_before_anything_starts(small: Path, tmp_path: Path) -> None:
    (tmp_path / "history.json").write_text("{}")
    for name, says in (("history.json", "is no history"), ("absent/history.json", "cannot be written")):
        options = RunOptions(str(small), history=str(tmp_path / name))
        with pytest.raises(HistoryError, match=says):
            serve_until_stopped(options, ServeOptions(), None, lambda _: None)
    assert (tmp_path / "history.json").read_text() == "{}"


def test_a_replay_tells_what_its_server_counted(day: Day) -> None:
    assert day.native.servers == 4
    assert day.native.summary.servers_mean is not None
    assert day.native.summary.servers_mean > 0
    assert (day.native.trace, day.native.provenance, day.native.duration_s) == ("crowd", "assumed", 2.0)


def test_the_name_that_the_server_has_is_enough(day: Day) -> None:
    for done in day.named:
        assert done.summary.arrivals == sum(map(done.tally.outcome, Outcome)) == 10
        assert (done.options.driver, done.servers, done.best_accuracy) == ("emulated", 4, day.over_http.best_accuracy)


class _Other(BaseHTTPRequestHandler):
    """A server of another kind, with a model; it answers as Triton's does."""

    def do_GET(self) -> None:
        known = self.path == "/v2/models/tones"
        self._answer(200 if known else 400, b'{"inputs": [{"name": "in", "datatype": "BYTES", "shape": [1]}]}')

    def do_POST(self) -> None:
        if b"broken" in self.rfile.read(int(self.headers["Content-Length"])):
            self._answer(500, b'{"error": "the model\\nfell over"}')
            return
        self._answer(200 if self.path == "/v2/models/tones/infer" else 400, b'{"outputs": []}')

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_of_another_kind_of_server_what_is_missing_is_asked_for(crowd: Path, tmp_path: Path) -> None:
    (tmp_path / "one.bin").write_bytes(b"tone")
    sent = RunOptions("tones", str(crowd), to_s=0.5)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Other) as other:
        other.daemon_threads = True
        threading.Thread(target=other.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{other.server_address[1]}"
        with pytest.raises(TargetError, match="how 'tones' is served; add --payloads FOLDER and --slo-ms MS, or name"):
            replay_trace(url, sent)
        with pytest.raises(TargetError, match="add --slo-ms MS, or name its pipeline file"):
            replay_trace(url, sent, tmp_path)
        done = replay_trace(url, replace(sent, slo_ms=2000.0), tmp_path)
        (tmp_path / "two.bin").write_bytes(b"broken")
        notes: list[str] = []
        halved = replay_trace(url, replace(sent, slo_ms=2000.0), tmp_path, note=notes.append)
        other.shutdown()
    assert halved.summary.failed > 0
    assert notes == [f"{halved.summary.failed} requests failed, the first because: the model fell over"]
    assert done.summary.arrivals == done.summary.ok > 0
    assert done.summary.accuracy is None


def test_a_path_to_no_pipeline_file_is_no_name(crowd: Path) -> None:
    with pytest.raises(ConfigError, match="no such pipeline file"):
        replay_trace("tcp://127.0.0.1:1", RunOptions("absent.yaml", str(crowd)))


def test_a_wrong_policy_is_told_before_anything_starts(small: Path) -> None:
    with pytest.raises(RequestError, match="did you mean 'exact'"):
        serve_until_stopped(RunOptions(str(small), policy="exat"), ServeOptions(), None, lambda _: None)


def test_of_models_without_a_workload_somebody_must_say_what_they_take(crowd: Path, tmp_path: Path) -> None:
    modelled = tmp_path / "tones.yaml"
    modelled.write_text(
        "name: tones\nslo_ms: 200\nprovenance: assumed\ntasks:\n  one:\n    adapter: nowhere:Tones\n    variants:\n"
        "      big: {model: big, accuracy: 1.0, latency_ms: {1: 10}}\n"
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), _Other) as other:
        other.daemon_threads = True
        threading.Thread(target=other.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{other.server_address[1]}"
        with pytest.raises(PayloadsError, match=rf"of {modelled} take is not known here; add --payloads FOLDER"):
            replay_trace(url, RunOptions(str(modelled), str(crowd), to_s=0.5))
        other.shutdown()


def test_payloads_must_be_files_in_a_folder(small: Path, crowd: Path, tmp_path: Path) -> None:
    for payloads in (tmp_path, tmp_path / "absent"):
        with pytest.raises(PayloadsError, match="not a folder with files in it"):
            replay_trace("tcp://127.0.0.1:1", RunOptions(str(small), str(crowd)), payloads)


def test_a_url_of_no_known_kind_is_refused(small: Path, crowd: Path) -> None:
    with pytest.raises(AddressError, match="neither tcp://, ipc:// nor http://"):
        replay_trace("ftp://host", RunOptions(str(small), str(crowd)))


def test_nobody_there_is_said(small: Path, crowd: Path) -> None:
    with pytest.raises((ClientError, ReplayError)):
        replay_trace(f"http://127.0.0.1:{held_port()}", RunOptions(str(small), str(crowd)))


TYPED = """\
types:
  quick: {count: 2, speed: 2, price: 2, devices: [cpu]}
  slow: {count: 2}
"""


def test_servers_of_several_types_are_served(small: Path, crowd: Path, tmp_path: Path) -> None:
    (tmp_path / "pool.yaml").write_text(TYPED)
    port = held_port()
    run = RunOptions(str(small), pool=str(tmp_path / "pool.yaml"), initial_rps=30.0)
    sent = RunOptions(str(small), str(crowd), to_s=1.0)
    options = ServeOptions(http_port=port, drain_s=0.0)
    served, _, (replayed,) = while_served(run, options, lambda: [replay_trace(f"http://127.0.0.1:{port}", sent)])
    assert served.servers == 4
    assert served.options.pool == str(tmp_path / "pool.yaml")
    assert served.summary.arrivals == replayed.summary.arrivals == 10
    assert sum(map(served.tally.outcome, Outcome)) == 10
    kinds = {place.server_type for record in served.tally.plans for place in record.plan.placements}
    assert kinds <= {"quick", "slow"}
    assert kinds


def test_a_signal_ends_a_start_at_once(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only once the models are loaded, which may be never."""
    monkeypatch.setattr(LocalPlane, "_launch", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt):
        serve_until_stopped(RunOptions(str(small)), ServeOptions(), None, lambda _: None)


def test_workers_per_gpu_need_gpus(small: Path) -> None:
    with pytest.raises(LiveError, match="--workers-per-gpu needs GPUs, and this would run on emulated workers"):
        serve_until_stopped(RunOptions(str(small)), ServeOptions(workers_per_gpu=2), None, lambda _: None)


def test_workers_per_gpu_are_on_each_of_the_gpus(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loki_rl.runs.live.choose_devices", lambda _: (Device("cuda", 0), Device("cuda", 1)))
    run, options = RunOptions(str(small), device="cuda:0,1"), ServeOptions(workers_per_gpu=3)
    assert _workers(options, run, "onnx", 4) == 6
    assert _workers(options, replace(run, servers=6), "onnx", 4) == 6
    with pytest.raises(LiveError, match=r"--workers 4 is not --workers-per-gpu 3 on 2 GPUs \(6\)"):
        _workers(options, replace(run, servers=4), "onnx", 4)
    monkeypatch.setattr("loki_rl.runs.live.choose_devices", lambda _: (Device("cpu"),))
    with pytest.raises(LiveError, match="this would run on the CPU; use --workers"):
        _workers(options, run, "onnx", 4)
