"""Faults of the twin: what each does, that nothing is lost in them, and that the same ones happen again."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from loki_rl.control.policies.named import make_policy
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.core.draws import fanouts
from loki_rl.core.effects import Effect
from loki_rl.core.journal import JournalError, Recorder, read, replay
from loki_rl.core.messages import BatchDone, Event, Outcome, Tick
from loki_rl.core.options import DROPS, ClusterOptions, DropPolicy
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.core.plan import Exclusion, Placement, Plan, Snapshot
from loki_rl.env.faults import NO_FAULTS, Crash, FaultError, Faults, Slow, Unloadable, check_faults, load_faults
from loki_rl.env.histogram import FanoutRow, with_counts
from loki_rl.env.simulate import Simulation, simulate
from loki_rl.files.tables import ConfigError
from loki_rl.runs.options import RunOptions, read_options
from loki_rl.runs.run import prepare
from tests.control.cards import agent_file

SERVERS = 5
SECONDS = 20.0


@cache
def _pipeline() -> Pipeline:
    def variant(name: str, accuracy: float, ms: float, fanout: dict[str, float]) -> Variant:
        latency = {n: Latency(*(ms * (0.5 + n / 2) / 1000,) * 3) for n in (1, 2, 4, 8)}
        return Variant(name, accuracy, latency, fanout, load_s=1.0)

    detect = Task(
        "detect", (variant("small", 0.8, 4.0, {"read": 2.0}), variant("large", 1.0, 8.0, {"read": 3.0})), entry=1.0
    )
    read = Task("read", (variant("fast", 0.9, 2.0, {}), variant("good", 1.0, 3.0, {})), "detect")
    return Pipeline("pair", 0.2, (detect, read), {"read": 1.0}, servers=SERVERS)


def _options(seed: int = 0, drop: DropPolicy = "reroute", interval_s: float = 5.0) -> ClusterOptions:
    return ClusterOptions(_pipeline(), SERVERS, seed=seed, drop=drop, interval_s=interval_s)


def _decide(snapshot: Snapshot) -> Plan:
    """Two detectors and as many readers as there are servers left."""
    left = len(snapshot.servers) - 2
    places = [Placement("detect", "large", 4, 2), *([Placement("read", "good", 8, left)] if left > 0 else [])]
    split = {"detect": 0.5, "read": 1.0}
    return Plan("hardware", tuple(places), left + 2, 1.0, 1.0, 80.0, 100.0, split, {"detect": {"large": 1.0}})


def _arrivals(rps: float = 80.0, seed: int = 0) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    times: np.ndarray[tuple[int], np.dtype[np.float64]] = np.sort(
        np.random.default_rng(seed).random(int(rps * SECONDS)) * SECONDS
    )
    return times


def _run(faults: Faults = NO_FAULTS, drop: DropPolicy = "reroute", seed: int = 0, rps: float = 80.0) -> Simulation:
    return simulate(_options(seed, drop), _decide, _arrivals(rps), SECONDS, check=True, faults=faults)


def _ended(done: Simulation) -> int:
    return sum(done.tally.outcome(outcome) for outcome in Outcome)


def _violations(done: Simulation, low: float, high: float) -> float:
    seconds = [second for number, second in done.tally.seconds.items() if low <= number < high]
    return 1 - sum(second.outcomes[0] for second in seconds) / sum(second.arrivals for second in seconds)


class Service(NamedTuple):
    """A detector's batch of one: where it ran, when it ended, how long it took."""

    address: str
    end: float
    seconds: float


def _services(faults: Faults, seed: int = 0) -> list[Service]:
    found: list[Service] = []

    def record(address: str, now: float, event: Event, effects: list[Effect]) -> None:  # noqa: ARG001
        if isinstance(event, BatchDone) and len(event.fanouts) == 1:
            found.append(Service(address, now, event.seconds))

    simulate(_options(seed), _decide, _arrivals(40.0), SECONDS, record=record, faults=faults)
    return found


