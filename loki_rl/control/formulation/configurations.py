"""Configurations (task, variant, batch, server type) and the exact reductions that leave those a best plan can need."""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loki_rl.control.formulation.accuracy import Accuracies
from loki_rl.control.formulation.latency import LatencyModel
from loki_rl.core.pipeline import Pipeline

Sums = NDArray[np.int64]

# Above so many distinct latency sums the class reduction costs more than it saves; leaving it out is still exact.
SUMS_LIMIT = 20_000


class Configuration(Struct, frozen=True):
    """One way to use a server: `rate` items per second at `cost_us` of the latency budget. reserve: servers that must stay
    idle beside it per item that arrives at once. pool: position of the server's type among those of the request."""

    task: int
    variant: int
    batch: int
    cost_us: int
    rate: float
    reserve: float
    pool: int = 0


def enumerate_all(pipeline: Pipeline, model: LatencyModel, headroom: float, pool: int = 0) -> list[Configuration]:
    """Every profiled (task, variant, batch) that runs on a type, in the order of the pipeline file; headroom is taken off
    the rate. pipeline: as the type runs it."""
    return [
        Configuration(
            task=t,
            variant=v,
            batch=batch,
            cost_us=model.cost_us(t, v, batch),
            rate=model.rate(t, v, batch) / (1 + headroom),
            reserve=model.reserve(t, v, batch),
            pool=pool,
        )
        for t, task in enumerate(pipeline.tasks)
        for v, variant in enumerate(task.variants)
        if variant.runnable
        for batch in sorted(variant.latency)
    ]


class Tree:
    """The latency sums around each task for a set of configurations.

    heads[t]: sums of the tasks above t. tails[t]: sums of the tasks below t, to any leaf. fastest_tail[t]: what the
    slowest branch below t needs at least.
    """

    def __init__(self, pipeline: Pipeline, configurations: list[Configuration]) -> None:
        self.pipeline = pipeline
        self.costs = [
            np.unique(np.array([c.cost_us for c in configurations if c.task == t], dtype=np.int64))
            for t in range(len(pipeline.tasks))
        ]
        self.complete = all(len(costs) for costs in self.costs)

    def heads(self, task: int, budget: int) -> Sums | None:
        """None where there are more sums than SUMS_LIMIT."""
        sums: Sums | None = np.zeros(1, dtype=np.int64)
        for above in self.pipeline.lines[task][:-1]:
            sums = _add(sums, self.costs[above], budget)
        return sums

    def tails(self, task: int, budget: int) -> Sums | None:
        """None where there are more sums than SUMS_LIMIT."""
        below = [self.needs(child, budget) for child in self.pipeline.children[task]]
        if not below:
            return np.zeros(1, dtype=np.int64)
        if any(sums is None for sums in below):
            return None
        return np.unique(np.concatenate([sums for sums in below if sums is not None]))

    def needs(self, task: int, budget: int) -> Sums | None:
        """Sums from this task, inclusive, to any leaf below it."""
        return _add(self.tails(task, budget), self.costs[task], budget)

    def fastest_tail(self, task: int) -> int:
        return max((self.fastest(child) for child in self.pipeline.children[task]), default=0)

    def fastest(self, task: int) -> int:
        """What this task and its slowest branch need at least."""
        return int(self.costs[task][0]) + self.fastest_tail(task)

    def fastest_head(self, task: int) -> int:
        return sum(int(self.costs[above][0]) for above in self.pipeline.lines[task][:-1])


def _add(sums: Sums | None, costs: Sums, budget: int) -> Sums | None:
    if sums is None or len(sums) * len(costs) > 50 * SUMS_LIMIT:
        return None
    total = np.unique((sums[:, None] + costs[None, :]).ravel())
    total = total[total <= budget]
    return total if len(total) <= SUMS_LIMIT else None


