"""How well the reading pipeline reads: accuracy per variant and per path, and lines found per picture, on scenes with known
text."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import msgspec
import numpy as np
from msgspec import Struct

from loki_rl.files.config import PipelineFile, TaskSpec
from loki_rl.files.profile_file import Fanout, PathAccuracy, StageAccuracy
from loki_rl.reading.pictures import Box, cut, decode, pack, unpack
from loki_rl.reading.recognition import Reading
from loki_rl.reading.scenes import Scene
from loki_rl.serving.engines.adapter import Array, Produced
from loki_rl.serving.engines.engine import Engine
from loki_rl.serving.profiling.workload import Progress, Quality, sound

# Overlap from which a box and a line are the same.
SAME = 0.5

T = TypeVar("T")


class Found(Struct, frozen=True):
    """What a detector variant made of all scenes. children: mean per scene. lines: per true line the crop of the box that
    covers it, None if none does."""

    children: float
    lines: list[Array | None]

    @property
    def recall(self) -> float:
        return sum(line is not None for line in self.lines) / len(self.lines)


def measure_quality(file: PipelineFile, engine: Engine, scenes: Sequence[Scene], progress: Progress) -> Quality:
    """Stage accuracies (share of true lines found; of true crops read exactly), mean fan-outs, and for every path the share
    of true lines that it reads exactly. Raises EngineError."""
    detection, recognition = file.tree
    truth = [line.text for scene in scenes for line in scene.lines]
    found = _each(detection, lambda variant: _find(engine, detection.name, variant, scenes), progress)
    columns = {"": Found(0.0, list(true_crops(scenes))), **found}
    read = _each(recognition, lambda variant: _read(engine, recognition.name, variant, columns, truth), progress)
    stages = [StageAccuracy(detection.name, variant, row.recall) for variant, row in found.items()]
    stages += [StageAccuracy(recognition.name, variant, row[""]) for variant, row in read.items()]
    return Quality(
        tuple(stages),
        tuple(Fanout(detection.name, variant, recognition.name, row.children) for variant, row in found.items()),
        tuple(PathAccuracy((finder, reader), read[reader][finder]) for finder in found for reader in read),
    )


def true_crops(scenes: Sequence[Scene]) -> list[Array]:
    """The packed crop of every true line."""
    crops: list[Array] = []
    for scene in scenes:
        picture, zoom = decode(encoded(scene))
        crops += [pack(cut(picture, line.box, zoom)) for line in scene.lines]
    return crops


def encoded(scene: Scene) -> Array:
    """The picture of a scene as a payload."""
    return np.frombuffer(scene.jpeg, np.uint8)


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, 0..1."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def same_text(read: str, true: str) -> bool:
    """Whether all signs agree; spaces do not count, since their width is a matter of the font."""
    return read.replace(" ", "") == true.replace(" ", "")


def _each(task: TaskSpec, job: Callable[[str], T], progress: Progress) -> dict[str, T]:
    """Run the job of every variant, as many at once as there are cores; no two share a session."""
    results: dict[str, T] = {}
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for variant, result in zip(task.variants, pool.map(job, task.variants), strict=True):
            results[variant] = result
            progress(f"accuracy of {task.name}", len(results) / len(task.variants))
    return results


def _find(engine: Engine, task: str, variant: str, scenes: Sequence[Scene]) -> Found:
    engine.load(task, variant)
    results = [sound(engine.run(task, variant, [encoded(scene)])[0], "a picture").children[0] for scene in scenes]
    engine.unload(task, variant)
    lines = [_covering(line.box, crops) for scene, crops in zip(scenes, results, strict=True) for line in scene.lines]
    return Found(sum(map(len, results)) / len(scenes), lines)


def _covering(box: Box, crops: Sequence[Array]) -> Array | None:
    best = max(crops, key=lambda crop: overlap(box, unpack(crop).box), default=None)
    return best if best is not None and overlap(box, unpack(best).box) >= SAME else None


def _read(engine: Engine, task: str, variant: str, columns: dict[str, Found], truth: Sequence[str]) -> dict[str, float]:
    """For every detector the share of true lines that are found and then read exactly."""
    engine.load(task, variant)
    shares = {
        finder: sum(
            crop is not None and same_text(_text(engine.run(task, variant, [crop])[0]), text)
            for crop, text in zip(found.lines, truth, strict=True)
        )
        / len(truth)
        for finder, found in columns.items()
    }
    engine.unload(task, variant)
    return shares


def _text(result: Produced) -> str:
    output = sound(result, "a crop").output
    return "" if output is None else msgspec.json.decode(output.tobytes(), type=Reading).text
