"""Accuracy of variant paths: of what was served, and of what may still be."""

from __future__ import annotations

from loki_rl.core.pipeline import Pipeline
from loki_rl.core.requests.items import Family
from loki_rl.core.requests.ledger import Root


class Accuracy:
    """Accuracy of served requests, with every path looked up once."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.weights = [(leaf, pipeline.leaf_weights[pipeline.tasks[leaf].name]) for leaf in pipeline.leaves]
        self.leaves_under = [
            tuple(leaf for leaf in pipeline.leaves if task in pipeline.lines[leaf]) for task in range(len(pipeline.tasks))
        ]
        self._paths: dict[tuple[int, int], float] = {}
        self._best: dict[tuple[int, int], float] = {}

    def path(self, leaf: int, prefix: int) -> float:
        """Accuracy of a complete path."""
        found = self._paths.get((leaf, prefix))
        if found is None:
            found = self._paths[leaf, prefix] = self.pipeline.accuracy(leaf, self.pipeline.unpack(prefix))
        return found

    def best(self, leaf: int, prefix: int) -> float:
        """Accuracy of a path that ended early, finished with the most accurate descendants."""
        found = self._best.get((leaf, prefix))
        if found is None:
            found = self._best[leaf, prefix] = self.pipeline.best_completion(leaf, self.pipeline.unpack(prefix))
        return found

    def dead_end(self, root: Root, child: int, prefix: int) -> None:
        """An item made no children of this task: its branch counts as finished at its best."""
        for leaf in self.leaves_under[child]:
            root.deads[leaf] += 1
            root.dead_sums[leaf] += self.best(leaf, prefix)

    def of(self, root: Root) -> float:
        """Sum over branches of omega x mean accuracy of the paths that served the branch's leaves (docs/glossary.md)."""
        total = 0.0
        for leaf, weight in self.weights:
            if root.leaf_counts[leaf]:
                total += weight * root.accuracy_sums[leaf] / root.leaf_counts[leaf]
            elif root.deads[leaf]:
                total += weight * root.dead_sums[leaf] / root.deads[leaf]
            else:
                total += weight * self.best(leaf, 0)
        return total


class AccuracyFloor:
    """A floor holds for every path: nothing can be promised of a mean over leaves that are not there yet."""

    def __init__(self, pipeline: Pipeline, task: int) -> None:
        self._pipeline = pipeline
        self._accuracy = Accuracy(pipeline)
        self._leaves = self._accuracy.leaves_under[task]
        times = pipeline.service_s[task]
        self._by_speed = sorted(range(len(times)), key=lambda variant: times[variant][1])

    def allow(self, variant: int, family: Family) -> bool:
        """Whether every path through these items can still be as accurate as asked once this variant has served them."""
        if family.terms is None or family.terms.floor <= 0:
            return True
        prefix = self._pipeline.extend(family.prefix, variant)
        return all(self._accuracy.best(leaf, prefix) >= family.terms.floor for leaf in self._leaves)

    def quickest(self, family: Family) -> int:
        """The fastest variant for one item among those that may serve these, -1 if none may."""
        return next((variant for variant in self._by_speed if self.allow(variant, family)), -1)
