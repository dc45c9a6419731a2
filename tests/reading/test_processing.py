"""What is done to pictures, maps and lines of rendered scenes is what the plain formulas say. Inputs of models agree to 1e-5
(they reach from -3 to 3), boxes to 1e-6 pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from loki_rl.files.config import PipelineFile
from loki_rl.reading.detection import DetectionOptions, find_boxes
from loki_rl.reading.pictures import Box, decode, unpack
from loki_rl.reading.quality import encoded, true_crops
from loki_rl.reading.recognition import recogniser_input
from loki_rl.reading.scenes import Scene, render
from loki_rl.serving.engines.adapter import Array
from loki_rl.serving.engines.onnx_engine import OnnxEngine

DETECTORS = ("d320", "d640")


@pytest.fixture(scope="module")
def shown(fonts: tuple[Path, ...]) -> list[Scene]:
    return [render(number, 3, fonts) for number in range(4)]


@pytest.fixture(scope="module")
def engine(reading: PipelineFile) -> OnnxEngine:
    made = OnnxEngine(reading.models, reading.repository, "cpu")
    for variant in DETECTORS:
        made.load("detection", variant)
    return made


def normal(picture: Image.Image, mean: Sequence[float], deviation: Sequence[float]) -> Array:
    """[3, H, W] in the order blue, green, red."""
    pixels = np.asarray(picture)[:, :, ::-1] / 255
    return ((pixels - mean) / deviation).transpose(2, 0, 1)


def labelled_boxes(chart: Array, options: DetectionOptions) -> list[Box]:
    labels, _ = ndimage.label(chart > options.threshold)
    boxes: list[Box] = []
    for number, place in enumerate(ndimage.find_objects(labels), start=1):
        rows, columns = place
        h, w = rows.stop - rows.start, columns.stop - columns.start
        if h < 2 or w < 3 or chart[place][labels[place] == number].mean() < options.score:
            continue
        margin = w * h * options.unclip / (2 * (w + h))
        x0, y0 = max(0.0, columns.start - margin), max(0.0, rows.start - margin)
        x1, y1 = min(chart.shape[1], columns.stop + margin), min(chart.shape[0], rows.stop + margin)
        boxes.append((x0, y0, x1, y1))
    return boxes


@pytest.mark.parametrize("variant", DETECTORS)
def test_a_detector_sees_the_averaged_and_normalised_picture(variant: str, engine: OnnxEngine, shown: list[Scene]) -> None:
    adapter = engine.residents["detection", variant].adapter
    for scene in shown:
        (tensor,) = adapter.prepare(encoded(scene)).inputs.values()
        _, height, width = tensor.shape
        seen = decode(encoded(scene))[0].resize((width, height), Image.Resampling.BOX, reducing_gap=1.0)
        plain = normal(seen, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        assert np.abs(tensor - plain).max() < 1e-5


@pytest.mark.parametrize("variant", DETECTORS)
def test_boxes_are_those_of_labelled_pixels(variant: str, engine: OnnxEngine, shown: list[Scene]) -> None:
    resident = engine.residents["detection", variant]
    options = DetectionOptions(*resident.adapter.sample().shape[:2])
    count = 0
    for scene in shown:
        inputs = resident.adapter.prepare(encoded(scene)).inputs
        ((chart,),) = engine.infer(resident, [inputs], 1)[0].values()
        boxes = labelled_boxes(chart, options)
        assert find_boxes(chart, options) == [pytest.approx(box, abs=1e-6) for box in boxes]
        count += len(boxes)
    assert count > len(shown)


@pytest.mark.parametrize(("widest", "step"), [(96, 96), (240, 240), (240, 16)])
def test_a_recogniser_sees_the_line_at_its_height(widest: int, step: int, shown: list[Scene]) -> None:
    for payload in true_crops(shown):
        line = Image.fromarray(unpack(payload).pixels)
        natural = min(widest, round(line.width * 48 / line.height))
        scaled = line.resize((natural, 48), Image.Resampling.BILINEAR, reducing_gap=1.0)
        tensor = recogniser_input(line, widest, step)
        assert np.abs(tensor[:, :, :natural] - normal(scaled, (0.5,) * 3, (0.5,) * 3)).max() < 1e-5
        assert not tensor[:, :, natural:].any()
