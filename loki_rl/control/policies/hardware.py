"""`hardware`: hardware scaling alone, with the most accurate variants that fit the SLO."""

from __future__ import annotations

from loki_rl.control.allocator.allocate import allocate
from loki_rl.control.allocator.reasons import highest_floor
from loki_rl.control.demand.estimators import FLOOR_RPS, envelope
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.control.policies.planner import Planner
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Plan, Snapshot


class Hardware:
    """Hardware scaling alone, as InferLine (SoCC'20): only the most accurate variants that fit the SLO, replicas for the
    busiest recent seconds; beyond the cluster it serves the largest share it can."""

    def __init__(self, pipeline: Pipeline, options: PolicyOptions) -> None:
        self._planner = Planner(pipeline, options, "tail", 0.0)
        self._floor: float | None = None

    def decide(self, snapshot: Snapshot) -> Plan:
        if self._planner.learn(snapshot) or self._floor is None:
            self._floor = highest_floor(self._planner.pipeline, self._planner.request(FLOOR_RPS))
        demand = self._planner.estimate(snapshot.arrivals, envelope)
        return allocate(self._planner.pipeline, self._planner.request(demand, self._floor, snapshot.servers))
