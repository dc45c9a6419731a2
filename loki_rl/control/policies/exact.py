"""`exact`: the switch-aware allocator on the demand that may come."""

from __future__ import annotations

import numpy as np

from loki_rl.control.allocator.allocate import allocate
from loki_rl.control.demand.belief import Coming
from loki_rl.control.demand.estimators import Floats
from loki_rl.control.demand.regime import stayed_s
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.control.policies.planner import Planner
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Plan, Snapshot

# So long until a change of demand is seen for what it is and servers leave what they serve (core/servers/rollout.py) [s].
REACTION_S = 4.0
# The horizon is at least so many times the longest load, and at most so long [s].
SHORTEST, LONGEST_S = 2.0, 60.0


class Exact:
    """The switch-aware allocator on what demand may come until another plan could be loaded: what loading models would cost
    on the way counts beside what the plan is worth after."""

    def __init__(self, pipeline: Pipeline, options: PolicyOptions) -> None:
        self._planner = Planner(pipeline, options, "tail", 0.0)
        self._caution = options.caution

    def decide(self, snapshot: Snapshot) -> Plan:
        self._planner.learn(snapshot, keeping=True)
        coming, horizon_s = self.coming(snapshot), self.horizon_s(snapshot)
        return allocate(self._planner.pipeline, self._planner.moving(snapshot, coming, horizon_s))

    def coming(self, snapshot: Snapshot) -> Coming:
        counts = np.array(snapshot.arrivals or (self._planner.options.expected_rps,), np.float64)
        return self._planner.belief.from_history(counts, lead_s(self._planner.load_s, snapshot.interval_s), self._caution)

    def horizon_s(self, snapshot: Snapshot) -> float:
        return horizon_s(np.array(snapshot.arrivals, np.float64), self._planner.load_s, snapshot.interval_s)


def lead_s(load_s: float, interval_s: float) -> float:
    """How long a plan must do [s], where loads take at most load_s and plans are made every interval_s."""
    return REACTION_S + interval_s + load_s


def horizon_s(counts: Floats, load_s: float, interval_s: float) -> float:
    """The expected life of a plan made after these counts per second [s]: demand is thought to stay where it is as long as
    it has stayed there. load_s, interval_s: as in `lead_s`."""
    return max(min(stayed_s(counts), LONGEST_S), SHORTEST * load_s, interval_s)
