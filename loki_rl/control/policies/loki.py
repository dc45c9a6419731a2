"""`loki`: Loki as published, smoothed demand to the plain optimum."""

from __future__ import annotations

from loki_rl.control.allocator.allocate import allocate
from loki_rl.control.demand.estimators import ewma
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.control.policies.planner import Planner
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Plan, Snapshot


class Loki:
    """Loki as published (HPDC'24): smoothed demand to the plain optimum, medians in half the SLO, 5 % over-provisioning."""

    def __init__(self, pipeline: Pipeline, options: PolicyOptions) -> None:
        self._planner = Planner(pipeline, options, "half-slo", 0.05)

    def decide(self, snapshot: Snapshot) -> Plan:
        self._planner.learn(snapshot)
        demand = self._planner.estimate(snapshot.arrivals, ewma)
        return allocate(self._planner.pipeline, self._planner.request(demand, there=snapshot.servers))