def test_without_faults_the_undisturbed_world_is_what_runs() -> None:
    quiet = Faults(crashes=(Crash(0, 1e6),))
    here, there = _run(), _run(quiet)
    assert here.tally == there.tally
    assert here.summary.slo_violation_ratio < 0.01


def test_a_crash_costs_the_time_until_others_or_itself_take_over() -> None:
    away = _run(Faults(crashes=(Crash(4, 5.0),)))
    back = _run(Faults(crashes=(Crash(4, 5.0, down_s=3.0),)))
    for done in (away, back):
        assert _violations(done, 0, 4) < 0.02
        assert _ended(done) == done.tally.arrivals
    assert [record.plan.servers for record in away.tally.plans][-1] == SERVERS - 1
    assert [record.plan.servers for record in back.tally.plans][-1] == SERVERS
    assert [done.tally.seconds[18].servers for done in (away, back)] == [SERVERS - 1, SERVERS]
    assert _violations(back, 12, 20) < 0.02


def test_a_new_plan_is_made_at_once_when_a_server_is_gone() -> None:
    times = [record.time for record in _run(Faults(crashes=(Crash(4, 7.0),))).tally.plans]
    assert any(7.0 < time < 7.1 for time in times)


def test_all_servers_may_die_and_every_request_still_ends_once() -> None:
    done = _run(Faults(crashes=tuple(Crash(server, 10.0) for server in range(SERVERS))))
    assert _ended(done) == done.tally.arrivals
    assert _violations(done, 11, 20) == 1.0


def test_a_variant_that_cannot_be_loaded_is_planned_without_until_it_can() -> None:
    """Found out by the first loads; what was excluded is tried again, in time with success."""
    policy = make_policy("exact", _pipeline(), PolicyOptions(SERVERS))
    broken = Faults(unloadable=(Unloadable("detect", "large", -9.0, 8.0),))
    plans: list[tuple[set[str], tuple[Exclusion, ...]]] = []

    def decide(snapshot: Snapshot) -> Plan:
        plan = policy.decide(snapshot)
        plans.append(({place.variant for place in plan.placements if place.task == "detect"}, snapshot.exclusions))
        return plan

    done = simulate(_options(interval_s=2.0), decide, _arrivals(), SECONDS, check=True, faults=broken)
    assert plans[0] == ({"large"}, ()), "nobody knows yet"
    assert plans[1] == ({"small"}, (Exclusion("detect", "large", "", "variant 'large': a fault of this run"),))
    assert all(variants == {"small"} for variants, gone in plans if gone)
    assert "large" in plans[-1][0], "it was tried again"
    assert _violations(done, 0, SECONDS) < 0.1
    assert _ended(done) == done.tally.arrivals


@pytest.mark.parametrize("name", ["static", "hardware", "proteus", "loki", "exact", "forecast", "learned"])
def test_every_policy_serves_on_without_what_cannot_be_loaded(name: str, tmp_path: Path) -> None:
    model = agent_file(tmp_path, "pair", interval_s=10.0) if name == "learned" else None
    policy = make_policy(name, _pipeline(), PolicyOptions(SERVERS, demand_rps=60.0, model=model))
    gone = tuple(Unloadable(task, variant, -9.0) for task, variant in (("detect", "large"), ("read", "good")))
    done = simulate(_options(), policy.decide, _arrivals(20.0), SECONDS, check=True, faults=Faults(unloadable=gone))
    assert _violations(done, 5, SECONDS) < 0.05
    assert _ended(done) == done.tally.arrivals


def test_the_only_variants_are_tried_until_they_load() -> None:
    gone = tuple(Unloadable("detect", variant, -9.0, 6.0) for variant in ("small", "large"))
    policy = make_policy("exact", _pipeline(), PolicyOptions(SERVERS))
    done = simulate(_options(), policy.decide, _arrivals(40.0), SECONDS, check=True, faults=Faults(unloadable=gone))
    assert _violations(done, 0, 5) == 1.0
    assert _violations(done, 14, SECONDS) < 0.05