def within_budget(pipeline: Pipeline, configurations: list[Configuration], budget: int) -> list[Configuration]:
    """R1 (docs/allocator.md, Reductions): drop what cannot meet the budget even with the fastest tasks around it. Empty if
    some task keeps nothing."""
    tree = Tree(pipeline, configurations)
    if not tree.complete:
        return []
    kept = [c for c in configurations if tree.fastest_head(c.task) + c.cost_us + tree.fastest_tail(c.task) <= budget]
    return kept if Tree(pipeline, kept).complete else []


def reduce(
    pipeline: Pipeline,
    accuracies: Accuracies,
    configurations: list[Configuration],
    budget: int,
    across_variants: bool = True,
) -> list[Configuration]:
    """R1-R4 (docs/allocator.md, Reductions): the configurations that can stand in an optimal plan, whatever demand and
    servers.

    k' replaces k server by server if it runs on the same type, is no slower in rate, fits wherever k fits, costs no accuracy
    on any path and makes no more children. "Fits wherever" is by class: the cost of k is raised by the smallest slack of any
    path through it. Tasks are treated one by one, their sums recomputed, until nothing falls. across_variants off: only
    batches of the same variant replace each other, for objectives that reward keeping a variant.
    """
    kept = within_budget(pipeline, configurations, budget)
    if not kept:
        return []
    substitutes = _substitutes(pipeline, accuracies, across_variants)
    changed = True
    while changed:
        changed = False
        for task in range(len(pipeline.tasks)):
            tree = Tree(pipeline, kept)
            heads, tails = tree.heads(task, budget), tree.tails(task, budget)
            mine = [c for c in kept if c.task == task]
            limits = [_stretched(c.cost_us, heads, tails, budget) for c in mine]
            left = _undominated(mine, limits, substitutes[task])
            if len(left) < len(mine):
                changed = True
                kept = [c for c in kept if c.task != task or c in left]
    return kept


def _substitutes(pipeline: Pipeline, accuracies: Accuracies, across: bool) -> list[set[tuple[int, int]]]:
    """[task] = pairs (v', v) where variant v' may stand in for v as far as accuracy and children go (R3)."""
    found: list[set[tuple[int, int]]] = []
    for position, task in enumerate(pipeline.tasks):
        fanouts, size = pipeline.fanouts[position], len(task.variants)
        found.append(
            {
                (a, b)
                for a in range(size)
                for b in range(size)
                if a == b
                or (
                    across
                    and all(x <= y for x, y in zip(fanouts[a], fanouts[b], strict=True))
                    and accuracies.never_worse(position, a, b)
                )
            }
        )
    return found


def _stretched(cost: int, heads: Sums | None, tails: Sums | None, budget: int) -> int:
    """R4: the largest cost that fits every path which `cost` fits."""
    if heads is None or tails is None:
        return cost
    room = budget - cost - heads
    room = room[room >= tails[0]]
    if not len(room):
        return cost
    best = tails[np.searchsorted(tails, room, side="right") - 1]
    return cost + int((room - best).min())


def _undominated(mine: list[Configuration], limits: list[int], substitutes: set[tuple[int, int]]) -> list[Configuration]:
    alive = [True] * len(mine)

    def replaces(j: int, i: int) -> bool:
        same = mine[j].pool == mine[i].pool and (mine[j].variant, mine[i].variant) in substitutes
        return same and _does(mine[j], mine[i], limits[i])

    for i in range(len(mine)):
        # Of two that replace each other the first stays.
        alive[i] = not any(
            alive[j] and i != j and replaces(j, i) and not (i < j and replaces(i, j)) for j in range(len(mine))
        )
    return [c for c, keep in zip(mine, alive, strict=True) if keep]


def _does(candidate: Configuration, other: Configuration, limit: int) -> bool:
    """Whether one does the other's work with its servers, inside the limit of its latency."""
    return candidate.cost_us <= limit and candidate.rate >= other.rate and candidate.reserve <= other.reserve
