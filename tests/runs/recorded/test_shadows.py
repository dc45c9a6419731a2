"""Shadows: what they show is what the twin makes of the same requests, second by second, and they remember little."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from rich.console import Console
from rich.table import Table
from tensorboard.compat.tensorflow_stub.errors import NotFoundError

from loki_rl.control.formulation.request import RequestError
from loki_rl.flight.columns import read_flight
from loki_rl.flight.file import Tail, Writer, read_head
from loki_rl.flight.rows import AnyRow, Arrival, Begun, Usage
from loki_rl.reports.report import table
from loki_rl.runs.live import LiveError, ServeOptions, beside, serve_until_stopped
from loki_rl.runs.options import RunOptions
from loki_rl.runs.recorded import shadows
from loki_rl.runs.recorded.shadow_figures import FIGURES, forget_figures, read_figures, shadow_folder
from loki_rl.runs.recorded.shadows import Follower, follow
from loki_rl.runs.recorded.what_if import options_of, what_if
from loki_rl.runs.replays import replay_trace
from loki_rl.runs.result import RunResult
from loki_rl.runs.run import run_twin
from loki_rl.runs.tensorboard.curves import curves
from tests.runs.recorded.conftest import Record
from tests.runs.tensorboard.test_telemetry import SERVING, points
from tests.runs.test_live import while_served
from tests.serving.driving import eventually, held_port

Points = dict[str, dict[int, float]]


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """As they were before `serve` took the signals for itself."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def followed(file: Path, policies: list[str], logdir: Path) -> Follower:
    head = read_head(file)
    follower, tail = Follower(head, options_of(file, head), policies, logdir), Tail(file)
    for part in tail.poll():
        follower.add(part)
    tail.close()
    return follower


def test_the_plane_and_its_shadows_show_the_same_seconds(record: Record, tmp_path: Path) -> None:
    file, _ = record(origin=4321.5)
    follower = followed(file, ["exact", "hardware"], tmp_path / "runs")
    follower.close()
    for policy in ("exact", "hardware"):
        shown = points(tmp_path / "runs/twin" / policy / "live/seed0")
        assert shown.keys() >= SERVING | {"shadow/behind_s", "policy/planned_servers"}
        assert shown["serving/demand_rps"] == {0: 30.0, 1: 60.0, 2: 150.0, 3: 60.0}
    _, live = what_if(file, {})
    told = points(tmp_path / "runs/emulated/loki/live/seed0")
    assert told.keys() >= SERVING
    for number, point in enumerate(curves(live.tally, live.duration_s)):
        assert told["serving/goodput_rps"][number] == point["serving/goodput_rps"]
        assert told["serving/servers_used"][number] == point["serving/servers_used"]
        assert told["serving/accuracy"][number] == pytest.approx(point["serving/accuracy"])


def test_its_figures_are_those_of_a_run_on_the_same_requests(record: Record, tmp_path: Path) -> None:
    file, _ = record(initial_rps=20.0)
    followed(file, ["loki"], tmp_path / "runs").close()
    done = run_twin(what_if(file, {"policy": "loki"})[0])
    shown = points(tmp_path / "runs/twin/loki/live/seed0")
    for number, point in enumerate(curves(done.tally, done.duration_s)):
        for tag in SERVING:
            assert shown[tag][number] == pytest.approx(point[tag]), (tag, number)


def test_its_figures_in_all_stand_beside_the_planes(record: Record, tmp_path: Path) -> None:
    file, _ = record(initial_rps=20.0)
    _, live = what_if(file, {})
    live = replace(live, options=options_of(file, read_head(file)))
    logdir = tmp_path / "runs"
    followed(file, ["loki", "hardware"], logdir).close()
    told = read_figures(live, ["loki", "hardware"], logdir)
    assert told.notes(live.summary.arrivals) == []
    assert [(one.options.policy, one.options.driver) for one in told.done] == [("loki", "twin"), ("hardware", "twin")]
    for one in told.done:
        alone = run_twin(what_if(file, {"policy": one.options.policy})[0]).summary
        assert (one.summary.arrivals, one.summary.ok) == (alone.arrivals, alone.ok)
        assert one.summary.accuracy == pytest.approx(alone.accuracy)
        assert one.summary.servers_mean == pytest.approx(alone.servers_mean)
    lines = row_of(table([live, *told.done]), "hardware")
    assert f"{100 * told.done[1].summary.slo_violation_ratio:.2f}" in lines


def test_who_left_no_figures_is_told_of(record: Record, tmp_path: Path) -> None:
    file, _ = record()
    _, live = what_if(file, {})
    live = replace(live, options=options_of(file, read_head(file)))
    names, logdir = ["loki", "hardware", "exact"], tmp_path / "runs"
    followed(file, names, logdir).close()
    (shadow_folder(live.options, "hardware", logdir) / FIGURES).write_text("{")
    (shadow_folder(live.options, "exact", logdir) / FIGURES).unlink()
    told = read_figures(live, names, logdir)
    behind, missing = told.notes(live.summary.arrivals + 5)
    assert behind == f"loki fell behind and met {live.summary.arrivals} of the {live.summary.arrivals + 5} requests"
    assert missing.startswith("what hardware, exact would have done is not known")
    forget_figures(live.options, names, logdir)
    assert read_figures(live, names, logdir).missing == names


