"""Random states of a cluster for the allocator of training, as plans leave them behind. Owns their making; asks nothing."""

from __future__ import annotations

import numpy as np

from loki_rl.control.fast.model_arrays import Floats
from loki_rl.control.fast.table import Table
from loki_rl.control.formulation.request import Request
from loki_rl.core.plan import Server


def servers_of(table: Table, counts: Floats) -> tuple[Server, ...]:
    """Servers that serve these models, all warm."""
    models = [table.fleet.names(m) for m, count in enumerate(counts) for _ in range(int(count))]
    return tuple(Server(i, (task, variant, 1), ((task, variant),)) for i, (task, variant) in enumerate(models))


def random_request(table: Table, servers: int, rng: np.random.Generator) -> Request:
    """A state that plans leave behind, and a demand within a factor of two of it."""
    level = int(rng.integers(2, len(table.levels) - 1))
    demand = float(table.levels[level] * rng.uniform(0.6, 1.6))
    return Request(
        demand_rps=demand,
        servers=servers,
        expected_rps=demand * float(rng.uniform(0.6, 1.0)),
        current=servers_of(table, table.ladder[level]),
        horizon_s=float(rng.choice([10.0, 20.0, 40.0])),
    )
