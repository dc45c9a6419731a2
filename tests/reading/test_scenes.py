from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from loki_rl.reading.quality import overlap, same_text
from loki_rl.reading.scenes import HEIGHT, MAX_LINES, WIDTH, crop, render, scenes


def test_a_scene_depends_on_its_number_and_seed_alone(fonts: tuple[Path, ...]) -> None:
    first = render(3, 1, fonts)
    assert first == render(3, 1, fonts)
    assert first == list(scenes(4, 1, fonts))[3]
    assert first != render(4, 1, fonts)
    assert first != render(3, 2, fonts)


def test_scenes_hold_what_they_say(fonts: tuple[Path, ...]) -> None:
    shown = list(scenes(25, 7, fonts))
    counts = [len(scene.lines) for scene in shown]
    assert min(counts) >= 1
    assert max(counts) <= MAX_LINES
    assert 4 < sum(counts) / len(counts) < 7.5
    for scene in shown:
        assert Image.open(BytesIO(scene.jpeg)).size == (WIDTH, HEIGHT)
        for number, line in enumerate(scene.lines):
            assert line.text.strip() == line.text != ""
            assert crop(scene, line).width > 3
            assert all(overlap(line.box, other.box) == 0 for other in scene.lines[:number])


def test_overlap() -> None:
    assert overlap((0, 0, 2, 2), (0, 0, 2, 2)) == 1.0
    assert overlap((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 2, 2), (2, 0, 3, 2)) == 0.0


def test_spaces_do_not_count() -> None:
    assert same_text("Gate B12", "GateB12")
    assert not same_text("gate B12", "Gate B12")
