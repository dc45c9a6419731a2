"""Calibration files: what is written comes back, and what cannot be is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loki_rl.files.calibration_file import (
    LEVELS,
    Calibration,
    Contention,
    DelayTimes,
    Fanouts,
    LoadTimes,
    Median,
    Mood,
    PlanTimes,
    Recorded,
    ServiceTimes,
    load_calibration,
)
from loki_rl.files.config import ConfigError, load_pipeline

PIPELINE = load_pipeline("traffic").pipeline
RISING = tuple(1.0 + level for level in LEVELS)
CALIBRATION = Calibration(
    pipeline="traffic",
    host="2 cores",
    created="2026-01-01T00:00:00+00:00",
    command="loki-rl calibrate flight",
    recordings=(Recorded("flight", "exact", 20, 60.0, 1200, 900),),
    services=(
        ServiceTimes("object_detection", "yolov5x", 100, RISING, (Median(1, 30.0), Median(2, 50.0))),
        ServiceTimes(None, None, 900, RISING),
    ),
    loads=(LoadTimes("object_detection", "yolov5x", 3, RISING), LoadTimes(None, None, 9, RISING)),
    fanouts=(Fanouts("object_detection", "yolov5x", "car_classification", (1, 2, 3)),),
    delays=(DelayTimes("dispatch", 900, RISING),),
    plans=(PlanTimes("exact", 60, RISING),),
    contention=Contention((1.0, 0.8, 0.5), 1.7),
    mood=Mood(0.3, 0.5),
)


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    CALIBRATION.save(tmp_path / "new" / "c.json")
    assert load_calibration(tmp_path / "new" / "c.json", PIPELINE) == CALIBRATION
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["c.json"]


def _wrong(tmp_path: Path, change: Any) -> str:
    CALIBRATION.save(tmp_path / "c.json")
    content = json.loads((tmp_path / "c.json").read_text())
    change(content)
    (tmp_path / "c.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError) as caught:
        load_calibration(tmp_path / "c.json", PIPELINE)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c: c.update(version=7), "is of version 7, this program reads 1"),
        (lambda c: c.update(pipeline="reading"), "is of pipeline 'reading', not of 'traffic'"),
        (lambda c: c.update(speed=1), "unknown key 'speed'"),
        (lambda c: c.pop("services"), "the key 'services' is missing"),
        (lambda c: c["services"][0].update(task="find"), "the pipeline has no task 'find'"),
        (lambda c: c["services"][0].update(variant="yolov5"), "no variant 'yolov5'; did you mean"),
        (lambda c: c["services"].pop(), "of all batches together are missing"),
        (lambda c: c["services"][0]["ratio"].reverse(), "must not fall, as those of 'yolov5x' of 'object_detection'"),
        (lambda c: c["delays"][0]["seconds"].reverse(), "must not fall, as those of the delay 'dispatch'"),
        (lambda c: c["plans"][0]["seconds"].pop(), "at 'plans[0].seconds'"),
        (
            lambda c: c["fanouts"][0].update(child="object_detection"),
            "'object_detection' is no child of task 'object_detection'",
        ),
        (lambda c: c["fanouts"][0].update(task="find"), "the pipeline has no task 'find'"),
        (lambda c: c["fanouts"][0].update(items=[0]), "no items, or too many children, of 'yolov5x'"),
        (lambda c: c["fanouts"][0].update(items=[-1]), "at 'fanouts[0].items[0]'"),
        (lambda c: c["services"][0]["profiled"][0].update(batch=1 << 31), "at 'services[0].profiled[0].batch'"),
        (lambda c: c["delays"][0].update(kind="post"), "at 'delays[0].kind'"),
        (lambda c: c["contention"].update(speeds=[1.0, 0.5, 0.8]), "must begin with 1 and not rise"),
        (lambda c: c["contention"].update(speeds=[0.9]), "must begin with 1 and not rise"),
        (lambda c: c["mood"].update(share=2.0), "at 'mood.share'"),
    ],
)
def test_what_cannot_be_is_told(tmp_path: Path, change: Any, told: str) -> None:
    assert told in _wrong(tmp_path, change)


@pytest.mark.parametrize("content", ["", "[]", "{", "\x00", '{"version": 1e400}', "[" * 5000])
def test_what_is_no_calibration_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(ConfigError, match=r"c\.json"):
        Calibration.load(tmp_path / "c.json")


@given(st.lists(st.floats(0.05, 1.0), max_size=8), st.integers(1, 500))
def test_more_at_once_are_never_faster_and_never_get_less_done(falls: list[float], busy: int) -> None:
    speeds = (1.0, *sorted(falls, reverse=True))
    contention = Contention(speeds)
    assert 0 < contention.speed(busy + 1) <= contention.speed(busy) + 1e-12
    if busy >= len(speeds):
        assert (busy + 1) * contention.speed(busy + 1) >= busy * contention.speed(busy) - 1e-9
