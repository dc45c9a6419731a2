"""How good a pipeline is on labelled data of the user's own: accuracy of every path, children of every variant. What makes
an answer right a scorer says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from loki_rl.errors import UserError
from loki_rl.files.config import PipelineFile, TaskSpec
from loki_rl.files.profile_file import Fanout, PathAccuracy, StageAccuracy
from loki_rl.serving.engines.adapter import Array, Produced, named
from loki_rl.serving.engines.engine import Engine, EngineError
from loki_rl.serving.profiling.payload_files import read_payloads
from loki_rl.serving.profiling.workload import Progress, Quality, sound

# A profile has no accuracy of 0: a variant that is always wrong is still one that runs.
LEAST = 0.001

Scorer = Callable[[str, str, list[Array]], float]


class ScorerError(UserError):
    """There is no such function; the message says why."""


class Labelled(Struct, frozen=True):
    """A workload of files. score: called as f(leaf task, name of the file, outputs of that task), gives 0..1. chosen: the
    flags that asked for them."""

    names: tuple[str, ...]
    contents: tuple[Array, ...]
    score: Scorer
    chosen: str = ""

    @property
    def about(self) -> str:
        return f"mean score of every path on {len(self.names)} labelled files"

    def payloads(self, task: TaskSpec) -> list[Array]:
        return list(self.contents) if task.parent is None else []

    def quality(self, file: PipelineFile, engine: Engine, progress: Progress) -> Quality:
        """Accuracy of a path: mean score over all files. Of a variant: the best path through it over the best path.
        Fan-outs: mean children per item, over all paths that lead there. Raises EngineError."""
        walk = _Walk(file, engine, self, progress)
        for task in file.tree:
            if task.parent is None:
                walk.down(task, (), (), [[payload] for payload in self.contents])
        return Quality(
            walk.stages(), walk.fanouts(), tuple(PathAccuracy(path, score) for path, score in walk.scores.items())
        )


def load_labelled(folder: Path, scorer: str) -> Labelled:
    """All files of a folder, in order of their names. scorer: "module:function". Raises PayloadsError or ScorerError."""
    files = read_payloads(folder, "--data")
    try:
        score: Scorer = named(scorer)
    except ImportError as error:
        raise ScorerError(f"--scorer {scorer} cannot be loaded: {error}") from error
    return Labelled(tuple(files), tuple(files.values()), score, f"--data {folder} --scorer {scorer}")


class _Walk:
    """Down the tree with every variant. scores: variant path -> accuracy."""

    def __init__(self, file: PipelineFile, engine: Engine, data: Labelled, progress: Progress) -> None:
        self.scores: dict[tuple[str, ...], float] = {}
        self._tasks_of: dict[tuple[str, ...], tuple[str, ...]] = {}
        # (task, variant, child) -> items and their children.
        self._made: dict[tuple[str, str, str], list[int]] = {}
        self._tree, self._engine, self._data, self._progress = file.tree, engine, data, progress

    def down(self, task: TaskSpec, tasks: tuple[str, ...], path: tuple[str, ...], items: list[list[Array]]) -> None:
        """Every variant of a task on what came from each file, and all below it. tasks, path: of those above it."""
        children = [other for other in self._tree if other.parent == task.name]
        for number, variant in enumerate(task.variants):
            found = self._run(task.name, variant, items)
            line, way = (*tasks, task.name), (*path, variant)
            if not path:
                self._progress(f"accuracy from {task.name}", (number + 1) / len(task.variants))
            if not children:
                self.scores[way], self._tasks_of[way] = self._score(task.name, found), line
            for place, child in enumerate(children):
                below = [[one for result in results for one in result.children[place]] for results in found]
                counts = self._made.setdefault((task.name, variant, child.name), [0, 0])
                counts[0] += sum(map(len, items))
                counts[1] += sum(map(len, below))
                self.down(child, line, way, below)

    def stages(self) -> tuple[StageAccuracy, ...]:
        shares: dict[tuple[str, str], float] = {}
        for path, score in self.scores.items():
            line = self._tasks_of[path]
            best = max(other for rival, other in self.scores.items() if self._tasks_of[rival] == line)
            for key in zip(line, path, strict=True):
                shares[key] = max(shares.get(key, LEAST), score / best if best else LEAST)
        return tuple(StageAccuracy(task, variant, round(share, 4)) for (task, variant), share in shares.items())

    def fanouts(self) -> tuple[Fanout, ...]:
        return tuple(Fanout(*key, round(children / max(1, items), 4)) for key, (items, children) in self._made.items())

    def _run(self, task: str, variant: str, items: list[list[Array]]) -> list[list[Produced]]:
        self._engine.load(task, variant)
        found = [
            [sound(self._engine.run(task, variant, [payload])[0], name) for payload in payloads]
            for name, payloads in zip(self._data.names, items, strict=True)
        ]
        self._engine.unload(task, variant)
        return found

    def _score(self, task: str, found: list[list[Produced]]) -> float:
        scores: list[float] = []
        for name, results in zip(self._data.names, found, strict=True):
            score = self._data.score(task, name, [result.output for result in results if result.output is not None])
            if not 0 <= score <= 1:
                raise EngineError(f"the scorer gives {score} for '{name}', which is not in 0..1")
            scores.append(float(score))
        return round(sum(scores) / len(scores), 4)