def test_a_slow_server_is_slow_while_it_is_said_to_be() -> None:
    done = _services(Faults(slow=(Slow(0, 4.0, 5.0, 10.0),)))
    for one in done:
        slow = one.address == "worker:0" and 5.0 <= one.end - one.seconds < 10.0
        assert one.seconds == pytest.approx(0.032 if slow else 0.008)
    assert {one.address for one in done} == {"worker:0", "worker:1"}
    assert any(one.seconds > 0.03 for one in done)


def test_slow_servers_are_noticed_and_planned_with() -> None:
    seen: list[Snapshot] = []

    def decide(snapshot: Snapshot) -> Plan:
        seen.append(snapshot)
        return _decide(snapshot)

    slow = Faults(slow=tuple(Slow(server, 2.0, 2.0, 12.0) for server in range(SERVERS)))
    done = simulate(_options(), decide, _arrivals(), SECONDS, check=True, faults=slow)
    assert _ended(done) == done.tally.arrivals
    during = {drift.variant: drift.slowdown for snapshot in seen if 6 < snapshot.now < 12 for drift in snapshot.drift}
    assert during == dict.fromkeys(("large", "good", "small", "fast"), pytest.approx(2.0, abs=0.2))
    assert seen[0].drift == seen[-1].drift == (), "before and after it"


def test_late_metrics_are_late_for_the_policy_and_nobody_else() -> None:
    seen: list[Snapshot] = []

    def decide(snapshot: Snapshot) -> Plan:
        seen.append(snapshot)
        return _decide(snapshot)

    arrived = {}
    for lag in (0.0, 3.0):
        seen.clear()
        done = simulate(_options(), decide, _arrivals(), SECONDS, faults=Faults(metric_lag_s=lag))
        arrived[lag] = next(len(snapshot.arrivals) for snapshot in seen if snapshot.now >= 15.0)
        assert done.summary.slo_violation_ratio < 0.01
    assert arrived[0.0] - arrived[3.0] == pytest.approx(3, abs=1)


def test_noise_keeps_the_mean_and_depends_on_seed_and_batch_alone() -> None:
    noisy = _services(Faults(service_noise=0.3))
    factors = np.array([one.seconds for one in noisy]) / 0.008
    assert factors.mean() == pytest.approx(1.0, abs=0.05)
    assert np.log(factors).std() == pytest.approx(0.3, abs=0.03)
    assert noisy == _services(Faults(service_noise=0.3))
    assert noisy != _services(Faults(service_noise=0.3), seed=1)


def test_fan_outs_are_resampled_from_what_was_measured() -> None:
    rows = (FanoutRow("detect", "large", "read", (0.0, 3.0, 0.0, 0.0, 1.0)),)
    done = _run(Faults(fanout=rows))
    roots = done.summary.ok + done.summary.late
    assert (done.tally.executions - roots) / roots == pytest.approx(1.75, abs=0.1)


@given(st.integers(0, 2**40), st.integers(0, 99))
def test_draws_are_keyed_monotone_and_poisson_where_nothing_was_measured(item: int, seed: int) -> None:
    pipeline = _pipeline()
    rows = (
        FanoutRow("detect", "small", "read", (2.0, 1.0, 1.0)),
        FanoutRow("detect", "large", "read", (1.0, 1.0, 2.0)),
    )
    counted = with_counts(pipeline, rows)
    few, many = (fanouts(seed, counted, item, 0, variant) for variant in (0, 1))
    assert few <= many
    assert few == fanouts(seed, counted, item, 0, 0)
    assert fanouts(seed, with_counts(pipeline, rows[:1]), item, 0, 1) == fanouts(seed, pipeline, item, 0, 1)
    assert counted.fanouts == pipeline.fanouts


def test_leaves_of_what_is_lost_are_drawn_as_they_would_have_come() -> None:
    """Nothing serves the first task, so every leaf is one that never was."""
    rows = (FanoutRow("detect", "large", "read", (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)),)
    dead = tuple(Crash(server, 0.0) for server in range(SERVERS))
    done = _run(Faults(crashes=dead, fanout=rows))
    assert done.tally.leaves == done.tally.leaves_bad == 7 * done.tally.arrivals


