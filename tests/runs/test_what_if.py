"""What a plane was asked, played again: the same requests, and all that was not changed as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from loki_rl.control.policies.named import make_policy
from loki_rl.core.messages import Outcome
from loki_rl.env.simulate import Simulation, simulate
from loki_rl.flight.columns import read_flight
from loki_rl.flight.file import VERSION, FlightError, Head, Writer, begin
from loki_rl.flight.rows import Answer, AnyRow, Arrival, Begun
from loki_rl.flight.sifter import Sifter
from loki_rl.runs.options import RunOptions
from loki_rl.runs.recording import begin_recording, recording_in
from loki_rl.runs.run import prepare, run_plane, run_twin
from loki_rl.runs.what_if import WhatIfError, recording_of, what_if
from loki_rl.traces.demand import TraceError, Wishes
from loki_rl.traces.trace import load_trace

Record = Callable[..., tuple[Path, Simulation]]


@pytest.fixture
def record(small: Path, crowd: Path, tmp_path: Path) -> Record:
    """A recording as a plane makes it, of actors in the twin, and what they counted."""

    def make(wishes: Wishes | None = None, origin: float = 0.0, **change: object) -> tuple[Path, Simulation]:
        options = replace(RunOptions(str(small), str(crowd), "loki", "emulated", rate_scale=3.0), **change)
        scene = prepare(options)
        file = begin_recording(tmp_path / "flight", scene.cluster, options)
        writer = Writer(file)
        policy = make_policy(options.policy, scene.pipeline, scene.policy)
        sifter = Sifter(writer.put, scene.pipeline)
        # On a clock of its own, as a host's is.
        put = Sifter(lambda row: writer.put(_later(row, origin)), scene.pipeline) if origin else sifter
        done = simulate(scene.cluster, policy.decide, scene.times, scene.duration_s, record=put.record, wishes=wishes)
        writer.close()
        return file, done

    return make


def _later(row: AnyRow, origin: float) -> AnyRow:
    moved = [name for name in ("at", "origin", "begin", "end", "asked", "answered") if hasattr(row, name)]
    return replace(row, **{name: getattr(row, name) + origin for name in moved})


def test_what_the_run_made_of_it_is_what_its_ledger_counted(record: Record) -> None:
    file, done = record(origin=123_456.789)
    _, live = what_if(file, {})
    counted = done.summary
    assert live.options.policy == "loki (live)"
    for name in ("arrivals", "ok", "late", "dropped", "rejected", "cancelled", "failed", "servers_mean", "switches"):
        assert getattr(live.summary, name) == getattr(counted, name), name
    assert live.summary.accuracy == pytest.approx(counted.accuracy)
    assert live.summary.p99_ms == pytest.approx(counted.p99_ms, rel=0.011)
    for number, second in done.tally.seconds.items():
        if second.arrivals:
            mine = live.tally.seconds[number]
            assert (mine.arrivals, mine.outcomes, mine.servers) == (second.arrivals, second.outcomes, second.servers)
    live.tally.validate()


def test_another_policy_meets_the_same_requests_bit_by_bit(record: Record) -> None:
    file, _ = record(origin=77.7)
    options, _ = what_if(file, {"policy": "exact", "servers": 3, "slo_ms": 400.0})
    assert (options.driver, options.trace, options.rate_scale) == ("twin", str(file), None)
    assert (options.policy, options.servers, options.slo_ms) == ("exact", 3, 400.0)
    flight = read_flight(file)[1]
    assert flight.origin is not None
    scene = prepare(options)
    assert np.array_equal(scene.times, flight.arrivals["at"] - flight.origin)
    policy = make_policy("exact", scene.pipeline, scene.policy)
    direct = simulate(scene.cluster, policy.decide, flight.arrivals["at"] - flight.origin, scene.duration_s)
    # Plans say how long the solver took.
    assert replace(run_twin(options).tally, plans=[]) == replace(direct.tally, plans=[])
    assert options.pipeline == scene.options.pipeline
    assert scene.cluster.pipeline.slo_s == 0.4


def test_what_requests_asked_for_they_ask_for_again(record: Record, small: Path, crowd: Path) -> None:
    times = prepare(RunOptions(str(small), str(crowd), rate_scale=3.0)).times
    numbers = np.arange(len(times))
    slo_s = prepare(RunOptions(str(small), str(crowd))).pipeline.slo_s
    asked = Wishes(
        (numbers % 3).astype(np.int64),
        np.where(numbers % 5, 0.0, 0.7),
        np.zeros(len(times), np.int64),
        np.choose(numbers % 3, (0.0, slo_s, 0.25)),
    )
    file, done = record(asked)
    trace = load_trace(file)
    assert trace.wishes is not None
    assert trace.wishes.timeout_s is not None
    assert np.array_equal(trace.wishes.priority, asked.priority)
    assert np.array_equal(trace.wishes.min_accuracy, asked.min_accuracy)
    # Who asked for the SLO that was in force then wants the one that is in force now.
    assert np.array_equal(trace.wishes.timeout_s, np.choose(numbers % 3, (0.0, 0.0, 0.25)))
    again = run_twin(what_if(file, {})[0]).summary
    assert again.arrivals == done.summary.arrivals
    assert again.late + again.dropped > 0
    with pytest.raises(TraceError, match="deadlines of single requests are played by the twin only"):
        prepare(replace(what_if(file, {})[0], driver="emulated"))


def test_a_window_of_a_recording_is_played_as_of_any_trace(record: Record) -> None:
    file, done = record()
    options, _ = what_if(file, {"from_s": 1.0, "to_s": 3.0})
    inside = done.tally.seconds[1].arrivals + done.tally.seconds[2].arrivals
    assert run_twin(options).summary.arrivals == inside


def test_a_plane_records_into_its_run_folder(small: Path, crowd: Path, tmp_path: Path) -> None:
    options = RunOptions(str(small), str(crowd), "exact", "emulated", interval_s=1.0)
    done = run_plane(options, tmp_path / "run")
    again, live = what_if(recording_of(tmp_path / "run"), {})
    assert again == replace(options, driver="twin", trace=str(tmp_path / "run" / "flight"))
    assert live.summary.arrivals == done.summary.arrivals == run_twin(again).summary.arrivals


def test_a_recording_that_is_there_is_kept(record: Record) -> None:
    file, _ = record()
    size = file.stat().st_size
    (second, _), (third, _) = record(), record()
    assert (second.name, third.name) == ("flight.2", "flight.3")
    assert file.stat().st_size == size
    assert not recording_in(file.parent).exists()


@pytest.fixture
def cluster_head(small: Path, crowd: Path) -> Head:
    options = RunOptions(str(small), str(crowd))
    return Head(VERSION, prepare(options).cluster, f'{{"pipeline": "{small}"}}', "here", 0.0, 0.0)


def written(file: Path, head: Head, *rows: AnyRow) -> Path:
    begin(file, head)
    writer = Writer(file)
    for row in rows:
        writer.put(row)
    writer.close()
    return file


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "no run has begun in it"),
        ([Begun(0.0)], "nobody asked for anything"),
        ([Arrival(1.0, 0.0, 0.0, 0), Begun(2.0)], "nobody asked for anything"),
        ([Begun(0.0), Arrival(1.0, 0.0, 1.5, 0)], "asks for what no client can"),
        ([Begun(0.0), Arrival(1.0, -1.0, 0.0, 0)], "asks for what no client can"),
        ([Begun(0.0), Arrival(1e9, 0.0, 0.0, 0)], "longer than a replay may last"),
    ],
)
def test_what_cannot_be_played_is_told(cluster_head: Head, tmp_path: Path, rows: list[AnyRow], says: str) -> None:
    options, _ = what_if(written(tmp_path / "flight", cluster_head, *rows), {})
    with pytest.raises(TraceError, match=says):
        prepare(options)


def test_a_pipeline_that_has_changed_since_is_told(cluster_head: Head, tmp_path: Path, small: Path) -> None:
    pipeline = replace(cluster_head.cluster.pipeline, slo_s=9.0)
    other = replace(cluster_head, cluster=replace(cluster_head.cluster, pipeline=pipeline))
    file = written(tmp_path / "flight", other, Begun(0.0), Arrival(0.5, 0.0, 0.0, 0))
    with pytest.raises(WhatIfError, match="is no longer as it was when"):
        what_if(file, {})
    options, _ = what_if(file, {"pipeline": str(small)})
    assert run_twin(options).summary.arrivals == 1


def test_what_does_not_say_how_it_was_run_is_told(cluster_head: Head, tmp_path: Path) -> None:
    with pytest.raises(FlightError, match="does not say how its plane was run"):
        what_if(written(tmp_path / "flight", replace(cluster_head, run="")), {})
    with pytest.raises(FlightError, match="is a recording of version 99"):
        what_if(written(tmp_path / "other", replace(cluster_head, version=99)), {})
    with pytest.raises(FlightError, match="No such file"):
        what_if(tmp_path / "none", {})


def test_requests_that_nobody_answered_have_failed(cluster_head: Head, tmp_path: Path) -> None:
    rows: list[AnyRow] = [
        Begun(5.0),
        Arrival(5.5, 0.0, 0.0, 0),
        Arrival(6.5, 0.0, 0.0, 0),
        Answer(6.6, Outcome.OK, 0.1, 1.0),
    ]
    _, live = what_if(written(tmp_path / "flight", cluster_head, *rows), {})
    assert (live.summary.arrivals, live.summary.ok, live.summary.failed) == (2, 1, 1)
