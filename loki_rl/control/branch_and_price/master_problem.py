"""One problem of pipelines that share pools of servers, as arrays, and the numbers of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from msgspec import Struct

from loki_rl.control.branch_and_price.route_pricing import Graph
from loki_rl.control.formulation.configurations import Configuration
from loki_rl.control.formulation.problem import Goal
from loki_rl.control.solver.simplex import Floats, Indices


class Part(Struct):
    """One pipeline's demand. servers [arc]: what the whole demand would take there. weight: of its accuracy and of what is
    served. served: range of the share that is let in. floor: (a, b): accuracy of all requests >= a x served + b."""

    graph: Graph
    configurations: Sequence[Configuration]
    servers: Floats
    weight: float = 1.0
    served: tuple[float, float] = (1.0, 1.0)
    floor: tuple[float, float] = (0.0, -1.0)


class MasterProblem(Struct):
    """What is asked of pipelines that share pools of servers. limits, prices [pool]: how many there are, and what one costs.
    least: of the weighed accuracies. holdings: how many servers of a pool a part may have, by (part, pool)."""

    goal: Goal
    parts: Sequence[Part]
    limits: Sequence[int]
    layout: Layout
    prices: Sequence[float] = (1.0,)
    least: float = -1.0
    holdings: dict[tuple[int, int], tuple[int, int]] = {}

    @property
    def pool_prices(self) -> Floats:
        """Of a server of each pool in the minimised objective."""
        prices = np.array(self.prices, dtype=np.float64)
        return prices / self.unit if self.goal == "least price" else np.zeros(len(prices))

    @property
    def unit(self) -> float:
        """What 1 of the minimised objective is in the goal's own, which is of size 1 so."""
        if self.goal != "least price":
            return -1.0
        return float(sum(limit * price for limit, price in zip(self.limits, self.prices, strict=True)))


# What counts of (part, task, variant, type) are summed by: holdings, tasks, places, models.
BY = ((0, 3), (0, 1), (0, 1, 3), (0, 1, 2))


class Layout:
    """Numbers of the rows: what is served and the floor of each part, the least of all, pools, holdings, then the integers
    to branch on: tasks, places (tasks on one type), models and counts.

    of [count, 6]: the rows that a server of a configuration counts in: pool, holding, task, place, model and count. rank
    [row]: 0, or higher for integers to branch on first. start [part]: the first of its configurations, part after part.
    lines [line, place]: for a row each list of rows that a server of it counts in, that row the last (then -1); line_of
    [row + 1]: which are those of a row.
    """

    def __init__(self, parts: Sequence[Sequence[Configuration]], types: int) -> None:
        size = len(parts)
        keys = [(part, c.task, c.variant, c.pool) for part, mine in enumerate(parts) for c in mine]
        self.start = np.cumsum([0, *(len(mine) for mine in parts)])
        pools = np.array([pool for *_, pool in keys])
        groups = [pools, *(_numbered([tuple(key[i] for i in by) for key in keys]) for by in BY)]
        sizes = [size, size, 1, types, *(int(group.max()) + 1 for group in groups[1:]), len(keys)]
        ends = np.cumsum([0, *sizes])
        self.served, self.floor, _, self.pools, self.holdings, self.tasks, self.places, self.models, self.counts = (
            np.arange(begin, end) for begin, end in pairwise(ends)
        )
        self.least, self.size = 2 * size, int(ends[-1])
        self.holding_of = {(part, pool): int(row) for (part, *_, pool), row in zip(keys, groups[1] + ends[4], strict=True)}
        self.of = np.stack([*(group + begin for group, begin in zip(groups, ends[3:], strict=False)), self.counts], axis=1)
        above = sorted(
            {tuple(rows[:end]) for end in range(2, 7) for rows in self.of.tolist()}, key=lambda line: (line[-1], line)
        )
        self.lines = np.full((len(above), 6), -1)
        for number, line in enumerate(above):
            self.lines[number, : len(line)] = line
        self.line_of = np.searchsorted([line[-1] for line in above], np.arange(self.size + 1))
        self.rank = np.zeros(self.size, dtype=np.int64)
        self.rank[self.tasks], self.rank[self.models], self.rank[self.counts] = 4, 2, 1
        # With one type, a place is its task.
        self.rank[self.places] = 3 if types > 1 else 0

    @property
    def integers(self) -> slice:
        return slice(int(self.tasks[0]), self.size)


def _numbered(keys: list[tuple[int, ...]]) -> Indices:
    numbers: dict[tuple[int, ...], int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys])
