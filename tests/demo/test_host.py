"""The crowd and the deadline fit what was measured on the host, whatever that is."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from loki_rl.core.pipeline import Latency, Pipeline
from loki_rl.demo import host
from loki_rl.demo.host import ABOVE_BEST, BASE, BELOW_FASTEST, fit, longest_s, planned
from loki_rl.files.config import load_pipeline
from loki_rl.files.profile_file import Capacity


@pytest.fixture(scope="module")
def sound() -> Pipeline:
    """Of the shipped profile, which a quiet host has made."""
    return load_pipeline("reading").pipeline


def slower(pipeline: Pipeline, times: float) -> Pipeline:
    tasks = tuple(
        replace(
            task,
            variants=tuple(
                replace(
                    one,
                    latency={
                        items: Latency(times * row.p50, times * row.p95, times * row.p99)
                        for items, row in one.latency.items()
                    },
                )
                for one in task.variants
            ),
        )
        for task in pipeline.tasks
    )
    return replace(pipeline, tasks=tasks)


def test_where_the_deadline_can_be_met_it_stays(sound: Pipeline) -> None:
    found = fit(Capacity(2, 17.0, 140.0), sound)
    assert found is not None
    assert found.slo_ms is None
    assert found.crowd.base_rps == pytest.approx(BASE * planned(sound, sound.slo_s, sound.best_accuracy))


def test_what_never_rests_is_no_rate_to_begin_with(sound: Pipeline) -> None:
    found = fit(Capacity(2, 5.0, 140.0), sound)
    assert found is not None
    assert found.crowd.base_rps == pytest.approx(BASE * 5.0), "the smaller of what was measured and what is planned"


@pytest.mark.parametrize("times", [3.0, 6.0])
def test_a_slow_host_gets_a_longer_deadline_in_which_its_best_models_do_something(sound: Pipeline, times: float) -> None:
    slow = slower(sound, times)
    found = fit(Capacity(2, 17.0 / times, 140.0 / times), slow)
    assert found is not None
    assert found.slo_ms is not None
    assert found.slo_ms >= 1000 * longest_s(slow)
    assert found.slo_ms % 50 == 0
    assert found.best_rps == planned(slow, found.slo_ms / 1000, slow.best_accuracy) > 0


@pytest.mark.parametrize("times", [1.0, 2.0, 4.0])
def test_the_height_is_above_the_most_accurate_models_and_below_the_fastest(sound: Pipeline, times: float) -> None:
    measured = Capacity(2, 17.0 / times, 140.0 / times)
    found = fit(measured, slower(sound, times))
    assert found is not None
    assert 1.2 * measured.most_accurate_rps < found.crowd.height_rps <= ABOVE_BEST * measured.most_accurate_rps
    assert found.crowd.height_rps <= BELOW_FASTEST * measured.cheapest_rps


def test_where_the_fastest_models_are_hardly_faster_nothing_can_be_shown(sound: Pipeline) -> None:
    assert fit(Capacity(2, 17.0, 30.0), sound) is None


def test_the_longest_picture_takes_all_its_batches(sound: Pipeline) -> None:
    finder, reader = sound.tasks[0].variants[-1], sound.tasks[1].variants[-1]
    assert (finder.name, reader.name) == ("d800", "rs240")
    most, least = max(reader.latency), min(reader.latency)
    one_by_one = finder.latency[1].p95 + 19 * reader.latency[least].p95
    assert finder.latency[1].p95 + reader.latency[most].p95 < longest_s(sound) < 1.5 * one_by_one


def test_a_pause_of_others_is_waited_for_once_and_not_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(host, "TOO_MANY", -1.0)  # whatever they take is too much
    host.wait_for_pause(said.append, wait_s=0.2, look_s=0.05)
    (line,) = said
    assert "waiting up to 0 s" in line
    monkeypatch.setattr(host, "TOO_MANY", 1.0)
    host.wait_for_pause(said.append, wait_s=60.0, look_s=0.05)
    assert len(said) == 1, "nothing is said where nothing is in the way"
