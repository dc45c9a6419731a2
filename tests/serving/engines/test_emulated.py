"""The emulated engine keeps the profiled times to the clock it is given, and draws what the twin draws."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator

import pytest

from loki_rl.core.draws import batch_seconds, fanouts
from loki_rl.core.effects import Effect, Load, Run, Solve, Unload
from loki_rl.core.messages import BatchDone, Event, Loaded
from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.core.plan import Snapshot
from loki_rl.core.requests.items import Family
from loki_rl.serving.engines.emulated import EmulatedEngine
from loki_rl.serving.transport.timers import DeadlineTimer

ROWS = {1: Latency(0.010, 0.020, 0.030), 2: Latency(0.015, 0.030, 0.045)}
PIPELINE = Pipeline(
    name="tiny",
    slo_s=1.0,
    tasks=(
        Task("find", (Variant("v", 1.0, ROWS, {"read": 3.0}, load_s=2.0),), entry=1.0),
        Task("read", (Variant("w", 1.0, ROWS),), parent="find"),
    ),
    leaf_weights={"read": 1.0},
)
OPTIONS = ClusterOptions(PIPELINE, servers=2, seed=7)
NEVER = 1e6


@pytest.fixture
def engine() -> Iterator[EmulatedEngine]:
    made = EmulatedEngine(OPTIONS)
    yield made
    made.close()


def run(batch: int, *ids: int, task: int = 0) -> Run:
    return Run(batch, task, 0, [Family(item, 0.0, 1.0, 0) for item in ids])


def collect(engine: EmulatedEngine, now: float) -> list[tuple[str, Event]]:
    return [(letter.to, letter.message) for letter, frames in engine.collect(now) if not frames]


def test_a_batch_ends_after_its_keyed_time_with_its_keyed_children(engine: EmulatedEngine) -> None:
    engine.carry("worker:0", run(5, 11, 12), 100.0)
    seconds = batch_seconds(7, PIPELINE, 5, 0, 0, 2)
    assert collect(engine, 100.0 + seconds - 1e-6) == []
    made = [fanouts(7, PIPELINE, item, 0, 0) for item in (11, 12)]
    assert collect(engine, 100.0 + seconds) == [("worker:0", BatchDone(5, made, seconds))]
    assert collect(engine, NEVER) == []


def test_a_second_batch_runs_after_the_first_however_late_that_is_noticed(engine: EmulatedEngine) -> None:
    for batch in (1, 2, 3):
        engine.carry("worker:0", run(batch, batch), 100.0)
    first, second, third = (batch_seconds(7, PIPELINE, batch, 0, 0, 1) for batch in (1, 2, 3))
    assert [event.batch for _, event in collect(engine, 100.0 + first + second) if isinstance(event, BatchDone)] == [1, 2]
    assert engine.ended == 2
    assert engine.latest_s == pytest.approx(second)
    engine.carry("worker:0", run(4, 4), 101.0)
    assert len(collect(engine, 100.0 + first + second + third)) == 1
    assert len(collect(engine, 101.0 + batch_seconds(7, PIPELINE, 4, 0, 0, 1))) == 1


def test_workers_of_one_process_do_not_wait_for_each_other(engine: EmulatedEngine) -> None:
    engine.carry("worker:0", run(1, 1), 100.0)
    engine.carry("worker:1", run(2, 2), 100.0)
    longest = max(batch_seconds(7, PIPELINE, batch, 0, 0, 1) for batch in (1, 2))
    assert sorted(to for to, _ in collect(engine, 100.0 + longest)) == ["worker:0", "worker:1"]


def test_a_load_takes_its_time_and_runs_beside_batches(engine: EmulatedEngine) -> None:
    engine.carry("worker:0", Load(0, 0), 100.0)
    engine.carry("worker:0", Unload(0, 0), 100.0)
    engine.carry("worker:0", run(1, 1), 100.0)
    assert [type(event) for _, event in collect(engine, 101.9)] == [BatchDone]
    assert collect(engine, 102.0) == [("worker:0", Loaded(0, 0, 2.0))]


def test_a_leaf_makes_no_children(engine: EmulatedEngine) -> None:
    engine.carry("worker:0", run(1, 1, 2, task=1), 100.0)
    [(_, event)] = collect(engine, NEVER)
    assert isinstance(event, BatchDone)
    assert event.fanouts == []


def test_its_alarm_wakes_a_poll_at_the_next_end(engine: EmulatedEngine) -> None:
    now = time.monotonic()
    engine.carry("worker:0", run(1, 1), now)
    assert select.select([engine.handle], [], [], 60.0)[0]
    assert time.monotonic() >= now + batch_seconds(7, PIPELINE, 1, 0, 0, 1)
    assert len(collect(engine, time.monotonic())) == 1
    assert not select.select([engine.handle], [], [], 0.0)[0]


def test_an_effect_that_is_not_for_an_engine_is_an_error(engine: EmulatedEngine) -> None:
    effect: Effect = Solve(Snapshot(0.0, 1.0, (), 0.0, ()))
    with pytest.raises(TypeError, match="Solve"):
        engine.carry("worker:0", effect, 0.0)


def test_alarm_is_exact_can_be_moved_and_silenced() -> None:
    timer = DeadlineTimer()
    try:
        timer.set(0.0)
        assert select.select([timer.handle], [], [], 60.0)[0], "a time in the past rings at once"
        timer.clear()
        timer.set(time.monotonic() + 3600)
        timer.set(due := time.monotonic() + 0.02)
        assert select.select([timer.handle], [], [], 60.0)[0]
        assert time.monotonic() >= due
        timer.clear()
        assert not select.select([timer.handle], [], [], 0.0)[0]
        timer.set(0.0)
        timer.set(None)
        assert not select.select([timer.handle], [], [], 0.0)[0]
    finally:
        timer.close()
