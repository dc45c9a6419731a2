"""`exact`: the switch-aware allocator on the demand that is worth having capacity for."""

from __future__ import annotations

from msgspec.structs import replace

from loki_rl.control.allocator.allocate import allocate
from loki_rl.control.demand.capacity_target import Demand
from loki_rl.control.demand.estimators import likely
from loki_rl.control.formulation.request import Request
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.control.policies.planner import Planner
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Plan, Snapshot


class Exact:
    """The switch-aware allocator on the demand that is worth having capacity for until the plan after this one is loaded:
    what loading models would cost on the way counts beside what the plan is worth after."""

    def __init__(self, pipeline: Pipeline, options: PolicyOptions) -> None:
        self._planner = Planner(pipeline, options, "tail", 0.0)

    def decide(self, snapshot: Snapshot) -> Plan:
        self._planner.learn(snapshot, keeping=True)
        return allocate(self._planner.pipeline, self._request(snapshot, self._demand(snapshot)))

    def _lead_s(self, snapshot: Snapshot) -> float:
        """Time until the models of the next plan are loaded [s]: so long this one must do."""
        return snapshot.interval_s + self._planner.load_s

    def _demand(self, snapshot: Snapshot) -> Demand:
        arrivals, lead_s = snapshot.arrivals, self._lead_s(snapshot)
        expected = self._planner.estimate(arrivals, lambda counts: likely(counts, lead_s))
        return self._planner.reserve.from_history(arrivals, expected, lead_s)

    def _request(self, snapshot: Snapshot, demand: Demand) -> Request:
        options = self._planner.options
        return replace(
            self._planner.request(demand.high_rps, there=snapshot.servers),
            expected_rps=demand.expected_rps,
            chance=demand.chance,
            current=snapshot.servers,
            horizon_s=options.patience * snapshot.interval_s,
            load_s=options.load_s,
            unloadable=snapshot.exclusions,
        )
