"""How good a pipeline is on labelled data of the user's own: accuracy of every path, children of every variant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import numpy as np
from msgspec import Struct

from loki_rl.files.config import PipelineFile, TaskSpec
from loki_rl.files.profile_file import Fanout, PathAccuracy, StageAccuracy
from loki_rl.reading.packages import Progress
from loki_rl.reading.quality import Quality
from loki_rl.serving.engines.adapter import Array, Produced
from loki_rl.serving.engines.engine import Engine, EngineError

# A profile has no accuracy of 0: a variant that is always wrong is still one that runs.
LEAST = 0.001

Scorer = Callable[[str, str, list[Array]], float]


class Labelled(Struct, frozen=True):
    """names: of the files that the payloads are. score: called as f(leaf task, name of the file, outputs of that task),
    gives 0..1. chosen: the flags that asked for them."""

    names: tuple[str, ...]
    payloads: tuple[Array, ...]
    score: Scorer
    chosen: str = ""


def load_labelled(folder: Path, scorer: str) -> Labelled:
    """All files of a folder, in order of their names. scorer: "module:function". Raises EngineError."""
    files = sorted(path for path in folder.glob("*") if path.is_file()) if folder.is_dir() else []
    if not files:
        raise EngineError(f"--data {folder} is not a folder with files in it")
    module, colon, name = scorer.partition(":")
    try:
        if not colon:
            raise ImportError("it must read module:function")
        score: Scorer = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise EngineError(f"--scorer {scorer} cannot be loaded: {error}; is its folder on PYTHONPATH?") from error
    payloads = tuple(np.frombuffer(path.read_bytes(), np.uint8) for path in files)
    return Labelled(tuple(path.name for path in files), payloads, score, f"--data {folder} --scorer {scorer}")


def measure_labelled(file: PipelineFile, engine: Engine, data: Labelled, progress: Progress) -> Quality:
    """Accuracy of a path: mean score over all files. Of a variant: the best path through it over the best path. Fan-outs:
    mean children per item, over all paths that lead there. Raises EngineError."""
    walk = _Walk(file, engine, data, progress)
    for task in file.tree:
        if task.parent is None:
            walk.down(task, (), [[payload] for payload in data.payloads])
    return Quality(walk.stages(), walk.fanouts(), tuple(PathAccuracy(path, score) for path, score in walk.scores.items()))


class _Walk:
    """scores: variant path -> accuracy. made: (task, variant, child) -> items and their children."""

    def __init__(self, file: PipelineFile, engine: Engine, data: Labelled, progress: Progress) -> None:
        self.scores: dict[tuple[str, ...], float] = {}
        self.made: dict[tuple[str, str, str], list[int]] = {}
        self._lines: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._tasks = {task.name: task for task in file.tree}
        self._engine, self._data, self._progress = engine, data, progress

    def down(self, task: TaskSpec, path: tuple[str, ...], items: list[list[Array]]) -> None:
        """Every variant of a task on what came from each file, and all below it."""
        children = [other for other in self._tasks.values() if other.parent == task.name]
        for number, variant in enumerate(task.variants):
            found = self._run(task.name, variant, items)
            if not path:
                self._progress(f"accuracy from {task.name}", (number + 1) / len(task.variants))
            if not children:
                self._score(task.name, (*path, variant), found)
            for place, child in enumerate(children):
                below = [[one for result in results for one in result.children[place]] for results in found]
                counts = self.made.setdefault((task.name, variant, child.name), [0, 0])
                counts[0] += sum(map(len, items))
                counts[1] += sum(map(len, below))
                self.down(child, (*path, variant), below)

    def stages(self) -> tuple[StageAccuracy, ...]:
        shares: dict[tuple[str, str], float] = {}
        for path, score in self.scores.items():
            line = self._lines[path]
            best = max(other for rival, other in self.scores.items() if self._lines[rival] == line)
            for key in zip(line, path, strict=True):
                shares[key] = max(shares.get(key, LEAST), score / best if best else LEAST)
        return tuple(StageAccuracy(task, variant, round(share, 4)) for (task, variant), share in shares.items())

    def fanouts(self) -> tuple[Fanout, ...]:
        return tuple(
            Fanout(task, variant, child, round(children / max(1, items), 4))
            for (task, variant, child), (items, children) in self.made.items()
        )

    def _run(self, task: str, variant: str, items: list[list[Array]]) -> list[list[Produced]]:
        self._engine.load(task, variant)
        found = [[_sound(one, name) for one in self._each(task, variant, payloads)] for name, payloads in self._named(items)]
        self._engine.unload(task, variant)
        return found

    def _named(self, items: list[list[Array]]) -> list[tuple[str, list[Array]]]:
        return list(zip(self._data.names, items, strict=True))

    def _each(self, task: str, variant: str, payloads: Sequence[Array]) -> list[Produced]:
        return [self._engine.run(task, variant, [payload])[0] for payload in payloads]

    def _score(self, task: str, path: tuple[str, ...], found: list[list[Produced]]) -> None:
        scores: list[float] = []
        for name, results in zip(self._data.names, found, strict=True):
            outputs = [result.output for result in results if result.output is not None]
            score = self._data.score(task, name, outputs)
            if not 0 <= score <= 1:
                raise EngineError(f"the scorer gives {score} for '{name}', which is not in 0..1")
            scores.append(float(score))
        self.scores[path] = round(sum(scores) / len(scores), 4)
        self._lines[path] = self._line(task)

    def _line(self, task: str) -> tuple[str, ...]:
        """Tasks from the entry to this one."""
        parent = self._tasks[task].parent
        return (task,) if parent is None else (*self._line(parent), task)


def _sound(result: Produced, name: str) -> Produced:
    if result.error is not None:
        raise EngineError(f"'{name}' was refused: {result.error}")
    return result
