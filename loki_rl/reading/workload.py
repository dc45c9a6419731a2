"""What *reading* is measured and played with: rendered pictures whose text is known."""

from __future__ import annotations

from pathlib import Path

from loki_rl.files.config import PipelineFile, TaskSpec
from loki_rl.reading.detection import TextDetection
from loki_rl.reading.models import fetch_reading, font_files
from loki_rl.reading.quality import encoded, measure_quality, true_crops
from loki_rl.reading.recognition import TextRecognition
from loki_rl.reading.scenes import Scene, render
from loki_rl.serving.engines.adapter import Array, adapter_class
from loki_rl.serving.engines.engine import Engine, EngineError
from loki_rl.serving.profiling.workload import Progress, Quality, quiet


class RenderedScenes:
    """The workload of a pipeline of one text detection followed by one text recognition."""

    def __init__(self, file: PipelineFile, count: int, seed: int, progress: Progress = quiet) -> None:
        if not _reads_text(file):
            raise EngineError(
                f"{file.path}: {type(self).__name__} fits one task of TextDetection with one child of TextRecognition; "
                "name another workload, or none"
            )
        fonts = font_files(file.repository)
        self.scenes: list[Scene] = []
        for number in range(count):
            self.scenes.append(render(number, seed, fonts))
            progress("render scenes", (number + 1) / count)

    @staticmethod
    def fetch(repository: Path, progress: Progress) -> bool:
        return fetch_reading(repository, progress)

    @property
    def about(self) -> str:
        lines = sum(len(scene.lines) for scene in self.scenes)
        return f"share of {lines} lines in {len(self.scenes)} rendered scenes, found at IoU 0.5, read exactly"

    def payloads(self, task: TaskSpec) -> list[Array]:
        return true_crops(self.scenes) if task.parent else [encoded(scene) for scene in self.scenes]

    def quality(self, file: PipelineFile, engine: Engine, progress: Progress) -> Quality:
        return measure_quality(file, engine, self.scenes, progress)


def _reads_text(file: PipelineFile) -> bool:
    kinds = (TextDetection, TextRecognition)
    return (
        [task.parent for task in file.tree] == [None, file.tree[0].name]
        and all((task.name, variant) in file.models for task in file.tree for variant in task.variants)
        and all(
            issubclass(adapter_class(file.models[task.name, variant].adapter), kind)
            for task, kind in zip(file.tree, kinds, strict=True)
            for variant in task.variants
        )
    )
