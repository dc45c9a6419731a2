"""Random states of a cluster for the allocator of training, as plans leave them behind, and its answers. Owns how requests
and plans are written as its arrays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from loki_rl.control.allocator.switching import loading_share, ready
from loki_rl.control.allocator.written_transition import Model
from loki_rl.control.demand.belief import Belief
from loki_rl.control.fast.model_arrays import Floats
from loki_rl.control.fast.objective_kernels import Question, best_splits
from loki_rl.control.fast.table import Table
from loki_rl.control.fast.table_kernels import answer
from loki_rl.control.formulation.request import Request
from loki_rl.core.plan import Plan, Server


def names(table: Table) -> list[tuple[str, str]]:
    """(task, variant) of every model."""
    return [(task.name, variant.name) for task in table.fleet.pipeline.tasks for variant in task.variants]


def servers_of(table: Table, counts: Floats) -> tuple[Server, ...]:
    """Servers that serve these models, all warm."""
    models = [name for name, count in zip(names(table), counts, strict=True) for _ in range(int(count))]
    return tuple(Server(i, (task, variant, 1), ((task, variant),)) for i, (task, variant) in enumerate(models))


def random_request(table: Table, servers: int, rng: np.random.Generator) -> Request:
    """A state that plans leave behind, and demand that may come within a factor of two of it: after some minutes of noise
    or of swings, as `exact` believes."""
    level = int(rng.integers(2, len(table.library.levels) - 1))
    mean = float(table.library.levels[level] * rng.uniform(0.4, 1.2))
    swings = 1 + float(rng.uniform(0.0, 0.8)) * np.sin(np.arange(120) / rng.uniform(5, 60) + rng.uniform(0, 7))
    coming = Belief(2 * table.most_rps).from_history(rng.poisson(mean * swings).astype(np.float64), 10.0)
    return Request(
        demand_rps=coming.expected_rps,
        servers=servers,
        slices=coming.slices,
        mean_rps=coming.mean_rps,
        current=servers_of(table, table.library.plans[level, -1]),
        horizon_s=float(rng.choice([10.0, 20.0, 40.0])),
    )


def question_of(table: Table, request: Request) -> Question:
    """The same question, as the allocator of training is asked it."""
    fleet = table.fleet
    state, counted = np.zeros((3, fleet.models)), ready(fleet.pipeline, request)
    rows: tuple[Mapping[Model, float], ...] = (counted.now, counted.credit, counted.loading)
    for row, servers in enumerate(rows):
        for (task, variant, _), number in servers.items():
            state[row, int(fleet.net.first[task]) + variant] = number
    share = 0.0 if request.horizon_s is None else loading_share(fleet.pipeline, request)
    to_rps, chance = np.array([(one.to_rps, one.chance) for one in request.slices]).T.copy()
    mean = request.mean_rps or request.demand_rps
    return Question(to_rps, chance, mean, share, table.servers, state, fleet.rates, fleet.net)


def answered(table: Table, request: Request, deep: bool = True) -> Floats:
    """Servers per model [M]."""
    answer(table.memo(0), question_of(table, request), table.library, deep, table.scratch)
    return table.scratch.counts.copy()


def counts_of(table: Table, plan: Plan) -> Floats:
    """Servers per model [M] of a plan."""
    counts = np.zeros(table.fleet.models)
    for place in plan.placements:
        counts[table.fleet.model(place.task, place.variant)] += place.replicas
    return counts


def cost_of(table: Table, request: Request, counts: Floats) -> float:
    """Cost J of servers per model in the objective of both allocators."""
    return best_splits(counts, question_of(table, request), 0, np.inf, table.scratch.work)[0]
