"""A pipeline as arrays over its models (one per task and variant), for the loops that training runs in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from typing import Any, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loki_rl.control.formulation.configurations import Configuration
from loki_rl.control.formulation.prepared import Prepared, prepare
from loki_rl.control.formulation.request import Request
from loki_rl.core.draws import mean_s
from loki_rl.core.pipeline import Pipeline

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Net(NamedTuple):
    """What the loops read of a pipeline with T tasks and M models, which stand in the order of tasks and variants.

    below [T, K]: child tasks, -1 beyond; first [T + 1]: first model of each task; entry [T]: items per request; fanout
    [M, T]; ranked [M]: models of each task, most accurate first; cheap [M]: the same, fewest children first; begin [T + 1]:
    where each task's models begin in these two (a search lists fewer of them); weight [L], line [L, D]: tasks from entry to
    leaf, -1 beyond; table [L, X]: expected accuracy of every variant path, flat; best: accuracy of the best path mix; make:
    whether an old model serves until the new one is warm.
    """

    below: Ints
    first: Ints
    entry: Floats
    fanout: Floats
    ranked: Ints
    cheap: Ints
    begin: Ints
    weight: Floats
    line: Ints
    table: Floats
    best: float
    make: bool


# Ways to divide the latency budget among the levels of the tree: parts of this many, and how many of them are kept.
PARTS = {1: 1, 3: 12, 4: 9, 5: 8, 6: 8}
KEPT = 10


class Fleet(Struct, frozen=True, eq=False):
    """P splits of the latency budget. rates [P, 2, M]: rated items/s of one server, 0 where no batch of the model fits the
    split, and servers that stay idle in its pool per item that arrives at once; physical [P, M]: items/s at full use;
    load_s [M].
    """

    pipeline: Pipeline
    net: Net
    rates: Floats
    physical: Floats
    load_s: Floats

    @property
    def models(self) -> int:
        return len(self.load_s)

    def model(self, task: str, variant: str) -> int:
        """Position of a model, -1 if the pipeline has none of that name."""
        position = self.pipeline.index.get(task)
        if position is None or variant not in self.pipeline.variant_index[position]:
            return -1
        return int(self.net.first[position]) + self.pipeline.variant_index[position][variant]


def build_fleet(pipeline: Pipeline) -> Fleet:
    """The arrays of a pipeline under the `tail` latency model."""
    setting = prepare(pipeline, Request(demand_rps=1.0, servers=1))
    first = np.concatenate(([0], np.cumsum([len(task.variants) for task in pipeline.tasks]))).astype(np.int64)
    rate, reserve, batch = _splits(pipeline, setting, first)
    fanout = _fanout(pipeline, first)
    net = Net(
        below=_padded(pipeline.children, -1),
        first=first,
        entry=np.array([task.entry for task in pipeline.tasks]),
        fanout=fanout,
        ranked=_ordered(first, [-v.accuracy for task in pipeline.tasks for v in task.variants]),
        cheap=_ordered(first, list((fanout @ _work(first, rate)).tolist())),
        begin=first,
        weight=np.array([pipeline.leaf_weights[pipeline.tasks[leaf].name] for leaf in pipeline.leaves]),
        line=_padded([pipeline.lines[leaf] for leaf in pipeline.leaves], -1),
        table=_padded([setting.accuracies.tables[leaf].ravel() for leaf in pipeline.leaves], 0.0),
        best=pipeline.best_accuracy,
        make=pipeline.swap == "make",
    )
    load_s = np.array([v.load_s for task in pipeline.tasks for v in task.variants])
    return Fleet(pipeline, net, np.stack((rate, reserve), axis=1), _physical(pipeline, batch), load_s)


def _splits(pipeline: Pipeline, setting: Prepared, first: Ints) -> tuple[Floats, Floats, Ints]:
    """Rate, reserve and batch of every model under each way to divide the budget that another does not dominate."""
    levels = np.array([len(line) - 1 for line in pipeline.lines])
    found: list[tuple[Floats, Floats, Ints]] = []
    for level_limits in _limits(setting, levels):
        limits = level_limits[levels]
        rows = _fastest(setting.by_variant, limits, first)
        if all(rows[0][first[t] : first[t + 1]].any() for t in range(len(pipeline.tasks))):
            found.append(rows)
    kept = [row for i, row in enumerate(found) if not any(_dominates(o[0], row[0], j < i) for j, o in enumerate(found))]
    step = max(1, -(-len(kept) // KEPT))
    kept = kept[::step]
    rate, reserve, batch = zip(*kept, strict=True)
    return np.array(rate), np.array(reserve), np.array(batch)


def _limits(setting: Prepared, levels: Ints) -> Iterator[Floats]:
    """Ways to divide the budget, one limit [us] a level. In a tree of two levels what the first may take is the cost of one
    of its batches; in deeper ones whole parts of the budget."""
    depth, budget = int(levels.max()) + 1, setting.budget_us
    if depth == 2:
        for cost in sorted({c.cost_us for c in setting.by_variant if levels[c.task] == 0}):
            yield np.array([cost, budget - cost], dtype=np.float64)
        return
    parts = PARTS[depth]
    for cuts in combinations(range(1, parts), depth - 1):
        marks = [0, *cuts, parts]
        yield np.array([(b - a) / parts * budget for a, b in pairwise(marks)])


def _fastest(configurations: list[Configuration], limits: Floats, first: Ints) -> tuple[Floats, Floats, Ints]:
    rate, reserve, batch = np.zeros(first[-1]), np.zeros(first[-1]), np.zeros(first[-1], dtype=np.int64)
    for c in configurations:
        model = first[c.task] + c.variant
        if c.cost_us <= limits[c.task] and c.rate > rate[model]:
            rate[model], reserve[model], batch[model] = c.rate, c.reserve, c.batch
    return rate, reserve, batch


def _dominates(a: Floats, b: Floats, earlier: bool) -> bool:
    return bool(np.all(a >= b)) and (earlier or bool(np.any(a > b)))


def _physical(pipeline: Pipeline, batch: Ints) -> Floats:
    """One item at a time, where the split leaves a model no batch."""
    models = [latency for variants in pipeline.latencies for latency in variants]
    sizes = np.maximum(batch, 1).tolist()
    return np.array([[n / mean_s(latency[n]) for latency, n in zip(models, row, strict=True)] for row in sizes])


def _fanout(pipeline: Pipeline, first: Ints) -> Floats:
    fanout = np.zeros((first[-1], len(pipeline.tasks)))
    for task, children in enumerate(pipeline.children):
        for variant, means in enumerate(pipeline.fanouts[task]):
            for child, mean in zip(children, means, strict=True):
                fanout[first[task] + variant, child] = mean
    return fanout


def _work(first: Ints, rate: Floats) -> Floats:
    """[T] server seconds that one item of a task needs at least."""
    return np.array([1 / max(rate[:, a:b].max(), 1e-9) for a, b in pairwise(first)])


def _ordered(first: Ints, keys: list[float]) -> Ints:
    order: list[int] = []
    for a, b in pairwise(first):
        order += sorted(range(a, b), key=lambda m: (keys[m], m))
    return np.array(order, dtype=np.int64)


def _padded(rows: Sequence[Sequence[float] | Floats], blank: float) -> NDArray[Any]:
    padded = np.full((len(rows), max(1, *map(len, rows), 1)), blank)
    for row, values in enumerate(rows):
        padded[row, : len(values)] = values
    return padded
