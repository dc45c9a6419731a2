"""`static`: one plan, made for the expected demand and held."""

from __future__ import annotations

from msgspec.structs import replace

from loki_rl.control.allocator.allocate import allocate
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.control.policies.planner import Planner
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Plan, Snapshot


class Static:
    """One plan, made for the expected demand and held, also where service turns out to be other than profiled; another one
    only while a model cannot be loaded."""

    def __init__(self, pipeline: Pipeline, options: PolicyOptions) -> None:
        self._planner = Planner(pipeline, options, "tail", 0.0)
        self._demand_rps = options.demand_rps or options.expected_rps
        self._plan = self._made()

    def decide(self, snapshot: Snapshot) -> Plan:
        if self._planner.learn(replace(snapshot, drift=())):
            self._plan = self._made()
        return self._plan

    def _made(self) -> Plan:
        return allocate(self._planner.pipeline, self._planner.request(self._demand_rps))
