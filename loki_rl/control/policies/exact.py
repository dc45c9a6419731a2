"""`exact`: the switch-aware allocator on the demand that may come."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from loki_rl.control.allocator.allocate import allocate
from loki_rl.control.demand.belief import Coming
from loki_rl.control.demand.estimators import Floats
from loki_rl.control.demand.history_file import read_history
from loki_rl.control.demand.memory import Memory
from loki_rl.control.demand.regime import stayed_s
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.control.policies.planner import Planner
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Plan, Snapshot

# So long until a change of demand is seen for what it is and servers leave what they serve (core/servers/rollout.py) [s].
REACTION_S = 4.0
# The horizon is at least so many times the longest load, and at most so long [s] where no history says what is usual.
SHORTEST, LONGEST_S = 2.0, 60.0
# What was expected before anything was counted counts as so many seconds: the first quiet one does not unsay it.
EXPECTED_S = 10


class Exact:
    """The switch-aware allocator on what demand may come until another plan could be loaded: what loading models would cost
    on the way counts beside what the plan is worth after. Raises HistoryError for a history that cannot be read."""

    def __init__(self, pipeline: Pipeline, options: PolicyOptions) -> None:
        self._planner = Planner(pipeline, options, "tail", 0.0)
        self._caution = options.caution
        self._memory = None if options.history is None else Memory(read_history(Path(options.history)))

    def decide(self, snapshot: Snapshot) -> Plan:
        self._planner.learn(snapshot, keeping=True)
        coming, horizon_s = self.coming(snapshot), self.horizon_s(snapshot)
        return allocate(self._planner.pipeline, self._planner.moving(snapshot, coming, horizon_s))

    def coming(self, snapshot: Snapshot) -> Coming:
        seen_s, options = len(snapshot.arrivals), self._planner.options
        counts = np.array((*(EXPECTED_S - seen_s) * (options.expected_rps,), *snapshot.arrivals), np.float64)
        lead_s, past = self.lead_s(snapshot), None
        if self._memory is not None:
            end_s = snapshot.now - snapshot.age_s + options.clock_s
            self._memory.see(snapshot.arrivals, end_s)
            past = self._memory.past(len(counts), end_s, lead_s)
        return self._planner.belief.from_history(counts, lead_s, self._caution, seen_s, past)

    def lead_s(self, snapshot: Snapshot) -> float:
        return lead_s(self._planner.load_s, snapshot.interval_s)

    def horizon_s(self, snapshot: Snapshot) -> float:
        usual = 0.0 if self._memory is None else self._memory.history.stay_s
        return horizon_s(np.array(snapshot.arrivals, np.float64), self._planner.load_s, snapshot.interval_s, usual)


def lead_s(load_s: float, interval_s: float) -> float:
    """How long a plan must do [s], where loads take at most load_s and plans are made every interval_s: until the models of
    a later one could be loaded."""
    return REACTION_S + interval_s + load_s


def horizon_s(counts: Floats, load_s: float, interval_s: float, usual_s: float = 0.0) -> float:
    """The expected life of a plan made after these counts per second [s]: demand is thought to stay where it is as long as
    it has stayed there, up to LONGEST_S or what is usual; before the first count, for what is usual. load_s, interval_s: as
    in `lead_s`."""
    stayed = stayed_s(counts) if len(counts) else usual_s
    return max(min(stayed, max(usual_s, LONGEST_S)), SHORTEST * load_s, interval_s)