faults = st.builds(
    Faults,
    crashes=st.dictionaries(
        st.integers(0, SERVERS - 1),
        st.tuples(st.floats(0, SECONDS), st.none() | st.floats(0.1, 10)),
        max_size=SERVERS,
    ).map(lambda drawn: tuple(Crash(server, *when) for server, when in drawn.items())),
    slow=st.lists(st.builds(Slow, st.integers(0, SERVERS - 1), st.floats(0.1, 40), st.floats(0, SECONDS)), max_size=3).map(
        tuple
    ),
    unloadable=st.lists(
        st.builds(Unloadable, st.just("detect"), st.just("large"), st.floats(-9, SECONDS), st.none() | st.just(99.0)),
        max_size=2,
    ).map(tuple),
    metric_lag_s=st.floats(0, 8),
    service_noise=st.floats(0, 1),
)


@settings(max_examples=10, deadline=None)
@given(faults, st.sampled_from(DROPS), st.integers(0, 5))
def test_whatever_happens_every_arrival_ends_once_and_again_the_same(faults: Faults, drop: DropPolicy, seed: int) -> None:
    done, again = (_run(faults, drop, seed, rps=20.0) for _ in range(2))
    assert done.tally == again.tally
    assert _ended(done) == done.tally.arrivals == int(20.0 * SECONDS)


def test_the_journal_of_a_run_with_faults_replays() -> None:
    blobs: list[bytes] = []
    options = _options()
    lives = {f"worker:{number}": 0 for number in range(SERVERS)} | {
        "gateway": 0,
        "controller": 0,
        "router:0": 0,
        "router:1": 0,
    }
    recorder = Recorder(blobs.append, options, lives)
    broken = Faults(crashes=(Crash(2, 3.0, 2.0), Crash(4, 6.0)), service_noise=0.2, metric_lag_s=1.0)
    simulate(options, _decide, _arrivals(40.0), SECONDS, record=recorder.record, faults=broken)
    assert replay(blobs, check=True) == len(blobs) - 1
    lived = {entry.address for entry in read(blobs)[1]}
    assert lived == {*lives, "worker:2#1"}


@pytest.mark.parametrize("address", ["worker:9#1", "worker:0#one", "nobody"])
def test_a_journal_with_a_life_that_cannot_be_is_refused(address: str) -> None:
    blobs: list[bytes] = []
    recorder = Recorder(blobs.append, _options(), {"worker:0": 0})
    recorder.record(address, 0.0, Tick(), [])
    with pytest.raises(JournalError, match=address.partition("#")[0]):
        replay(blobs)


# -- description ------------------------------------------------------------------------------------------------------------


