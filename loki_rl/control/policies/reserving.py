"""What policies share that plan for an expected demand and one to have room for, every so many seconds."""

from __future__ import annotations

from loki_rl.control.allocator.allocate import allocate
from loki_rl.control.demand.capacity_target import Demand
from loki_rl.control.demand.estimators import likely
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.control.policies.planner import Planner
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Plan, Snapshot


class Reserving:
    """The switch-aware allocator on the demand that is worth having capacity for until the plan after this one is loaded."""

    def __init__(self, pipeline: Pipeline, options: PolicyOptions) -> None:
        self._planner = Planner(pipeline, options, "tail", 0.0)
        self._patience = options.patience

    def decide(self, snapshot: Snapshot) -> Plan:
        self._planner.learn(snapshot, keeping=True)
        return self._plan(snapshot, self._demand(snapshot), self._patience)

    def _demand(self, snapshot: Snapshot) -> Demand:
        arrivals, lead_s = snapshot.arrivals, self._planner.lead_s(snapshot)
        expected = self._planner.estimate(arrivals, lambda counts: likely(counts, lead_s))
        return self._planner.reserve.from_history(arrivals, expected, lead_s)

    def _plan(self, snapshot: Snapshot, demand: Demand, patience: float) -> Plan:
        return allocate(self._planner.pipeline, self._planner.switching(snapshot, demand, patience))
