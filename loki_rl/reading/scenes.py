"""Rendered pictures with known text: the evaluation, calibration and demo data of the reading pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
from msgspec import Struct
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from loki_rl.reading.pictures import Box

WIDTH, HEIGHT = 960, 640
MAX_LINES = 19
# A detector's box stands a little off the ink; truth does the same so that a perfect box has an overlap near 1.
INK_MARGIN = 0.075

_VOCABULARY = (
    "market station harbour coffee bakery garden museum library theatre bridge tower castle river mountain valley "
    "forest island village station platform ticket window entrance exit ground floor office reception kitchen "
    "breakfast lunch dinner bread butter cheese apple orange lemon honey pepper garlic tomato chicken salmon "
    "monday tuesday thursday friday sunday morning evening january march august october winter summer "
    "open closed push pull danger caution private parking bicycle airport express service public notice "
    "north south east west central royal grand modern quality fresh local daily special offer price discount "
    "water energy signal network record voltage pressure battery engine hydraulic control system manual "
    "doctor pharmacy hospital school college street avenue square corner quarter lane road highway junction"
)
WORDS = tuple(_VOCABULARY.split())


class Line(Struct, frozen=True):
    """One line of text. box: x0, y0, x1, y1 [pixels] of its ink, grown by INK_MARGIN of the height on each side."""

    text: str
    box: Box


class Scene(Struct, frozen=True):
    """jpeg: the encoded picture, WIDTH x HEIGHT. lines: all text in it."""

    jpeg: bytes
    lines: tuple[Line, ...]


def render(number: int, seed: int, fonts: tuple[Path, ...]) -> Scene:
    """The number-th scene of a seed; equal arguments give equal bytes (with one Pillow version)."""
    rng = np.random.default_rng((seed, number))
    picture = _background(rng)
    lines: list[Line] = []
    for _ in range(_line_count(rng)):
        line = _write(picture, rng, fonts, lines)
        if line is not None:
            lines.append(line)
    return Scene(_photograph(picture, rng), tuple(lines))


def scenes(count: int, seed: int, fonts: tuple[Path, ...]) -> Iterator[Scene]:
    """The first `count` scenes of a seed, in order."""
    return (render(number, seed, fonts) for number in range(count))


def crop(scene: Scene, line: Line) -> Image.Image:
    """The picture inside the true box of a line."""
    x0, y0, x1, y1 = line.box
    return Image.open(BytesIO(scene.jpeg)).convert("RGB").crop((round(x0), round(y0), round(x1), round(y1)))


def _line_count(rng: np.random.Generator) -> int:
    return int(np.clip(round(0.7 + rng.gamma(1.7, 2.95)), 1, MAX_LINES))


# -- text -----------------------------------------------------------------------------------------------------------


def _text(rng: np.random.Generator) -> str:
    """What signs, labels and receipts carry: words, or figures in a common form."""
    kind = rng.random()
    if kind < 0.68:
        return _phrase(rng)
    numbers = rng.integers(0, 10, 10)
    digits = "".join(map(str, numbers))
    forms = (
        f"{numbers[0] + 1}{digits[1]}.{digits[2:4]}",
        f"No. {digits[:3]}",
        f"{digits[0]}{digits[1]}-{digits[2:6]}",
        f"0{digits[:3]} {digits[3:7]}",
        f"{int(digits[:2]) % 24:02d}:{int(digits[2:4]) % 60:02d}",
        f"Gate {'ABCDEFGHKL'[numbers[0]]}{digits[1:3]}",
        f"{'ABCDEFGHKL'[numbers[0]]}{'MNPRSTUVXZ'[numbers[1]]} {digits[2:6]}",
        f"{digits[:2]}%",
    )
    return forms[int(rng.integers(len(forms)))]


def _phrase(rng: np.random.Generator) -> str:
    count = int(rng.choice((1, 2, 3), p=(0.5, 0.36, 0.14)))
    text = " ".join(WORDS[int(i)] for i in rng.integers(0, len(WORDS), count))
    style = rng.random()
    return text.upper() if style < 0.3 else text.title() if style < 0.75 else text


def _write(picture: Image.Image, rng: np.random.Generator, fonts: tuple[Path, ...], others: list[Line]) -> Line | None:
    """Draw one line where none stands yet; None if no free place was found."""
    text = _text(rng)
    ink = _ink(text, rng, fonts)
    for _ in range(25):
        x = int(rng.integers(4, max(5, WIDTH - ink.width - 4)))
        y = int(rng.integers(4, max(5, HEIGHT - ink.height - 4)))
        box = _grown(x, y, x + ink.width, y + ink.height)
        if box[2] <= WIDTH and all(_apart(box, other.box) for other in others):
            picture.paste(_colour(picture, (x, y, x + ink.width, y + ink.height), rng), (x, y), ink)
            return Line(text, box)
    return None


def _ink(text: str, rng: np.random.Generator, fonts: tuple[Path, ...]) -> Image.Image:
    """The coverage mask of a line, slightly tilted and cut to its ink."""
    size = round(11 + 35 * rng.beta(0.8, 2.4))
    font = ImageFont.truetype(fonts[int(rng.integers(len(fonts)))], size)
    left, top, right, bottom = font.getbbox(text)
    mask = Image.new("L", (int(right - left) + 8, int(bottom - top) + 8))
    ImageDraw.Draw(mask).text((4 - left, 4 - top), text, fill=255, font=font)
    mask = mask.rotate(float(np.clip(rng.normal(0, 1.3), -4, 4)), Image.Resampling.BICUBIC, expand=True)
    return mask.crop(mask.getbbox())


def _grown(x0: float, y0: float, x1: float, y1: float) -> Box:
    margin = INK_MARGIN * (y1 - y0)
    return (x0 - margin, y0 - margin, x1 + margin, y1 + margin)


def _apart(a: Box, b: Box) -> bool:
    gap = 0.25 * min(a[3] - a[1], b[3] - b[1]) + 3
    return a[2] + 2 * gap < b[0] or b[2] + 2 * gap < a[0] or a[3] + gap < b[1] or b[3] + gap < a[1]


def _colour(picture: Image.Image, where: tuple[int, int, int, int], rng: np.random.Generator) -> tuple[int, int, int]:
    """A text colour that differs from the ground below it by a drawn contrast."""
    ground = np.asarray(picture.crop(where)).mean(axis=(0, 1))
    contrast = 255 * (0.22 + 0.78 * rng.beta(1.0, 1.4))
    towards = 1.0 if ground.mean() < 128 else -1.0
    ink = (ground + towards * contrast + rng.normal(0, 12, 3)).clip(0, 255)
    return (int(ink[0]), int(ink[1]), int(ink[2]))


# -- ground and camera ------------------------------------------------------------------------------------------------


def _background(rng: np.random.Generator) -> Image.Image:
    """A soft gradient with blobs and straight clutter."""
    base = rng.uniform(20, 235, 3)
    corners = (base + rng.normal(0, 26, (2, 3, 3))).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(corners, "RGB").resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(0, 9))):
        _clutter(draw, rng, base)
    return picture.filter(ImageFilter.BoxBlur(float(rng.uniform(0, 3))))


def _clutter(draw: ImageDraw.ImageDraw, rng: np.random.Generator, base: np.ndarray) -> None:
    tone = (base + rng.normal(0, 34, 3)).clip(0, 255)
    fill = (int(tone[0]), int(tone[1]), int(tone[2]))
    x, y = int(rng.integers(0, WIDTH)), int(rng.integers(0, HEIGHT))
    w, h = int(rng.integers(20, 360)), int(rng.integers(20, 260))
    kind = rng.random()
    if kind < 0.4:
        draw.ellipse((x - w // 2, y - h // 2, x + w // 2, y + h // 2), fill=fill)
    elif kind < 0.7:
        draw.rectangle((x - w // 2, y - h // 2, x + w // 2, y + h // 2), fill=fill)
    else:
        draw.line((x - w, y - h, x + w, y + h), fill=fill, width=int(rng.integers(1, 7)))


def _photograph(picture: Image.Image, rng: np.random.Generator) -> bytes:
    """Blur, sensor noise and JPEG compression, as a camera would add them."""
    blurred = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 1.1))))
    noise = rng.standard_normal((HEIGHT, WIDTH), dtype=np.float32) * np.float32(rng.uniform(0, 10))
    noisy = np.asarray(blurred, dtype=np.int16) + noise.astype(np.int16)[:, :, None]
    out = BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=int(rng.integers(18, 93)))
    return out.getvalue()
