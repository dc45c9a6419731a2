"""A picture and what was read in it, as answers of the reading pipeline tell, beside what stands there."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import msgspec
from msgspec import Struct
from PIL import Image, ImageDraw, ImageFont

from loki_rl.reading.pictures import Box
from loki_rl.reading.quality import SAME, overlap, same_text
from loki_rl.reading.recognition import Reading
from loki_rl.reading.scenes import Line
from loki_rl.serving.gateway.client import Inference

INK, GROUND, RIGHT, WRONG = (20, 20, 20), (255, 255, 255), (0, 130, 60), (220, 30, 30)
GAP, TITLE, TEXT = 12, 26, 20


class LineRead(Struct, frozen=True):
    """A line of a picture. text: what stands there; read: what was read, None where nothing was found; box: of the line."""

    text: str
    read: str | None
    box: Box

    @property
    def right(self) -> bool:
        return self.read is not None and same_text(self.read, self.text)

    def __str__(self) -> str:
        if self.right:
            return self.text
        return f"no line for '{self.text}'" if self.read is None else f"'{self.read}' for '{self.text}'"


class Sight(Struct, frozen=True):
    """One answer. models: the variants that gave it. lines: every line of the picture, from top to bottom."""

    models: str
    lines: tuple[LineRead, ...]

    @property
    def right(self) -> int:
        return sum(line.right for line in self.lines)


def sight(answer: Inference, lines: Sequence[Line]) -> Sight:
    """What an answer says of these lines. An answer without a line names the detector only."""
    readings = [msgspec.json.decode(output.tobytes(), type=Reading) for output in answer.outputs]
    models = " + ".join(" or ".join(dict.fromkeys(stage)) for stage in zip(*answer.served, strict=False))
    found = sorted((_read(line, readings) for line in lines), key=lambda one: (one.box[1], one.box[0]))
    return Sight(models or "no line found", tuple(found))


def _read(line: Line, readings: Sequence[Reading]) -> LineRead:
    best = max(readings, key=lambda one: overlap(one.box, line.box), default=None)
    there = best is not None and overlap(best.box, line.box) >= SAME
    return LineRead(line.text, best.text if best is not None and there else None, line.box)


def draw(jpeg: bytes, sights: Sequence[tuple[str, Sight]], path: Path) -> None:
    """The picture once per sight, side by side, its lines marked and what was read written below: green and black where that
    is right, else red."""
    panels = [
        _panel(jpeg, f"{when}: {one.models}, {one.right} of {len(one.lines)} lines right", one) for when, one in sights
    ]
    width = sum(panel.width for panel in panels) + GAP * (len(panels) - 1)
    sheet = Image.new("RGB", (width, max(panel.height for panel in panels)), GROUND)
    for number, panel in enumerate(panels):
        sheet.paste(panel, (number * (panel.width + GAP), 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _panel(jpeg: bytes, title: str, seen: Sight) -> Image.Image:
    picture = Image.open(BytesIO(jpeg)).convert("RGB")
    marks = ImageDraw.Draw(picture)
    for line in seen.lines:
        marks.rectangle(line.box, outline=RIGHT if line.right else WRONG, width=3)
    panel = Image.new("RGB", (picture.width, picture.height + TITLE + 8 + (TEXT + 4) * len(seen.lines)), GROUND)
    text = ImageDraw.Draw(panel)
    text.text((4, 2), title, fill=INK, font=ImageFont.load_default(TITLE - 6))
    panel.paste(picture, (0, TITLE))
    for number, line in enumerate(seen.lines):
        where = (4, TITLE + picture.height + 4 + number * (TEXT + 4))
        text.text(where, drawable(str(line)), fill=INK if line.right else WRONG, font=ImageFont.load_default(TEXT - 3))
    return panel


def drawable(text: str) -> str:
    """The same with the number of every sign that fonts of this alphabet lack: recognisers know Chinese, too."""
    return text.encode("latin-1", "backslashreplace").decode("latin-1")
