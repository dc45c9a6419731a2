"""Variants that no plan needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from loki_rl.files.config import TaskSpec
from loki_rl.files.profile_file import Dominated, Fanout, PathAccuracy, StageAccuracy, Timing


class Figures:
    """Measurements, indexed. A variant without a measured accuracy is never judged."""

    def __init__(
        self,
        timings: Sequence[Timing],
        accuracies: Sequence[StageAccuracy],
        fanouts: Sequence[Fanout],
        paths: Sequence[PathAccuracy],
    ) -> None:
        self.latency: dict[tuple[str, str], dict[int, float]] = {}
        for row in timings:
            self.latency.setdefault((row.task, row.variant), {})[row.batch] = row.p50_ms
        self.fanout: dict[tuple[str, str], dict[str, float]] = {}
        for mean in fanouts:
            self.fanout.setdefault((mean.task, mean.variant), {})[mean.child] = mean.mean
        self.accuracy = {(stage.task, stage.variant): stage.accuracy for stage in accuracies}
        self.paths = {path.path: path.accuracy for path in paths}

    def at_least_as_good(self, task: str, depth: int, better: str, other: str) -> bool:
        """Whether `better` is no less accurate, alone and in every path, no slower at any batch and makes no more children.

        depth: place of the task in a path."""
        a, b = (task, better), (task, other)
        if a not in self.accuracy or b not in self.accuracy or self.accuracy[a] < self.accuracy[b]:
            return False
        faster = all(self.latency[a].get(size, 1e9) <= ms for size, ms in self.latency[b].items())
        fewer = all(self.fanout.get(a, {}).get(child, 0.0) <= mean for child, mean in self.fanout.get(b, {}).items())
        return faster and fewer and all(self._path_gain(path, depth, better) >= 0 for path in self._through(depth, other))

    def _through(self, depth: int, variant: str) -> Iterator[tuple[str, ...]]:
        return (path for path in self.paths if len(path) > depth and path[depth] == variant)

    def _path_gain(self, path: tuple[str, ...], depth: int, variant: str) -> float:
        changed = (*path[:depth], variant, *path[depth + 1 :])
        return self.paths.get(changed, 0.0) - self.paths[path]


def dominated(tree: Sequence[TaskSpec], figures: Figures) -> tuple[Dominated, ...]:
    """Every variant that another one of its task replaces without loss. Of equals the first stays."""
    depths: dict[str | None, int] = {None: -1}
    found: list[Dominated] = []
    for task in tree:
        depths[task.name] = depths[task.parent] + 1
        gone: set[str] = set()
        for variant in reversed(task.variants):
            for by in task.variants:
                if by not in gone | {variant} and figures.at_least_as_good(task.name, depths[task.name], by, variant):
                    found.append(Dominated(task.name, variant, by))
                    gone.add(variant)
                    break
    return tuple(reversed(found))
