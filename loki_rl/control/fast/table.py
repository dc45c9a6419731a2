"""The allocator for training: a library of plans from the exact ladder, and a memo of what was asked."""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from loki_rl.control.allocator.allocate import allocate, capacity
from loki_rl.control.fast.local_search import LISTS, Library, search
from loki_rl.control.fast.model_arrays import Fleet, Floats, build_fleet
from loki_rl.control.fast.objective_kernels import ROWS, Question, Scratch, new_scratch
from loki_rl.control.fast.table_kernels import Memo, new_memo
from loki_rl.control.formulation.request import Request, Solver
from loki_rl.core.pipeline import Pipeline

LEVELS = 32
LOWEST_SHARE = 0.01
MEMO = 1 << 18

# The slices that a library has plans for: up to a share of all that may come demand is sure, and of the rest so much is as
# likely as that. After calm, bursts and crowds beliefs are such.
SURE = (0.15, 0.35, 0.55, 0.75, 1.0)
ENDS, CHANCES = (0.0, 0.1, 0.3, 0.45, 1.0), (1.0, 0.75, 0.3, 0.08, 0.02)


class Table(Struct, frozen=True, eq=False):
    """most_rps, best_rps: demand that the whole cluster can serve at all, and with its most accurate variants. memos: of one
    thread each, made when a thread first asks; answers depend on the question alone, so threads find the same ones."""

    fleet: Fleet
    servers: int
    library: Library
    most_rps: float
    best_rps: float
    scratch: Scratch
    memos: list[Memo] = []

    def memo(self, lane: int) -> Memo:
        """What thread `lane` of a loop may write to."""
        while len(self.memos) <= lane:
            self.memos.append(new_memo(MEMO, self.fleet.models))
        return self.memos[lane]


def build_table(pipeline: Pipeline, servers: int, levels: int = LEVELS, solver: Solver = "search") -> Table:
    """Solve the exact ladder (a few seconds), with this solver. Raises RequestError if the pipeline cannot be served."""
    fleet = build_fleet(pipeline)
    scratch = new_scratch(fleet.net, servers, ROWS, LISTS)
    most = capacity(pipeline, servers, solver=solver).capacity_rps
    best = capacity(pipeline, servers, min_accuracy=pipeline.best_accuracy, solver=solver)
    demands = np.geomspace(LOWEST_SHARE * most, most, levels)
    ladder = np.zeros((levels, 1, fleet.models))
    for row, demand in enumerate(demands):
        for place in allocate(pipeline, Request(float(demand), servers, solver=solver)).placements:
            ladder[row, 0, fleet.model(place.task, place.variant)] += place.replicas
    library = _library(fleet, servers, Library(demands, np.ones(1), ladder), scratch)
    return Table(fleet, servers, library, most, best.capacity_rps or most, scratch)


def _library(fleet: Fleet, servers: int, exact: Library, scratch: Scratch) -> Library:
    """Plans of least cost J from an empty cluster, where loading costs nothing: the search's from the exact ladder."""
    plans: Floats = np.zeros((len(exact.levels), len(SURE), fleet.models))
    ends, chances, empty = np.array(ENDS), np.array(CHANCES), np.zeros((3, fleet.models))
    shapes = [sure + (1 - sure) * ends for sure in SURE]
    means = np.array([float(np.diff(shape, prepend=0.0) @ chances) for shape in shapes])
    for level, demand in enumerate(exact.levels.tolist()):
        for row, (shape, mean) in enumerate(zip(shapes, means.tolist(), strict=True)):
            asked = Question(demand * shape, chances, demand * mean, 0.0, servers, empty, fleet.rates, fleet.net)
            search(asked, exact, len(plans), scratch)
            plans[level, row] = scratch.counts
    return Library(exact.levels, means, plans)


def yardstick(pipeline: Pipeline, servers: int) -> Table:
    """A table without answers: what observations are measured by, made in a fraction of the time."""
    return build_table(pipeline, servers, levels=0)