def row_of(shown: Table, policy: str) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(shown)
    return next(line for line in console.export_text().splitlines() if policy in line)


def test_when_a_run_begins_anew_so_do_its_shadows(record: Record, tmp_path: Path) -> None:
    file, _ = record()
    writer = Writer(file)
    rows: list[AnyRow] = [Usage(5000, 4, 0), Begun(1000.0), Arrival(1000.5, 0.0, 0.0, 0), Usage(0, 2, 1), Usage(1, 3, 0)]
    for row in rows:
        writer.put(row)
    writer.close()
    followed(file, ["loki"], tmp_path / "runs").close()
    assert points(tmp_path / "runs/twin/loki/live/seed0")["serving/demand_rps"] == {0: 1.0, 1: 0.0}
    assert points(tmp_path / "runs/emulated/loki/live/seed0")["serving/servers_used"] == {0: 2.0, 1: 3.0}
    assert read_flight(file)[1].usage["second"].tolist() == [0, 1]
    assert what_if(file, {})[1].summary.servers_mean == 2


def test_what_was_shown_is_forgotten(record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / "long.csv"
    long.write_text("t_seconds,requests\n" + "".join(f"{second},3\n" for second in range(60)))
    monkeypatch.setattr(shadows, "KEEP_S", 5)
    monkeypatch.setattr(shadows, "KEEP_PLANS", 7)
    file, done = record(trace=str(long), policy="exact")
    follower = followed(file, ["exact"], tmp_path / "runs")
    tallies = [follower._live.tally, follower._shadows[0].twin.tally]
    for tally in tallies:
        assert len(tally.seconds) < 5 + 5
        assert len(tally.plans) <= 7 + 3
        assert tally.arrivals == done.summary.arrivals
    follower.close()
    assert len(points(tmp_path / "runs/twin/exact/live/seed0")["serving/demand_rps"]) == 60


def test_who_needs_the_future_cannot_be_a_shadow(record: Record, small: Path, tmp_path: Path) -> None:
    file, _ = record()
    with pytest.raises(RequestError, match="demand known beforehand"):
        follow(file, ["clairvoyant"], tmp_path / "runs", threading.Event())
    options = ServeOptions(http_port=held_port(), shadow="loki, clairvoyant")
    with pytest.raises(RequestError, match="demand known beforehand"):
        serve_until_stopped(RunOptions(str(small)), options, None, print, tmp_path)
    with pytest.raises(LiveError, match="add --logdir FOLDER"):
        serve_until_stopped(RunOptions(str(small)), replace(options, shadow="loki"), None, print)


def test_shadows_of_a_plane_that_serves(small: Path, crowd: Path, tmp_path: Path) -> None:
    """Real processes: the requests that the plane met are met by all, also by shadows that were started again."""
    native = f"tcp://127.0.0.1:{held_port()}"
    run = RunOptions(str(small), policy="loki", initial_rps=30.0, interval_s=1.0)
    options = ServeOptions(native=native, http_port=held_port(), drain_s=0.0, shadow="exact,loki")
    folders = [tmp_path / "twin" / name / "live/seed0" for name in ("exact", "loki")]

    def shown(folder: Path) -> float:
        with contextlib.suppress(NotFoundError):  # a shadow that begins anew removes what was there
            return sum(points(folder).get("serving/demand_rps", {}).values()) if [*folder.glob("events*")] else 0.0
        return 0.0

    def work() -> list[RunResult]:
        done = replay_trace(native, RunOptions(str(small), str(crowd)))
        eventually(lambda: all(shown(folder) == 100 for folder in folders), "shadows show nothing")
        mine = (pid for pid in os.listdir("/proc") if pid.isdecimal() and os.fsencode(tmp_path) in said(pid))
        (pid,) = (int(pid) for pid in mine if b"recorded.shadows" in said(pid))
        assert os.getpriority(os.PRIO_PROCESS, pid) >= shadows.NICE
        os.kill(pid, signal.SIGKILL)
        for folder in folders:
            for file in folder.iterdir():
                file.unlink()
        eventually(lambda: all(shown(folder) == 100 for folder in folders), "shadows do not come back")
        return [done]

    served, _, (seen,) = while_served(run, options, work, tmp_path)
    told = beside(options, served, tmp_path)
    assert told.notes(100) == []
    assert [(one.options.policy, one.summary.arrivals) for one in told.done] == [("exact", 100), ("loki", 100)]
    assert served.summary.arrivals == seen.summary.arrivals == 100
    live = tmp_path / "emulated/loki/live/seed0"
    assert len(read_flight(live / "flight")[1].arrivals) >= 100
    assert points(folders[0])["shadow/behind_s"]


def said(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
