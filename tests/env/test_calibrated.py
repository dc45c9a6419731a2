"""The calibrated twin: what it takes is what the calibration says, whatever goes wrong beside it, and again the same."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from loki_rl.core.effects import Effect, Load, Run, Send, Solve
from loki_rl.core.journal import Recorder, replay
from loki_rl.core.messages import BatchDone, Event, Execute, Loaded, Outcome, Planned, number_of
from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.core.plan import Placement, Plan, Snapshot
from loki_rl.env.calibrated import CommonMood, mean_of, quantile
from loki_rl.env.faults import NO_FAULTS, Crash, Faults, Slow
from loki_rl.env.simulate import Simulation, simulate
from loki_rl.env.world import Habits
from loki_rl.files.calibration_file import (
    LEVELS,
    Calibration,
    Contention,
    DelayTimes,
    LoadTimes,
    Median,
    Mood,
    PlanTimes,
    ServiceTimes,
)

SERVERS, SECONDS = 4, 10.0
MS = 0.001


def _pipeline(ms: float = 8.0) -> Pipeline:
    def variant(name: str, ms: float, fanout: dict[str, float]) -> Variant:
        latency = {n: Latency(*(ms * n * MS,) * 3) for n in (1, 2, 4)}
        return Variant(name, 1.0, latency, fanout, load_s=0.5)

    tasks = (
        Task("detect", (variant("large", ms, {"read": 2.0}),), entry=1.0),
        Task("read", (variant("good", 3.0, {}),), "detect"),
    )
    return Pipeline("pair", 0.3, tasks, {"read": 1.0}, padded=False, servers=SERVERS)


def _flat(value: float) -> tuple[float, ...]:
    return (value,) * len(LEVELS)


def _spread(low: float, high: float) -> tuple[float, ...]:
    return tuple(low + level * (high - low) for level in LEVELS)


def _calibration(**change: Any) -> Calibration:
    plain = Calibration(
        pipeline="pair",
        host="here",
        created="",
        command="",
        recordings=(),
        services=(ServiceTimes(None, None, 100, _flat(1.0)),),
    )
    return replace(plain, **change)


def _decide(snapshot: Snapshot) -> Plan:
    left = len(snapshot.servers) - 2
    places = [Placement("detect", "large", 2, 2), *([Placement("read", "good", 4, left)] if left > 0 else [])]
    split = {"detect": 0.5, "read": 1.0}
    return Plan("hardware", tuple(places), left + 2, 1.0, 1.0, 80.0, 100.0, split, {"detect": {"large": 1.0}})


Call = tuple[str, float, Event, list[Effect]]


def _run(
    calibration: Calibration, faults: Faults = NO_FAULTS, seed: int = 0, rps: float = 60.0, pipeline: Pipeline | None = None
) -> tuple[Simulation, list[Call]]:
    calls: list[Call] = []
    options = ClusterOptions(pipeline or _pipeline(), SERVERS, seed=seed, interval_s=1.0)
    times = np.sort(np.random.default_rng(seed).uniform(0.0, SECONDS, int(rps * SECONDS)))
    done = simulate(
        options,
        _decide,
        times,
        SECONDS,
        record=lambda *call: calls.append(call),
        check=True,
        faults=faults,
        habits=Habits(calibration, "exact"),
    )
    return done, calls


def _services(calls: list[Call]) -> list[tuple[int, float, float, float, int]]:
    """Task, begin, end, reported seconds and items of each batch."""
    runs: dict[tuple[str, int], tuple[float, Run]] = {}
    found = []
    for address, now, event, effects in calls:
        if isinstance(event, BatchDone) and (address, event.batch) in runs:
            begin, run = runs.pop((address, event.batch))
            found.append((run.task, begin, now, event.seconds, sum(family.count for family in run.families)))
        for effect in effects:
            if isinstance(effect, Run):
                runs[address, effect.batch] = now, effect
    return found


def test_a_calibration_that_says_what_the_profile_says_changes_nothing() -> None:
    options = ClusterOptions(_pipeline(), SERVERS, interval_s=1.0)
    hop = options.pipeline.hop_s
    times = np.sort(np.random.default_rng(0).uniform(0.0, SECONDS, 600))
    plain = simulate(options, _decide, times, SECONDS)
    known = _calibration(delays=tuple(DelayTimes(kind, 9, _flat(hop)) for kind in ("dispatch", "result", "message")))
    same = simulate(options, _decide, times, SECONDS, habits=Habits(known))
    assert same.tally == plain.tally


def test_batches_take_the_drawn_share_of_what_was_profiled() -> None:
    rows = (
        ServiceTimes("detect", "large", 100, _spread(1.5, 2.5)),
        ServiceTimes("read", None, 100, _flat(3.0)),
        ServiceTimes(None, None, 200, _flat(9.0)),
    )
    _, calls = _run(_calibration(services=rows), rps=40.0)
    detect = np.array([seconds / (8 * MS * n) for task, _, _, seconds, n in _services(calls) if task == 0])
    read = [seconds / (3 * MS * n) for task, _, _, seconds, n in _services(calls) if task == 1]
    assert read == pytest.approx([3.0] * len(read))
    assert np.quantile(detect, (0.1, 0.5, 0.9)) == pytest.approx((1.6, 2.0, 2.4), abs=0.08)


def test_what_was_profiled_when_it_was_recorded_counts_and_not_what_is_believed_now() -> None:
    recorded = tuple(Median(n, 8.0 * n) for n in (1, 2, 4))
    rows = (ServiceTimes("detect", "large", 100, _flat(2.0), recorded), ServiceTimes(None, None, 100, _flat(1.0)))
    _, calls = _run(_calibration(services=rows), rps=20.0, pipeline=_pipeline(ms=4.0))
    found = [seconds / n for task, _, _, seconds, n in _services(calls) if task == 0]
    assert found == pytest.approx([16 * MS] * len(found))


def test_servers_that_are_busy_together_slow_each_other() -> None:
    _, calls = _run(_calibration(contention=Contention((1.0, 0.5, 0.4))), rps=40.0)
    spans = _services(calls)
    marks = sorted({mark for _, begin, end, _, _ in spans for mark in (begin, end)})
    speeds = {0: 1.0, 1: 1.0, 2: 0.5, 3: 0.4, 4: 0.35}
    for task, begin, end, seconds, n in spans[:200]:
        inside = [mark for mark in marks if begin <= mark <= end]
        work = 0.0
        for low, high in pairwise(inside):
            busy = sum(b <= low and e >= high for _, b, e, _, _ in spans)
            work += (high - low) * speeds[busy]
        assert seconds == pytest.approx(end - begin)
        assert work == pytest.approx((8.0, 3.0)[task] * MS * n, rel=1e-6)


def test_delays_are_those_of_their_kind() -> None:
    kinds = {"dispatch": 2.0, "result": 3.0, "message": 4.0, "handover": 5.0, "handover_next": 6.0, "timer": 7.0}
    rows = tuple(DelayTimes(kind, 9, _flat(ms * MS)) for kind, ms in kinds.items())  # type: ignore[arg-type]
    _, calls = _run(_calibration(delays=rows, plans=(PlanTimes("exact", 9, _flat(0.2)), PlanTimes(None, 9, _flat(0.4)))))
    for _, begin, end, seconds, _ in _services(calls):
        assert end - begin - seconds == pytest.approx(5 * MS) or end - begin - seconds == pytest.approx(6 * MS)
    sent = {}
    for address, now, event, effects in calls:
        for effect in effects:
            if isinstance(effect, Send) and isinstance(effect.message, Execute):
                sent[effect.to, effect.message.batch] = now
        if isinstance(event, Execute):
            assert now - sent[address, event.batch] == pytest.approx(2 * MS)
    asked = [now for _, now, _, effects in calls if any(isinstance(effect, Solve) for effect in effects)]
    planned = [now for _, now, event, _ in calls if isinstance(event, Planned)]
    assert np.array(planned) - np.array(asked)[: len(planned)] == pytest.approx(0.2)
    assert all(round(1000 * (now % 1.0)) == 27 for now in asked if now > 0.5), "a timer goes off late"


def test_no_message_overtakes_another_between_the_same_two() -> None:
    _, calls = _run(_calibration(delays=(DelayTimes("message", 9, _spread(0.0, 0.05)),)), rps=30.0)
    sent: dict[tuple[str, str], list[Event]] = {}
    heard: dict[str, list[Event]] = {}
    for address, _, event, effects in calls:
        heard.setdefault(address, []).append(event)
        for effect in effects:
            if isinstance(effect, Send):
                sent.setdefault((address, effect.to), []).append(effect.message)
    assert len(sent) > 5
    for (_, to), messages in sent.items():
        places = {id(event): place for place, event in enumerate(heard.get(to, []))}
        order = [places[id(message)] for message in messages if id(message) in places]
        assert order == sorted(order)


def test_loads_take_what_loads_took() -> None:
    rows = (LoadTimes("read", "good", 5, _flat(1.5)), LoadTimes(None, None, 5, _flat(4.0)))
    _, calls = _run(_calibration(loads=rows))
    begun = {
        (address, effect.task): now for address, now, _, effects in calls for effect in effects if isinstance(effect, Load)
    }
    for address, now, event, _ in calls:
        if isinstance(event, Loaded):
            took = (4.0 * 0.5, 1.5)[event.task]
            assert event.seconds == now - begun[address, event.task] == pytest.approx(took)


def test_what_slows_all_at_a_time_fades_with_the_gap_and_depends_on_the_seed_alone() -> None:
    mood = Mood(0.6, 0.4)
    rng = np.random.default_rng(0)
    one, same, other = CommonMood(mood, 3), CommonMood(mood, 3), CommonMood(mood, 4)
    gaps = 0.1
    shaded = np.array([one.shade(u, gaps * k) for k, u in enumerate(rng.random(20_000))])
    rng = np.random.default_rng(0)
    assert shaded.tolist() == [same.shade(u, gaps * k) for k, u in enumerate(rng.random(20_000))]
    rng = np.random.default_rng(0)
    assert shaded.tolist() != [other.shade(u, gaps * k) for k, u in enumerate(rng.random(20_000))]
    assert np.quantile(shaded, (0.1, 0.5, 0.9)) == pytest.approx((0.1, 0.5, 0.9), abs=0.03)
    from scipy.special import ndtri

    scores = ndtri(shaded)
    for ahead in (1, 4, 10):
        found = float(np.mean(scores[ahead:] * scores[:-ahead]))
        assert found == pytest.approx(0.6 * np.exp(-gaps * ahead / 0.4), abs=0.05)


@given(
    st.lists(st.floats(0, 100), min_size=len(LEVELS), max_size=len(LEVELS)).map(sorted), st.floats(0, 1, exclude_max=True)
)
def test_quantiles_are_met_at_their_levels_and_in_between(values: list[float], u: float) -> None:
    kept = tuple(values)
    assert kept[0] <= quantile(kept, u) <= kept[-1]
    for level, value in zip(LEVELS[:-1], kept[:-1], strict=True):
        assert quantile(kept, level) == value
    drawn = [quantile(kept, (k + 0.5) / 4000) for k in range(4000)]
    assert np.mean(drawn) == pytest.approx(mean_of(kept), rel=0.01, abs=0.01)


EVERYTHING = _calibration(
    services=(ServiceTimes(None, None, 100, _spread(0.5, 3.0)),),
    loads=(LoadTimes(None, None, 9, _spread(0.5, 2.0)),),
    delays=tuple(
        DelayTimes(kind, 9, _spread(0.0, 0.004))
        for kind in ("dispatch", "result", "message", "handover", "handover_next", "timer")
    ),
    plans=(PlanTimes(None, 9, _spread(0.0, 0.3)),),
    contention=Contention((1.0, 0.8, 0.6)),
    mood=Mood(0.4, 0.5),
)
FAULTS = Faults(
    crashes=(Crash(0, 2.0, 1.0), Crash(3, 5.0)), slow=(Slow(1, 3.0, 4.0, 6.0),), metric_lag_s=0.5, service_noise=0.2
)


@settings(max_examples=6, deadline=None)
@given(st.sampled_from([NO_FAULTS, FAULTS]), st.integers(0, 9), st.floats(10, 150))
def test_whatever_happens_every_arrival_ends_once_and_again_the_same(faults: Faults, seed: int, rps: float) -> None:
    done, again = (_run(EVERYTHING, faults, seed, rps)[0] for _ in range(2))
    assert done.tally == again.tally
    assert sum(done.tally.outcome(outcome) for outcome in Outcome) == done.tally.arrivals == int(rps * SECONDS)


def test_the_journal_of_a_calibrated_run_with_faults_replays() -> None:
    """So nobody but actors is in it."""
    blobs: list[bytes] = []
    options = ClusterOptions(_pipeline(), SERVERS, interval_s=1.0)
    lives = {f"worker:{number}": 0 for number in range(SERVERS)} | dict.fromkeys(
        ("gateway", "controller", "router:0", "router:1"), 0
    )
    recorder = Recorder(blobs.append, options, lives)
    times = np.arange(0.0, SECONDS, 0.02)
    simulate(options, _decide, times, SECONDS, record=recorder.record, faults=FAULTS, habits=Habits(EVERYTHING))
    assert replay(blobs, check=True) == len(blobs) - 1


def test_a_slow_server_of_a_fault_is_slow_beside_what_the_host_does() -> None:
    _, calls = _run(_calibration(contention=Contention((1.0, 0.999))), Faults(slow=(Slow(0, 4.0),)), rps=20.0)
    runs: dict[tuple[str, int], tuple[int, int]] = {}
    for address, _, event, effects in calls:
        if isinstance(event, BatchDone):
            number, n = runs.pop((address, event.batch))
            usual = (8.0 if number < 2 else 3.0) * MS * n * (4.0 if number == 0 else 1.0)
            assert event.seconds == pytest.approx(usual, rel=0.01)
        for effect in effects:
            if isinstance(effect, Run):
                runs[address, effect.batch] = number_of(address), sum(family.count for family in effect.families)
