"""From a plane at its limit to a profile: which rounds are played, what is read from workers' journals, and what follows."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from loki_rl.core.cluster import build
from loki_rl.core.journal import JournalError, Recorder
from loki_rl.core.messages import Assign, BatchDone, Event, Execute, Loaded, Tick
from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.core.plan import Drift, Snapshot
from loki_rl.core.requests.items import Family
from loki_rl.files.config import PipelineFile, TaskSpec
from loki_rl.files.profile_file import Fanout, Load, ProfileFile, StageAccuracy, Timing
from loki_rl.serving.engines.engine import EngineError
from loki_rl.serving.profiling.as_served import SPREAD, TRIES, doubt, make_rounds, quietest, rounds_policy
from loki_rl.serving.profiling.rescale import LEAST, MARGIN, SETTLE_S, Round, completed_rps, rescaled, steady_batches
from loki_rl.serving.profiling.worker_log import Batch, ModelLoad, WorkerLog, read_workers


def times(ms: float) -> dict[int, Latency]:
    return {n: Latency(n * ms / 1000, n * ms / 1000, n * ms / 1000) for n in (1, 2, 4)}


FIND, READ = 0, 1
PIPELINE = Pipeline(
    name="small",
    slo_s=0.5,
    tasks=(
        Task("find", (Variant("f1", 0.6, times(5), {"read": 2.0}), Variant("f2", 0.9, times(10), {"read": 3.0})), entry=1.0),
        Task(
            "read",
            (
                Variant("r1", 0.5, times(2)),
                Variant("r2", 0.7, times(4)),
                Variant("r3", 0.65, times(5)),
                Variant("r4", 0.9, times(8)),
            ),
            parent="find",
        ),
    ),
    leaf_weights={"read": 1.0},
    path_accuracy={("f1", "r1"): 0.4, ("f2", "r4"): 0.85},
    padded=False,
    swap="make",
    servers=2,
)


# -- rounds -----------------------------------------------------------------------------------------------------------------


def names(served: Round) -> list[str]:
    return [PIPELINE.tasks[task].variants[variant].name for task, variant in enumerate(served.variants)]


def test_rounds_go_from_the_most_accurate_to_the_fastest_and_every_variant_has_one() -> None:
    rounds = make_rounds(PIPELINE)
    assert [names(one) for one in rounds] == [["f2", "r4"], ["f2", "r2"], ["f1", "r3"], ["f1", "r1"]]
    assert [one.per_request for one in rounds] == [(1.0, 3.0), (1.0, 3.0), (1.0, 2.0), (1.0, 2.0)]
    for one in rounds:
        assert [place.variant for place in one.plan.placements] == names(one)
        assert all(place.replicas == 1 for place in one.plan.placements)


def test_variants_too_slow_for_the_slo_are_measured_all_the_same() -> None:
    rounds = make_rounds(replace(PIPELINE, slo_s=0.02))
    assert [names(one) for one in rounds] == [["f2", "r4"], ["f2", "r2"], ["f1", "r3"], ["f1", "r1"]]


def test_a_server_for_each_task_is_the_least() -> None:
    with pytest.raises(EngineError, match="'small' cannot be measured as served"):
        make_rounds(replace(PIPELINE, servers=1))


def test_the_policy_gives_one_plan_after_the_other_and_stays_with_the_last() -> None:
    plans = [one.plan for one in make_rounds(PIPELINE)]
    policy = rounds_policy("rounds", ClusterOptions(PIPELINE, 2), {"plans": msgspec.to_builtins(plans)})
    drift = (Drift("find", "f1", "", 2.0, {}),)
    asked = [(0, 0.0), (0, 0.0), (4, 0.9), (9, 1.02), (15, 0.0), (20, 0.02), (29, 1.1), (39, 1.02), (80, 0.0)]
    given = [policy.decide(Snapshot(99.0, 10.0, (5,) * seconds, age_s, (), drift=drift)) for seconds, age_s in asked]
    assert [plans.index(plan) for plan in given] == [0, 0, 0, 1, 1, 2, 3, 3, 3]


# -- journals ---------------------------------------------------------------------------------------------------------------


def journal(path: Path, events: list[tuple[float, Event]]) -> None:
    """What a node with worker 0 would leave after these events."""
    options = ClusterOptions(PIPELINE, 2)
    actor = build("worker:0", options)
    with path.open("wb") as stream:
        recorder = Recorder(stream.write, options, {"worker:0": 0})
        for now, event in events:
            recorder.record("worker:0", now, event, actor.handle(event, now))


def batch(number: int, items: int) -> Execute:
    return Execute(number, 1, [Family(100 * number + k, 0.0, 99.0, 0) for k in range(items)])


def done(number: int, error: str = "") -> BatchDone:
    return BatchDone(number, [], 0.5, error)


def test_a_batch_begins_when_the_one_before_it_has_ended(tmp_path: Path) -> None:
    events: list[tuple[float, Event]] = [
        (1.0, Tick()),
        (1.0, Assign(1, READ, 1, 4)),
        (1.25, Loaded(READ, 1, 0.2)),
        (2.0, batch(1, 2)),
        (2.5, batch(3, 4)),  # waits behind the first
        (3.0, done(1)),
        (5.0, done(3)),
        (6.0, batch(5, 1)),
        (7.0, done(5, error="the model failed")),
    ]
    journal(tmp_path / "workers-0.0.journal", events)
    journal(tmp_path / "router-0.0.journal", events)  # of no interest
    log = read_workers(tmp_path)
    assert log.loads == [ModelLoad("worker:0", READ, 1, 1.0, 1.25)]
    assert log.batches == [Batch("worker:0", READ, 1, 2, 2.0, 3.0), Batch("worker:0", READ, 1, 4, 3.0, 5.0)]


def test_a_damaged_journal_is_told(tmp_path: Path) -> None:
    (tmp_path / "workers-0.0.journal").write_bytes(b"no journal")
    with pytest.raises(JournalError):
        read_workers(tmp_path)


# -- what follows -----------------------------------------------------------------------------------------------------------


def back_to_back(task: int, variant: int, items: int, seconds: float, begin: float, count: int = 40) -> list[Batch]:
    worker = f"worker:{task}"
    starts = [begin + number * seconds for number in range(count)]
    return [Batch(worker, task, variant, items, start, start + seconds) for start in starts]


def test_only_the_rounds_own_variants_count_and_only_once_all_is_loaded_and_settled() -> None:
    first = make_rounds(PIPELINE)[0]
    batches = back_to_back(FIND, 1, 1, 0.25, 10.0, 24) + back_to_back(FIND, 0, 1, 0.25, 10.0, 24)
    log = WorkerLog(batches, [ModelLoad("worker:0", FIND, 1, 9.0, 9.5), ModelLoad("worker:1", READ, 3, 10.0, 11.0)])
    found = steady_batches(first, (10.0, 15.0), log)
    assert {one.variant for one in found} == {1}
    assert found[0].begin == 11.0 + SETTLE_S
    assert found[-1].end == 15.0


def test_the_task_at_its_limit_decides_how_many_requests_are_completed() -> None:
    served = make_rounds(PIPELINE)[0]  # 1 to find and 3 to read a request
    reading = back_to_back(READ, 3, 3, 0.25, 0.0)  # 4 requests a second
    idle = [replace(one, end=one.begin + 0.01) for one in back_to_back(FIND, 1, 1, 0.25, 0.0)]
    assert completed_rps(served, [*reading, *idle]) == pytest.approx(4.0)
    ahead = back_to_back(FIND, 1, 1, 0.1, 0.0, 100)  # always busy too, and filling the queue between them
    assert completed_rps(served, [*reading, *ahead]) == pytest.approx(4.0)
    with pytest.raises(EngineError, match="served too little"):
        completed_rps(served, reading[: LEAST - 1])


PROFILE = ProfileFile(
    device="cpu",
    provider="CPUExecutionProvider",
    ort_version="1.22",
    padded=False,
    as_served=False,
    created="2026-01-01T00:00:00+00:00",
    command="loki-rl profile small",
    provenance="made up",
    variants=tuple(
        Timing(task.name, variant.name, n, 1000 * row.p50, 1000 * row.p95, 1000 * row.p99)
        for task in PIPELINE.tasks
        for variant in task.variants
        for n, row in variant.latency.items()
    ),
    loads=tuple(Load(task.name, variant.name, 0.1, 10) for task in PIPELINE.tasks for variant in task.variants),
    accuracies=tuple(StageAccuracy(task.name, one.name, one.accuracy) for task in PIPELINE.tasks for one in task.variants),
    fanouts=(Fanout("find", "f1", "read", 2.0), Fanout("find", "f2", "read", 3.0)),
)


def log_of(spans: list[tuple[float, float]], slow: dict[str, float]) -> WorkerLog:
    """Every round's variants at these multiples of their isolated times, every tenth batch three times as long."""
    log = WorkerLog()
    for served, (begin, _) in zip(make_rounds(PIPELINE), spans, strict=True):
        for task, variant in enumerate(served.variants):
            one = PIPELINE.tasks[task].variants[variant]
            now = begin + SETTLE_S
            for number in range(40):
                seconds = one.latency[1].p50 * slow[one.name] * (3 if number % 10 == 9 else 1)
                log.batches.append(Batch(f"worker:{task}", task, variant, 1, now, now + seconds))
                now += seconds
    return log