def test_a_file_of_faults_and_its_histogram(tmp_path: Path) -> None:
    (tmp_path / "fan.csv").write_text("task,variant,child,count,weight\ndetect,large,read,2,5\ndetect,large,read,0,1\n")
    text = "crashes: [{server: 1, at_s: 5, down_s: 2}]\nslow: [{server: 0, factor: 3}]\nmetric_lag_s: 1\nfanout: fan.csv\n"
    text += "unloadable: [{task: detect, variant: large, from_s: -9, to_s: 8}]\n"
    (tmp_path / "f.yaml").write_text(text)
    assert load_faults(tmp_path / "f.yaml") == Faults(
        crashes=(Crash(1, 5.0, 2.0),),
        slow=(Slow(0, 3.0),),
        unloadable=(Unloadable("detect", "large", -9.0, 8.0),),
        metric_lag_s=1.0,
        fanout=(FanoutRow("detect", "large", "read", (1.0, 0.0, 5.0)),),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crash: []\n", "unknown key 'crash'; did you mean 'crashes'?"),
        ("crashes: [{server: 1}]\n", "the key 'at_s' is missing; add it"),
        ("slow: [{server: 1, factor: 2, until: 3}]\n", "unknown key 'until'"),
        ("service_noise: much\n", "expected a number, got text"),
        ("", "expected a table of keys and values, got nothing"),
        ("fanout: none.csv\n", "none.csv: cannot be read"),
    ],
)
def test_a_wrong_file_is_told_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "f.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_faults(tmp_path / "f.yaml")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a,b\n", "line 1: expected the columns task,variant,child,count,weight"),
        ("task,variant,child,count,weight\nd,l,r,1\n", "line 2: expected 5 values, got 4"),
        ("task,variant,child,count,weight\nd,l,r,1.5,1\n", "line 2: '1.5,1' is not a whole number and a weight"),
        ("task,variant,child,count,weight\nd,l,r,1,-1\n", "line 2: need a count of 0 to"),
        ("task,variant,child,count,weight\nd,l,r,1,1\nd,l,r,1,2\n", "line 3: the count 1 of l stands twice"),
    ],
)
def test_a_wrong_histogram_is_told_where(tmp_path: Path, rows: str, message: str) -> None:
    (tmp_path / "fan.csv").write_text(rows)
    (tmp_path / "f.yaml").write_text("fanout: fan.csv\n")
    with pytest.raises(ConfigError) as caught:
        load_faults(tmp_path / "f.yaml")
    assert message in str(caught.value)


ROW = FanoutRow("detect", "large", "read", (1.0,))


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        (Faults(crashes=(Crash(5, 1.0),)), "the crash of server 5: servers are numbered 0 to 4"),
        (Faults(crashes=(Crash(0, -1.0),)), "at_s must be at least 0, not -1"),
        (Faults(crashes=(Crash(0, 1.0, 0.0),)), "no process starts in less than 0.1 s"),
        (Faults(crashes=(Crash(0, 1.0, 5.0), Crash(0, 4.0))), "server 0 crashes at 4 s while it is down"),
        (Faults(slow=(Slow(9, 2.0),)), "slow server 9: servers are numbered"),
        (Faults(slow=(Slow(0, 0.0),)), "factor must be above 0"),
        (Faults(slow=(Slow(0, 2.0, 5.0, 5.0),)), "need 0 <= from_s < to_s"),
        (Faults(unloadable=(Unloadable("find", "large"),)), "the pipeline has no task 'find'; it has ['detect', 'read']"),
        (Faults(unloadable=(Unloadable("detect", "huge"),)), "has no such variant; it has ['large', 'small']"),
        (Faults(unloadable=(Unloadable("detect", "large", 5.0, 5.0),)), "need from_s < to_s, not 5 and 5"),
        (Faults(metric_lag_s=-1.0), "metric_lag_s must be at least 0"),
        (Faults(service_noise=3.0), "service_noise must lie in 0..2"),
        (Faults(fanout=(replace(ROW, task="find"),)), "the pipeline has no task 'find'"),
        (Faults(fanout=(replace(ROW, variant="huge"),)), "task 'detect' has no such variant"),
        (Faults(fanout=(replace(ROW, child="detect"),)), "'detect' is not a child of 'detect'"),
        (Faults(fanout=(replace(ROW, weights=(0.0,)),)), "not all 0"),
    ],
)
def test_faults_that_cannot_happen_are_refused(faults: Faults, message: str) -> None:
    with pytest.raises(FaultError) as caught:
        check_faults(faults, _pipeline(), SERVERS)
    assert message in str(caught.value)


def test_faults_are_part_of_what_repeats_a_run_and_not_for_planes() -> None:
    options = RunOptions("traffic", "flash_crowd", "exact", faults=Faults(crashes=(Crash(3, 60.0, 5.0),), fanout=(ROW,)))
    assert read_options(msgspec.json.encode(options)) == options
    with pytest.raises(FaultError, match="by the twin only, not by driver 'emulated'"):
        prepare(replace(options, driver="emulated", faults=Faults(metric_lag_s=1.0)))
