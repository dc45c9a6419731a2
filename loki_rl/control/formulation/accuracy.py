"""Expected accuracy of variant paths, exactly as the ledger counts it."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from math import exp

import numpy as np
from numpy.typing import NDArray

from loki_rl.core.pipeline import Pipeline

TIE = 1e-9


class Accuracies:
    """For every leaf a table [variant of the first task, ..., variant of the leaf] -> expected accuracy 0..1 of a request's
    branch.

    A branch may end without leaves (fan-outs are Poisson, entries rounded); then the stages that did run count with the
    most accurate descendants, so such a request loses less than its path promises.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.tables = {leaf: _table(pipeline, leaf) for leaf in pipeline.leaves}
        self.best = {leaf: float(table.max()) for leaf, table in self.tables.items()}
        self.weights = {leaf: pipeline.leaf_weights[pipeline.tasks[leaf].name] for leaf in pipeline.leaves}

    def reaches_best(self, leaf: int, prefix: tuple[int, ...]) -> bool:
        """Whether a variant prefix of the leaf's line can still end in the best accuracy (a leaf without weight always)."""
        return self.weights[leaf] == 0 or float(self.tables[leaf][prefix].max()) >= self.best[leaf] - TIE

    def never_worse(self, task: int, candidate: int, other: int) -> bool:
        """Whether exchanging `other` for `candidate` lowers the accuracy of no path."""
        for leaf, table in self.tables.items():
            if task in self.pipeline.lines[leaf]:
                axis = self.pipeline.lines[leaf].index(task)
                if np.any(table.take(candidate, axis) < table.take(other, axis) - 1e-12):
                    return False
        return True


def _table(pipeline: Pipeline, leaf: int) -> NDArray[np.float64]:
    line = pipeline.lines[leaf]
    table = np.empty(tuple(len(pipeline.tasks[task].variants) for task in line))
    for path in np.ndindex(*table.shape):
        table[path] = pipeline.accuracy(leaf, path)
    expected = np.empty_like(table)
    for path in np.ndindex(*table.shape):
        expected[path] = _expected(pipeline, line, path, table)
    return expected


def _expected(pipeline: Pipeline, line: tuple[int, ...], path: tuple[int, ...], table: NDArray[np.float64]) -> float:
    """Sum over the level at which the branch dies out: its probability x the best completion of what ran."""
    means = tuple(
        pipeline.tasks[task].variants[variant].fanout[pipeline.tasks[child].name]
        for (task, child), variant in zip(pairwise(line), path, strict=False)
    )
    total, before = 0.0, 0.0
    for level in range(len(line)):
        gone = extinct(pipeline.tasks[line[0]].entry, means[:level])
        total += (gone - before) * float(table[path[:level]].max())
        before = gone
    return total + (1 - before) * float(table[path])


@lru_cache(maxsize=8192)
def extinct(entry: float, means: tuple[float, ...]) -> float:
    """Probability that a request has no item after these stages (generating functions of a branching process)."""
    none = 0.0
    for mean in reversed(means):
        none = exp(mean * (none - 1))
    whole = int(entry)
    return float((1 - (entry - whole)) * none**whole + (entry - whole) * none ** (whole + 1))
