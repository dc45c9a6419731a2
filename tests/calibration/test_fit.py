"""What is fitted to a run of the twin is what the twin was told, and recordings that say too little are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from loki_rl.calibration.fit import CalibrationError, Recording, calibrate, quantiles, read_recordings
from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.core.plan import Placement, Plan, Snapshot
from loki_rl.env.calibrated import mean_of
from loki_rl.env.simulate import simulate
from loki_rl.env.world import Habits
from loki_rl.files.calibration_file import (
    LEVELS,
    Calibration,
    Contention,
    Delay,
    DelayTimes,
    LoadTimes,
    Mood,
    PlanTimes,
    Quantiles,
    ServiceTimes,
)
from loki_rl.flight.columns import Collector, Flight
from loki_rl.flight.file import VERSION, Head, Writer, begin
from loki_rl.flight.rows import AnyRow
from loki_rl.flight.sifter import Sifter

SERVERS, SECONDS = 4, 60.0


def _variant(name: str, ms: float, fanout: dict[str, float]) -> Variant:
    return Variant(name, 1.0, {n: Latency(*(ms * n / 1000,) * 3) for n in (1, 2, 4)}, fanout, load_s=0.4)


PIPELINE = Pipeline(
    "pair",
    0.4,
    (
        Task("detect", (_variant("small", 6.0, {"read": 2.0}), _variant("large", 12.0, {"read": 2.0})), entry=1.0),
        Task("read", (_variant("good", 5.0, {}),), "detect"),
    ),
    {"read": 1.0},
    padded=False,
    servers=SERVERS,
)


def _decide(snapshot: Snapshot) -> Plan:
    """The detector changes every five seconds."""
    variant = "small" if int(snapshot.now / 5.0) % 2 else "large"
    places = (Placement("detect", variant, 2, 2), Placement("read", "good", 4, 2))
    return Plan("hardware", places, 4, 1.0, 1.0, 80.0, 100.0, {"detect": 0.5, "read": 1.0}, {"detect": {variant: 1.0}})


def _tail(low: float, middle: float, high: float) -> Quantiles:
    """Half of it between low and middle, the rest spread out to high, more thinly at the end."""
    return tuple(
        low + 2 * level * (middle - low) if level <= 0.5 else middle + (2 * level - 1) ** 3 * (high - middle)
        for level in LEVELS
    )


def _fly(calibration: Calibration, rps: float, seed: int = 1, seconds: float = SECONDS) -> Recording:
    rows: list[AnyRow] = []
    options = ClusterOptions(PIPELINE, SERVERS, seed=seed, interval_s=1.0)
    times = np.sort(np.random.default_rng(seed).uniform(0.0, seconds, int(rps * seconds)))
    sifter = Sifter(rows.append, PIPELINE)
    simulate(options, _decide, times, seconds, record=sifter.record, habits=Habits(calibration))
    collector = Collector()
    collector.add(rows)
    return Recording("flight", Head(VERSION, options, '{"policy": "exact"}', "a host", 0.0, 0.0), collector.flight())


def _known(speeds: tuple[float, ...], mood: Mood) -> Calibration:
    delays: dict[Delay, Quantiles] = {
        "dispatch": _tail(0.0002, 0.0005, 0.01),
        "result": _tail(0.0001, 0.0003, 0.02),
        "message": _tail(0.0002, 0.0004, 0.01),
        "handover": _tail(0.0001, 0.0002, 0.004),
        "handover_next": _tail(0.0003, 0.001, 0.008),
        "timer": _tail(0.0, 0.001, 0.006),
    }
    return Calibration(
        pipeline="pair",
        host="a host",
        created="",
        command="",
        recordings=(),
        services=(
            ServiceTimes("detect", "small", 1, _tail(1.0, 1.4, 6.0)),
            ServiceTimes("detect", "large", 1, _tail(0.5, 0.6, 1.0)),
            ServiceTimes("read", "good", 1, _tail(0.8, 1.0, 4.0)),
            ServiceTimes(None, None, 1, _tail(1.0, 1.0, 1.0)),
        ),
        loads=(LoadTimes("detect", "small", 1, _tail(0.1, 0.2, 0.5)), LoadTimes("detect", "large", 1, _tail(0.3, 0.4, 0.6))),
        delays=tuple(DelayTimes(kind, 1, row) for kind, row in delays.items()),
        plans=(PlanTimes(None, 1, _tail(0.002, 0.01, 0.1)),),
        contention=Contention(speeds),
        mood=mood,
    )


@pytest.mark.parametrize(
    ("speeds", "mood"),
    [((1.0,), Mood()), ((1.0, 0.8, 0.6, 0.5), Mood()), ((1.0, 0.55, 0.4), Mood(0.3, 0.5)), ((1.0,), Mood(0.5, 1.0))],
)
def test_what_the_twin_was_told_is_found_again(speeds: tuple[float, ...], mood: Mood) -> None:
    known = _known(speeds, mood)
    found = calibrate([_fly(known, rps) for rps in (20.0, 60.0)], "loki-rl calibrate flight")
    services = {(row.task, row.variant): row for row in found.services}
    near = 0.15 + 0.2 * mood.share  # two minutes have few moods in them
    for row in known.services[:3]:
        seen = services[row.task, row.variant].ratio
        assert mean_of(seen) == pytest.approx(mean_of(row.ratio), rel=near)
        assert seen[LEVELS.index(0.5)] == pytest.approx(row.ratio[LEVELS.index(0.5)], rel=near)
        assert seen[LEVELS.index(0.95)] == pytest.approx(row.ratio[LEVELS.index(0.95)], rel=near + 0.05)
    for busy in range(1, 5):
        assert found.contention.speed(busy) == pytest.approx(known.contention.speed(busy), rel=0.15)
    assert found.mood.share == pytest.approx(mood.share, abs=0.12)
    if mood.share:
        assert 0.3 < found.mood.memory_s / mood.memory_s < 3.0
    delays = {row.kind: row.seconds for row in found.delays}
    for delay in known.delays:
        if delay.kind == "timer":  # whoever is woken by something else before shows less
            assert 0.1 < mean_of(delays[delay.kind]) / mean_of(delay.seconds) < 1.1
        elif delay.kind != "message":  # of these none is seen by itself
            assert mean_of(delays[delay.kind]) == pytest.approx(mean_of(delay.seconds), rel=0.15)
    plans = {row.policy: row.seconds for row in found.plans}
    assert mean_of(plans["exact"]) == mean_of(plans[None]) == pytest.approx(mean_of(known.plans[0].seconds), rel=0.35)
    loads = {(row.task, row.variant): row.quantiles for row in found.loads}
    for load in known.loads:
        assert mean_of(loads[load.task, load.variant]) == pytest.approx(mean_of(load.quantiles), rel=0.3)


def test_a_twin_that_plays_what_was_fitted_does_as_the_run_did() -> None:
    """Another seed than that of the recordings, and a load between theirs."""
    known = _known((1.0, 0.7, 0.5), Mood(0.3, 0.5))
    found = calibrate([_fly(known, rps) for rps in (20.0, 60.0)], "")
    there, here = (_fly(one, 40.0, seed=9).flight for one in (known, found))
    plain = _fly(
        replace(known, services=(ServiceTimes(None, None, 1, (1.0,) * len(LEVELS)),), contention=Contention()), 40.0, 9
    )
    for level in (0.5, 0.9, 0.99):
        wanted, seen, told = (_latency(flight, level) for flight in (there, here, plain.flight))
        assert seen == pytest.approx(wanted, rel=0.12)
        assert abs(seen - wanted) < abs(told - wanted)


def _latency(flight: Flight, level: float) -> float:
    answers = flight.answers
    return float(np.quantile(answers["latency_s"][answers["outcome"] == 0], level))


def test_recordings_are_read_and_told_of(tmp_path: Path) -> None:
    flown = _fly(_known((1.0,), Mood()), 20.0, seconds=10.0)
    begin(tmp_path / "flight", flown.head)
    writer = Writer(tmp_path / "flight")
    rows: list[AnyRow] = []
    times = np.arange(0.0, 10.0, 0.05)
    simulate(flown.head.cluster, _decide, times, 10.0, record=Sifter(rows.append, PIPELINE).record)
    for row in rows:
        writer.put(row)
    writer.close()
    found = calibrate(read_recordings([tmp_path / "flight"]), "as it was")
    assert (found.pipeline, found.host, found.command) == ("pair", "a host", "as it was")
    (told,) = found.recordings
    assert (told.file, told.policy, told.servers, told.arrivals) == (str(tmp_path / "flight"), "exact", SERVERS, 200)
    assert found.contention.alone
    assert not found.mood.share
    found.save(tmp_path / "c.json")
    assert Calibration.load(tmp_path / "c.json") == found


def test_too_few_batches_are_counted() -> None:
    short = _fly(_known((1.0,), Mood()), 5.0, seconds=3.0)
    with pytest.raises(CalibrationError, match=r"have \d+ batches that went well, and 200 are wanted; record a longer run"):
        calibrate([short], "")


def test_nothing_at_all_and_another_pipeline_are_told() -> None:
    flown = _fly(_known((1.0,), Mood()), 20.0, seconds=5.0)
    empty = Recording("nothing", flown.head, Collector().flight())
    with pytest.raises(CalibrationError, match="nothing has no batch in it; record a run with requests"):
        calibrate([empty], "")
    other = replace(flown.head, cluster=replace(flown.head.cluster, pipeline=replace(PIPELINE, name="other")))
    with pytest.raises(CalibrationError, match="flight is of pipeline 'other' and flight of 'pair'"):
        calibrate([Recording("flight", other, flown.flight), flown], "")


def test_quantiles_are_at_the_levels_and_not_below_zero() -> None:
    assert quantiles(np.array([-1.0, 0.0, 1.0]))[0] == 0.0
    assert quantiles(np.arange(1001.0))[LEVELS.index(0.99)] == 990.0
