"""`forecast`: as `exact`, with what a trained network makes of its belief, as far as that has foretold demand better."""

from __future__ import annotations

import numpy as np

from loki_rl.control.demand.belief import Coming
from loki_rl.control.demand.exceedance_net import ExceedanceNet, shipped_exceedance
from loki_rl.control.demand.leaning import Leaning
from loki_rl.control.policies.exact import Exact
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Snapshot


class Anticipating(Exact):
    """The switch-aware allocator on a mixture of two beliefs: that of `exact`, and the same corrected by a network."""

    def __init__(self, pipeline: Pipeline, options: PolicyOptions, net: ExceedanceNet | None = None) -> None:
        super().__init__(pipeline, options)
        self._net, self.leaning = net or shipped_exceedance(), Leaning()

    def coming(self, snapshot: Snapshot) -> Coming:
        believed = super().coming(snapshot)
        return self._corrected(snapshot, believed) if snapshot.arrivals else believed

    def _corrected(self, snapshot: Snapshot, believed: Coming) -> Coming:
        counts, lead_s = np.array(snapshot.arrivals, np.float64), self.lead_s(snapshot)
        belief, mean_rps = self._planner.belief, believed.mean_rps
        found = self._net(counts, belief.levels, believed.above, mean_rps, lead_s)
        # The controller keeps a limited history, so seconds are counted by the clock, up to the last one that was told.
        second = round(snapshot.now - snapshot.age_s)
        self.leaning.settle(second, counts)
        self.leaning.note(second, lead_s, belief.levels, mean_rps, np.stack((believed.above, found)))
        return belief.coming(self.leaning.mixed(believed.above, found), mean_rps, believed.expected_rps)