SPANS = [(100.0 * number, 100.0 * number + 100) for number in range(4)]
SLOW = {"f1": 1.5, "f2": 1.2, "r1": 2.0, "r2": 1.4, "r3": 1.3, "r4": 1.1}


FILE = PipelineFile(
    name="small",
    path=Path("small.yaml"),
    tree=tuple(
        TaskSpec(task.name, task.parent, task.entry, tuple(one.name for one in task.variants)) for task in PIPELINE.tasks
    ),
    models={},
    repository=Path("models"),
    profile=None,
    named_profile=None,
    own_profile=None,
    provenance="measured",
    source="",
    measured=PROFILE,
    known=PIPELINE,
)


def rescaled_by(log: WorkerLog) -> ProfileFile:
    return rescaled(FILE, make_rounds(PIPELINE), SPANS, log)


def test_each_variant_is_slowed_by_what_its_batches_took_median_and_tail() -> None:
    made = rescaled_by(log_of(SPANS, SLOW))
    rows = {(row.variant, row.batch): row for row in made.variants}
    for name, factor in SLOW.items():
        isolated = next(one for task in PIPELINE.tasks for one in task.variants if one.name == name)
        for n in (1, 2, 4):
            assert rows[name, n].p50_ms == pytest.approx(MARGIN * 1000 * isolated.latency[n].p50 * factor)
            assert rows[name, n].p95_ms == pytest.approx(3 * rows[name, n].p50_ms)
    assert made.as_served
    assert made.accuracies == PROFILE.accuracies
    assert "320 batches" in made.provenance


