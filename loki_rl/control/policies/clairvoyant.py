"""`clairvoyant`: as `exact`, with the demand that will really come, where a trace is replayed."""

from __future__ import annotations

from loki_rl.control.demand.belief import Coming
from loki_rl.control.demand.estimators import FLOOR_RPS, mean
from loki_rl.control.formulation.request import RequestError
from loki_rl.control.policies.exact import Exact
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Snapshot
from loki_rl.core.servers.history import HISTORY_S

# As far ahead as foresight helps: further, and what comes soon counts for little.
FORESIGHT_S = 15


class Clairvoyant(Exact):
    """The switch-aware allocator on the demand that will really come within the lead: what foresight is worth to it. It
    is no bound: it still plans one step at a time, and counts per second do not show what is inside of them."""

    def __init__(self, pipeline: Pipeline, options: PolicyOptions) -> None:
        super().__init__(pipeline, options)
        if not options.future:
            raise RequestError(
                "policy 'clairvoyant' plans for demand known beforehand, as only a trace that is replayed can be; use it "
                "with simulate or compare, and 'exact' where demand is still to come"
            )
        self._future, self._mean_rps = options.future, max(FLOOR_RPS, mean(options.future, len(options.future)))
        self._origin = 0.0

    def coming(self, snapshot: Snapshot) -> Coming:
        second = self._second(snapshot)
        coming = self._future[second : second + FORESIGHT_S] or self._future[-1:]
        return self._planner.belief.from_future(coming, self._mean_rps)

    def _second(self, snapshot: Snapshot) -> int:
        """Where in the trace we are. Counts begin at its origin, and are forgotten only after a while."""
        if len(snapshot.arrivals) < HISTORY_S:
            self._origin = snapshot.now - snapshot.age_s - len(snapshot.arrivals)
        return round(snapshot.now - self._origin) if snapshot.arrivals else 0
