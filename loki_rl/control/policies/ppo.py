"""`learned` and `ppo`: as `exact`, but where a trained agent can be believed, what demand may come is adjusted by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from loki_rl.control.allocator.allocate import allocate
from loki_rl.control.demand.belief import Coming
from loki_rl.control.fast.table import yardstick
from loki_rl.control.formulation.request import RequestError
from loki_rl.control.learned.agent import SIT_OUT, Agent, act, check_use, load_agent, outside
from loki_rl.control.learned.observation import (
    ACTIONS,
    FLOOR_S,
    NO_ADJUSTMENT,
    adjusted,
    exogenous,
    factors,
    fill_mask,
    observation,
)
from loki_rl.control.policies.exact import Exact
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Adjustment, Plan, Snapshot

STALE_S = 5.0


def adjusting(pipeline: Pipeline, options: PolicyOptions) -> Adjusting:
    """With the agent of the options. Raises RequestError if there is none, if its file is of no use, or it is for something
    else."""
    if not options.model:
        raise RequestError(
            f"no agent is shipped for pipeline '{pipeline.name}'; train one with 'loki-rl train' and name it with --model, "
            "or take policy exact"
        )
    return Adjusting(pipeline, options, load_agent(Path(options.model)))


class Adjusting(Exact):
    """Exact, whose belief a trained agent adjusts wherever it can be believed itself. The reasons of every plan say what was
    done and why."""

    def __init__(self, pipeline: Pipeline, options: PolicyOptions, agent: Agent) -> None:
        check_use(agent.card, pipeline.name, options.interval_s)
        super().__init__(pipeline, options)
        self.agent = agent
        self._sitting_out, self._last = 0, NO_ADJUSTMENT
        self._table = yardstick(pipeline, options.servers)
        # Compile what a decision needs now, not inside a control tick.
        blank = Snapshot(0.0, options.interval_s, (1,) * FLOOR_S, 0.0, ())
        self._observe(blank, self.coming(blank), self.horizon_s(blank))

    def decide(self, snapshot: Snapshot) -> Plan:
        self._planner.learn(snapshot, keeping=True)
        coming, horizon_s = self.coming(snapshot), self.horizon_s(snapshot)
        doubt, action = "nothing was counted yet", NO_ADJUSTMENT
        if snapshot.arrivals:
            observed, mask = self._observe(snapshot, coming, horizon_s)
            doubt = self._doubt(snapshot, observed)
            action = NO_ADJUSTMENT if doubt else act(self.agent, observed, mask)
        plan = allocate(self._planner.pipeline, self._planner.moving(snapshot, adjusted(coming, action), horizon_s))
        self._last = action
        reasons = (*plan.reasons, _said(coming, action, doubt))
        return replace(plan, reasons=reasons, adjustment=Adjustment(*factors(action), bool(doubt)))

    def _observe(
        self, snapshot: Snapshot, coming: Coming, horizon_s: float
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        table, counts = self._table, np.array(snapshot.arrivals, np.float64)
        demand = exogenous([counts], [coming], np.array([horizon_s]), table.best_rps)[0]
        # Training varies both: how many servers are there, and how many whole seconds are not counted yet.
        servers, late_s = len(snapshot.servers) or table.servers, float(int(snapshot.age_s))
        seen = observation(
            table, snapshot, demand, coming.expected_rps, self._last, servers, self._planner.load_s, late_s
        )  # fmt: skip
        mask, floor_rps = np.zeros(ACTIONS, np.int8), float(counts[-FLOOR_S:].mean())
        most_rps = table.most_rps * servers / table.servers
        fill_mask(mask, coming.expected_rps, coming.slices[-1].to_rps, floor_rps, most_rps)
        return seen, mask.astype(np.bool_)

    def _doubt(self, snapshot: Snapshot, observed: NDArray[np.float32]) -> str:
        """Why the agent is not believed now, or nothing."""
        why = self._reason(snapshot, observed)
        self._sitting_out = SIT_OUT if why else max(0, self._sitting_out - 1)
        return why or (f"{self._sitting_out} intervals to sit out" if self._sitting_out else "")

    def _reason(self, snapshot: Snapshot, observed: NDArray[np.float32]) -> str:
        if snapshot.exclusions:  # it was trained, and is measured by, a cluster that can load all of its models
            gone = ", ".join(f"'{one.variant}' of '{one.task}'" for one in snapshot.exclusions)
            return f"{gone} cannot be loaded"
        if not np.isfinite(observed).all():
            return "an observation is not a number"
        if snapshot.age_s > STALE_S:
            return f"counts are {snapshot.age_s:.0f} s old"
        card, strange = self.agent.card, outside(self.agent.card, observed)
        return f"{card.features[int(strange.argmax())]} lies outside of the training range" if strange.any() else ""


def _said(coming: Coming, action: int, doubt: str) -> str:
    if doubt:
        return f"no adjustment: {doubt}"
    same = ", as without" if action == NO_ADJUSTMENT else ""
    (factor, odds), top = factors(action), coming.slices[-1].to_rps
    return f"adjusted demand of {coming.expected_rps:.1f} to {top:.1f} requests/s by {factor:g}, odds by {odds:g}{same}"
