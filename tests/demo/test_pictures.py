"""The picture that is shown was answered at both moments, and accurate models read in it what fast ones misread."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from rich.text import Text

from loki_rl.demo.crowd import Crowd
from loki_rl.demo.pictures import Answer, choose, report
from loki_rl.reading.recognition import Reading
from loki_rl.reading.scenes import Line, Scene
from loki_rl.serving.gateway.client import Inference

CROWD = Crowd(2.0, 20.0, calm_s=30, rise_s=12, held_s=12)
BEST, GOOD, FAST = "d800 + rs240", "d640 + rs160q", "d320 + rt96"


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """Three pictures with two lines, and one with too many to show."""
    from io import BytesIO

    from PIL import Image

    jpeg = BytesIO()
    Image.new("RGB", (200, 400), (0, 0, 120)).save(jpeg, "JPEG")
    counts = (2, 2, 2, 14)
    return [
        Scene(jpeg.getvalue(), tuple(Line(f"line {k}", (10.0, 20.0 * k, 90.0, 20.0 * k + 15)) for k in range(count)))
        for count in counts
    ]


def answer(scenes: list[Scene], number: int, time_s: float, models: str, wrong: int = 0) -> Answer:
    """All lines of a picture, the first so many of them misread."""
    readings = [
        Reading(f"lime [{k}]" if k < wrong else line.text, 0.9, line.box) for k, line in enumerate(scenes[number].lines)
    ]
    outputs = [np.frombuffer(msgspec.json.encode(one), np.uint8) for one in readings]
    return Answer(number, time_s, Inference(1, "ok", 0.1, 0.8, [models.split(" + ")], 0, "", outputs=outputs))


def test_the_picture_with_the_greatest_difference_is_chosen(scenes: list[Scene]) -> None:
    answers = [
        answer(scenes, 0, 5, BEST), answer(scenes, 0, 45, FAST, wrong=1),
        answer(scenes, 1, 6, BEST), answer(scenes, 1, 46, FAST, wrong=2),
        answer(scenes, 2, 7, BEST, wrong=2), answer(scenes, 2, 47, FAST, wrong=2),
        answer(scenes, 3, 8, BEST), answer(scenes, 3, 48, FAST, wrong=14),
    ]  # fmt: skip
    pair = choose(answers, scenes, CROWD)
    assert pair is not None
    assert (pair.number, pair.before.right, pair.height.right) == (1, 2, 0)


def test_only_the_calm_and_the_height_count(scenes: list[Scene]) -> None:
    rising = [answer(scenes, 0, 5, BEST), answer(scenes, 0, 35, FAST, wrong=1)]
    assert choose(rising, scenes, CROWD) is None
    assert choose([answer(scenes, 0, 45, FAST)], scenes, CROWD) is None


def said(scenes: list[Scene], before: str, height: str, path: Path, wrong: int = 1) -> str:
    answers = [answer(scenes, 0, 5, before), answer(scenes, 0, 45, height, wrong=wrong)]
    return Text.from_markup("\n".join(report(choose(answers, scenes, CROWD), scenes, BEST, path))).plain


def test_both_readings_are_told_and_drawn(scenes: list[Scene], tmp_path: Path) -> None:
    text = said(scenes, BEST, FAST, tmp_path / "reading.png")
    assert f"before the crowd, {BEST}: 2 of 2 lines right" in text
    assert f"at its height, {FAST}: 1 of 2 lines right: 'lime [0]' for 'line 0'" in text
    assert (tmp_path / "reading.png").is_file()
    assert "not the most accurate" not in text


def test_the_same_models_at_both_times_are_called_that(scenes: list[Scene], tmp_path: Path) -> None:
    assert "The same models read it at both times" in said(scenes, GOOD, GOOD, tmp_path / "reading.png", wrong=0)


def test_models_that_are_not_the_most_accurate_are_called_that(scenes: list[Scene], tmp_path: Path) -> None:
    text = said(scenes, GOOD, FAST, tmp_path / "reading.png")
    assert f"these were not the most accurate models, which are {BEST}" in text


def test_without_a_picture_none_is_left_of_an_earlier_demo(scenes: list[Scene], tmp_path: Path) -> None:
    path = tmp_path / "reading.png"
    path.write_bytes(b"of an earlier demo")
    (line,) = report(None, scenes, BEST, path)
    assert line.startswith("No picture was answered in time")
    assert not path.exists()
