"""Text detection: a picture in, one crop per line of text out. Reads a DB probability map (Liao et al. 2020); boxes are
axis-aligned."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from PIL import Image

from loki_rl.reading.pictures import Box, check_picture, cut, decode, normalised, pack, shrunk
from loki_rl.reading.regions import regions
from loki_rl.serving.engines.adapter import AdapterError, Array, Prepared, Produced, SessionIO, parse_options

# ImageNet statistics in the order blue, green, red, for pixels 0..255: (pixel / 255 - mean) / deviation.
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
SCALE = 1 / (255 * DEVIATION)
BIAS = -MEAN / DEVIATION
# The deepest layer works on a 32nd of the picture.
STRIDE = 32


class DetectionOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """height, width: what the model looks at, multiples of STRIDE. threshold: of a text pixel. score: mean probability
    that keeps a box. unclip: how far a box grows, since the map shows shrunken lines. limit: most boxes per picture."""

    height: int
    width: int
    threshold: float = 0.2
    score: float = 0.4
    unclip: float = 0.7
    limit: int = 100


class TextDetection:
    """Payload: an encoded picture (uint8 [n], JPEG or PNG) or RGB pixels (uint8 [H, W, 3]). Children: crops for one
    child task. Model: float32 [N, 3, height, width] -> probabilities [N, 1, height, width]."""

    def __init__(self, io: SessionIO, options: Mapping[str, object]) -> None:
        self.options = parse_options(options, DetectionOptions)
        if self.options.height % STRIDE or self.options.width % STRIDE or min(self.options.height, self.options.width) < 1:
            raise AdapterError(f"height and width must be multiples of {STRIDE}")
        if len(io.inputs) != 1 or len(io.outputs) != 1 or len(io.inputs[0].shape) != 4:
            raise AdapterError("text detection needs a model with one input [N, 3, H, W] and one output")
        self.input, self.output = io.inputs[0].name, io.outputs[0].name

    @staticmethod
    def check(payload: Array) -> None:
        check_picture(payload)

    def sample(self) -> Array:
        return np.full((self.options.height, self.options.width, 3), 127, np.uint8)

    def prepare(self, payload: Array) -> Prepared:
        picture, zoom = decode(payload)
        # An average over the covered pixels finds as many lines as a bilinear filter and takes two thirds of its time.
        seen = shrunk(picture, self.options.width, self.options.height, Image.Resampling.BOX)
        return Prepared({self.input: normalised(seen, SCALE, BIAS)}, (picture, zoom))

    def finish(self, outputs: Mapping[str, Array], kept: tuple[Image.Image, float]) -> Produced:
        picture, zoom = kept
        x, y = picture.width / self.options.width, picture.height / self.options.height
        boxes = find_boxes(outputs[self.output][0], self.options)
        scaled = [(x0 * x, y0 * y, x1 * x, y1 * y) for x0, y0, x1, y1 in boxes]
        return Produced(children=([pack(cut(picture, box, zoom)) for box in scaled],))


def find_boxes(probabilities: npt.NDArray[np.float32], options: DetectionOptions) -> list[Box]:
    """Boxes x0, y0, x1, y1 [pixels of the map] of the text in a map [H, W], top to bottom. Each is a region grown by
    area * unclip / perimeter on every side."""
    height, width = probabilities.shape
    found = regions(probabilities, options.threshold)
    w, h = found.right - found.left, found.bottom - found.top
    text = (h >= 2) & (w >= 3) & (found.mean >= options.score)
    margin = w * h * options.unclip / (2 * (w + h))
    edges = (
        np.maximum(0.0, found.left - margin),
        np.maximum(0.0, found.top - margin),
        np.minimum(float(width), found.right + margin),
        np.minimum(float(height), found.bottom + margin),
    )
    kept = np.flatnonzero(text[: 4 * options.limit])[: options.limit]
    return list(zip(*(edge[kept].tolist() for edge in edges), strict=True))
