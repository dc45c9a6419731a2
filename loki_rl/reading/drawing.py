"""A picture and what was read in it, as answers of the reading pipeline tell."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import msgspec
from msgspec import Struct
from PIL import Image, ImageDraw, ImageFont

from loki_rl.reading.recognition import Reading
from loki_rl.serving.gateway.client import Inference

INK, GROUND, MARK = (20, 20, 20), (255, 255, 255), (220, 30, 30)
GAP, TITLE, TEXT = 12, 26, 20


class Sight(Struct, frozen=True):
    """One answer. models: the variants that gave it. readings: every line, from top to bottom."""

    models: str
    readings: tuple[Reading, ...]


def sight(answer: Inference) -> Sight:
    """What an answer says. An answer without a line names the detector only."""
    readings = [msgspec.json.decode(output.tobytes(), type=Reading) for output in answer.outputs]
    models = " + ".join(" or ".join(dict.fromkeys(stage)) for stage in zip(*answer.served, strict=False))
    return Sight(models or "no line found", tuple(sorted(readings, key=lambda one: (one.box[1], one.box[0]))))


def draw(jpeg: bytes, sights: Sequence[tuple[str, Sight]], path: Path) -> None:
    """The picture once per sight, side by side, its boxes marked and what was read written below."""
    panels = [_panel(jpeg, f"{when}: {one.models}", one.readings) for when, one in sights]
    width = sum(panel.width for panel in panels) + GAP * (len(panels) - 1)
    sheet = Image.new("RGB", (width, max(panel.height for panel in panels)), GROUND)
    for number, panel in enumerate(panels):
        sheet.paste(panel, (number * (panel.width + GAP), 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _panel(jpeg: bytes, title: str, readings: Sequence[Reading]) -> Image.Image:
    picture = Image.open(BytesIO(jpeg)).convert("RGB")
    marks = ImageDraw.Draw(picture)
    for reading in readings:
        marks.rectangle(reading.box, outline=MARK, width=2)
    rows = [reading.text for reading in readings]
    panel = Image.new("RGB", (picture.width, picture.height + TITLE + 8 + (TEXT + 4) * len(rows)), GROUND)
    text = ImageDraw.Draw(panel)
    text.text((4, 2), title, fill=INK, font=ImageFont.load_default(TITLE - 8))
    panel.paste(picture, (0, TITLE))
    for number, row in enumerate(rows):
        where = (4, TITLE + picture.height + 4 + number * (TEXT + 4))
        text.text(where, row, fill=INK, font=ImageFont.load_default(TEXT - 4))
    return panel