def test_waiting_for_a_core_stays_in_the_times_and_is_told_with_how_sure_they_are() -> None:
    log = log_of(SPANS, SLOW)
    log.batches = [replace(one, waited=0.25 * one.seconds) for one in log.batches]
    made = rescaled_by(log)
    assert [row.p50_ms for row in made.variants] == [row.p50_ms for row in rescaled_by(log_of(SPANS, SLOW)).variants]
    assert all(row.waited == pytest.approx(0.25) for row in made.variants)
    assert all(row.error == pytest.approx(0.0, abs=1e-6) for row in made.variants), "all of their stretches are alike"
    begin = SPANS[0][0]
    log.batches = [replace(one, end=one.end + (one.begin > begin + 5)) for one in log.batches]
    assert any(row.error is not None and row.error > 0.1 for row in rescaled_by(log).variants)


def test_a_variant_that_was_not_served_is_taken_to_be_as_slow_as_its_neighbours_became() -> None:
    log = log_of(SPANS, SLOW)
    log.batches = [one for one in log.batches if (one.task, one.variant) != (READ, 2)]
    rows = {(row.variant, row.batch): row.p50_ms for row in rescaled_by(log).variants}
    assert rows["r3", 1] == pytest.approx(MARGIN * 5 * 1.4)


def test_what_every_batch_takes_beyond_its_model_weighs_on_small_ones() -> None:
    log = log_of(SPANS, dict.fromkeys(SLOW, 1.0))
    begin, number = SPANS[1][0] + SETTLE_S + 10, READ
    for items in (1, 2, 3, 4):
        mine = back_to_back(number, 1, items, 0.003 + 1.5 * PIPELINE.service_s[READ][1][items], begin + 5 * items, 100)
        log.batches += mine
    log.batches = [one for one in log.batches if (one.task, one.variant, one.items) != (READ, 1, 1) or one.begin > begin]
    rows = {(row.variant, row.batch): row.p50_ms for row in rescaled_by(log).variants}
    assert rows["r2", 1] == pytest.approx(MARGIN * (3 + 1.5 * 4), rel=0.01)
    assert rows["r2", 4] == pytest.approx(MARGIN * (3 + 1.5 * 16), rel=0.01)
    assert rows["r1", 1] == pytest.approx(MARGIN * 3)  # its median stays, though it had batches of one size only


