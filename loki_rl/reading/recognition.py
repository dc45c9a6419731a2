"""Text recognition: a crop in, its text out, by CTC decoding and a dictionary."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct
from PIL import Image

from loki_rl.reading.pictures import CROP_HEIGHT, CROP_WIDTH, Box, Crop, check_crop, pack, shrunk, unpack
from loki_rl.serving.engines.adapter import AdapterError, Array, Prepared, Produced, SessionIO, parse_options

HEIGHT = 48
# (pixel / 255 - 0.5) / 0.5
SCALE, BIAS = np.float32(2 / 255), np.float32(-1)
BLANK = 0
# The last sign of a line wants some ground behind it, and lines of a few widths form larger batches than of many [pixels].
MARGIN, STEP = 8, 16


class RecognitionOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """width: most of the model's input; a longer line is squeezed into it, a shorter one padded on the right. tight: pad a
    line only to a multiple of STEP, where device and model allow it; what the model computes grows with its input, but one
    that reads best at one width may read less. dictionary: file beside the model's versions, one sign a line."""

    width: int
    dictionary: str
    tight: bool = False


class Reading(Struct, frozen=True):
    """What a leaf answers, as JSON. score: mean probability of the signs, 0..1. box: x0, y0, x1, y1 in the picture."""

    text: str
    score: float
    box: Box


class TextRecognition:
    """Payload: a packed crop. Output: uint8 [n], JSON of a Reading. Model: float32 [N, 3, 48, up to width] ->
    softmax [N, steps, signs]; class 0 is the blank, the last one the space."""

    def __init__(self, io: SessionIO, options: Mapping[str, object]) -> None:
        parsed = parse_options(options, RecognitionOptions)
        self.width = parsed.width
        if not HEIGHT // 2 <= self.width <= 10 * HEIGHT:
            raise AdapterError(f"width must lie between {HEIGHT // 2} and {10 * HEIGHT}, not {self.width}")
        if len(io.inputs) != 1 or len(io.outputs) != 1 or len(io.outputs[0].shape) != 3:
            raise AdapterError("text recognition needs a model with one input and one output [N, steps, signs]")
        self.input, self.output = io.inputs[0].name, io.outputs[0].name
        tight = parsed.tight and not io.fixed and not isinstance(io.inputs[0].shape[-1], int)
        self.step = STEP if tight else self.width
        self.signs = read_signs(io.folder / parsed.dictionary)
        signs = io.outputs[0].shape[2]
        if isinstance(signs, int) and signs != len(self.signs):
            raise AdapterError(f"{parsed.dictionary} has {len(self.signs) - 2} signs, the model {signs - 2}")

    @staticmethod
    def check(payload: Array) -> None:
        check_crop(payload)

    def sample(self) -> Array:
        pixels = np.full((CROP_HEIGHT, min(self.width, CROP_WIDTH), 3), 127, np.uint8)
        return pack(Crop((0.0, 0.0, float(pixels.shape[1]), float(CROP_HEIGHT)), pixels))

    def prepare(self, payload: Array) -> Prepared:
        crop = unpack(payload)
        return Prepared({self.input: recogniser_input(Image.fromarray(crop.pixels), self.width, self.step)}, crop.box)

    def finish(self, outputs: Mapping[str, Array], kept: Box) -> Produced:
        text, score = self.decode(outputs[self.output])
        reading = Reading(text, round(score, 4), kept)
        return Produced(output=np.frombuffer(msgspec.json.encode(reading), np.uint8))

    def decode(self, probabilities: Array) -> tuple[str, float]:
        """Text and score of [steps, signs]: the likeliest sign per step, repeats and blanks removed."""
        best = probabilities.argmax(axis=1)
        kept = best != BLANK
        kept[1:] &= best[1:] != best[:-1]
        if not kept.any():
            return "", 0.0
        score = float(probabilities[kept, best[kept]].mean())
        return "".join(self.signs[sign] for sign in best[kept]).strip(), score


def recogniser_input(picture: Image.Image, widest: int, step: int) -> Array:
    """float32 [3, HEIGHT, width] in the order blue, green, red: the picture scaled to the height and squeezed into the
    widest if need be, padded with the middle grey (0) on the right up to a multiple of `step`, the widest at most."""
    natural = max(1, min(widest, round(picture.width * HEIGHT / picture.height)))
    planes = np.zeros((3, HEIGHT, min(widest, -(-(natural + MARGIN) // step) * step)), np.float32)
    pixels = np.asarray(shrunk(picture, natural, HEIGHT, Image.Resampling.BILINEAR))
    # All bands at once: of so few pixels each call costs more than its arithmetic.
    text = planes[:, :, :natural]
    np.multiply(pixels.transpose(2, 0, 1)[::-1], SCALE, out=text)
    text += BIAS
    return planes


def read_signs(path: Path) -> tuple[str, ...]:
    """The blank, the dictionary, and the space; raises AdapterError."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise AdapterError(f"no dictionary at {path}; run 'loki-rl models fetch reading'") from error
    return ("", *(line.rstrip("\r") for line in lines if line.rstrip("\r")), " ")
