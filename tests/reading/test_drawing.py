"""What is shown of an answer: its lines from top to bottom beside what stands there, the variants that gave it, and a sheet
with one panel a sight."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import msgspec
import numpy as np
from PIL import Image

from loki_rl.reading.drawing import LineRead, draw, drawable, sight
from loki_rl.reading.recognition import Reading
from loki_rl.reading.scenes import Line
from loki_rl.serving.gateway.client import Inference


def answer(readings: list[Reading], served: list[list[str]]) -> Inference:
    outputs = [np.frombuffer(msgspec.json.encode(reading), np.uint8) for reading in readings]
    return Inference(1, "ok", 0.1, 0.8, served, 0, "", outputs=outputs)


LOW, HIGH = (5.0, 60.0, 40.0, 70.0), (5.0, 10.0, 40.0, 20.0)
LINES = (Line("over there", HIGH), Line("below", LOW))


def test_lines_come_from_top_to_bottom_with_the_variants_that_read_them() -> None:
    readings = [Reading("below", 0.9, LOW), Reading("overthere", 0.8, HIGH)]
    seen = sight(answer(readings, [["d800", "rs240"], ["d800", "rt96"]]), LINES[::-1])
    assert [(line.text, line.read) for line in seen.lines] == [("over there", "overthere"), ("below", "below")]
    assert seen.right == 2, "spaces do not count"
    assert seen.models == "d800 + rs240 or rt96"


def test_what_is_misread_and_what_is_not_found_is_no_line_right() -> None:
    beside = (200.0, 60.0, 240.0, 70.0)
    seen = sight(answer([Reading("ovet there", 0.8, HIGH), Reading("below", 0.9, beside)], [["d320", "rt96"]]), LINES)
    assert seen.right == 0
    assert list(map(str, seen.lines)) == ["'ovet there' for 'over there'", "no line for 'below'"]


def test_an_answer_without_lines_says_so() -> None:
    seen = sight(answer([], []), LINES)
    assert seen.models == "no line found"
    assert [line.read for line in seen.lines] == [None, None]


def test_the_sheet_has_one_panel_per_sight_with_right_lines_in_green_and_wrong_ones_in_red(tmp_path: Path) -> None:
    jpeg = BytesIO()
    Image.new("RGB", (100, 80), (0, 0, 120)).save(jpeg, "JPEG")
    good = sight(answer([Reading("below", 0.9, LOW)], [["d800", "rs240"]]), LINES[1:])
    bad = sight(answer([Reading("be1ow", 0.9, LOW)], [["d320", "rt96"]]), LINES[1:])
    draw(jpeg.getvalue(), [("now", good), ("then", bad)], tmp_path / "new" / "sheet.png")
    sheet = Image.open(tmp_path / "new" / "sheet.png").convert("RGB")
    assert sheet.width > 200
    halves = [sheet.crop((left, 0, left + 100, sheet.height)) for left in (0, sheet.width - 100)]
    green, red = (0, 130, 60), (220, 30, 30)
    counts = [[list(half.get_flattened_data()).count(colour) for colour in (green, red)] for half in halves]
    assert counts[0][0] > 100
    assert counts[0][1] == 0
    assert counts[1][0] == 0
    assert counts[1][1] > 100


def test_signs_that_fonts_lack_are_written_as_numbers() -> None:
    assert drawable("Mountain Ja囗 café") == "Mountain Ja\\u56d7 café"
    assert LineRead("a", "a", LOW).right