def test_loads_are_those_beside_running_batches_where_one_was_seen() -> None:
    log = log_of(SPANS, SLOW)
    log.loads.append(ModelLoad("worker:1", READ, 1, 100.0, 100.25))
    seen = {row.variant: row.load_s for row in rescaled_by(log).loads}
    assert seen["r2"] == 0.25
    assert seen["r1"] == 0.1


def test_the_capacity_of_both_ends_is_kept() -> None:
    found = rescaled_by(log_of(SPANS, dict.fromkeys(SLOW, 1.0))).capacity
    assert found is not None
    assert found.servers == 2
    assert found.most_accurate_rps == pytest.approx(1 / (3 * 0.008 * 1.2), rel=0.1)
    assert found.cheapest_rps == pytest.approx(1 / (0.005 * 1.2), rel=0.1)


def beside(neighbours: float, tail: float = 1.5) -> ProfileFile:
    """As served while others took so much of the cores; p95 over p50 of all models."""
    log = log_of(SPANS, dict.fromkeys(SLOW, 1.0))
    made = rescaled(FILE, make_rounds(PIPELINE), SPANS, log, neighbours)
    return replace(made, variants=tuple(replace(row, p95_ms=tail * row.p50_ms) for row in made.variants))


def test_a_quiet_host_is_measured_once() -> None:
    quiet = beside(0.05)
    assert quietest(iter([quiet]).__next__) is quiet


@pytest.mark.parametrize("disturbed", [beside(0.3), beside(0.05, tail=1.1 * SPREAD)])
def test_a_disturbed_host_is_measured_until_it_is_quiet(disturbed: ProfileFile) -> None:
    quiet = beside(0.02)
    assert quietest(iter([disturbed, quiet]).__next__) is quiet


def test_of_busy_times_the_quietest_counts_and_what_is_doubtful_is_told() -> None:
    made = [beside(0.7), beside(0.5), beside(0.6)]
    assert len(made) == TRIES
    kept = quietest(iter(made).__next__)
    assert kept is made[1]
    assert "50%" in doubt(kept)
    assert doubt(beside(0.3)) == doubt(PROFILE) == ""


def test_a_task_that_never_ran_cannot_be_judged() -> None:
    log = log_of(SPANS, SLOW)
    log.batches = [one for one in log.batches if one.task == FIND]
    with pytest.raises(EngineError, match="task 'read' ran too few batches"):
        rescaled_by(log)
