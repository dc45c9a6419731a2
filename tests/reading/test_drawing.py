"""What is shown of an answer: readings in reading order, the variants that gave them, and a sheet with one panel a sight."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import msgspec
import numpy as np
from PIL import Image

from loki_rl.reading.drawing import draw, sight
from loki_rl.reading.recognition import Reading
from loki_rl.serving.gateway.client import Inference


def answer(readings: list[Reading], served: list[list[str]]) -> Inference:
    outputs = [np.frombuffer(msgspec.json.encode(reading), np.uint8) for reading in readings]
    return Inference(1, "ok", 0.1, 0.8, served, 0, "", outputs=outputs)


LOW = Reading("below", 0.9, (5.0, 60.0, 40.0, 70.0))
HIGH = Reading("above", 0.8, (5.0, 10.0, 40.0, 20.0))


def test_readings_come_from_top_to_bottom_with_the_variants_that_gave_them() -> None:
    seen = sight(answer([LOW, HIGH], [["d800", "rs240"], ["d800", "rt96"]]))
    assert [reading.text for reading in seen.readings] == ["above", "below"]
    assert seen.models == "d800 + rs240 or rt96"


def test_an_answer_without_lines_says_so() -> None:
    assert sight(answer([], [])).models == "no line found"


def test_the_sheet_has_one_panel_per_sight_and_its_boxes(tmp_path: Path) -> None:
    jpeg = BytesIO()
    Image.new("RGB", (100, 80), (0, 120, 0)).save(jpeg, "JPEG")
    seen = sight(answer([HIGH], [["d320", "rt96"]]))
    draw(jpeg.getvalue(), [("now", seen), ("then", seen)], tmp_path / "new" / "sheet.png")
    sheet = Image.open(tmp_path / "new" / "sheet.png").convert("RGB")
    assert sheet.width > 200
    reds = [pixel for pixel in sheet.get_flattened_data() if pixel == (220, 30, 30)]
    assert len(reds) > 100
