"""`ppo`: as `forecast`, but where a trained agent can be believed: then the base that it was trained on, adjusted by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from loki_rl.control.demand.capacity_target import Demand
from loki_rl.control.demand.forecast import HISTORY_S, Forecast, Tracker
from loki_rl.control.fast.table import yardstick
from loki_rl.control.learned.agent import FORECASTER_OFF, SIT_OUT, Agent, act, check_use, load_agent, outside, shipped
from loki_rl.control.learned.observation import (
    ACTIONS,
    FLOOR_S,
    NO_ADJUSTMENT,
    adjusted,
    exogenous,
    fill_mask,
    observation,
)
from loki_rl.control.policies.forecast import Forecasting
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Adjustment, Plan, Snapshot

STALE_S = 5.0


def ppo(pipeline: Pipeline, options: PolicyOptions) -> Unadjusted:
    """With the agent of the options, or the one that is shipped for the pipeline. Raises RequestError if a file is of no
    use, or its agent for something else."""
    file = Path(options.model) if options.model else shipped(pipeline.name)
    return Adjusting(pipeline, options, load_agent(file)) if file else Unadjusted(pipeline, options)


class Unadjusted(Forecasting):
    """Forecasting, where there is no agent."""

    def decide(self, snapshot: Snapshot) -> Plan:
        return self._without(snapshot, "no model file")

    def _without(self, snapshot: Snapshot, why: str) -> Plan:
        plan = super().decide(snapshot)
        return replace(plan, reasons=(*plan.reasons, f"no adjustment: {why}"), adjustment=self._asked(-1, self._patience))

    def _asked(self, action: int, base_patience: float) -> Adjustment:
        """What an action asks for; -1: nobody is believed."""
        fallback = action < 0
        factor, patience = adjusted(action, 1.0, 1.0, base_patience)
        return Adjustment(float(factor), float(patience), fallback, self._planner.options.shadow)


class Adjusting(Unadjusted):
    """Forecasting, and wherever a trained agent can be believed the two numbers that the allocator gets are those of the
    base it was trained on (scale and patience of its card), adjusted by it.

    shadow: the adjustment is only written down. The reasons of every plan say what was done and why.
    """

    def __init__(self, pipeline: Pipeline, options: PolicyOptions, agent: Agent) -> None:
        check_use(agent.card, pipeline.name, options.interval_s)
        super().__init__(pipeline, options)
        self.agent = agent
        self._tracker, self._sitting_out, self._last = Tracker(), 0, -1
        self._table = yardstick(pipeline, options.servers)
        # Compile what a decision needs now, not inside a control tick.
        blank = Snapshot(0.0, 10.0, (1,) * FLOOR_S, 0.0, ())
        self._observe(blank, self._forecast(blank), 1.0)

    def decide(self, snapshot: Snapshot) -> Plan:
        if not snapshot.arrivals:
            return self._without(snapshot, f"nothing counted yet at {snapshot.now:g} s")
        self._planner.learn(snapshot, keeping=True)
        forecast = self._forecast(snapshot)
        self._settle(snapshot, forecast)
        base = self._room(snapshot, forecast)
        high = self.agent.card.scale * base.high_rps
        observed, mask = self._observe(snapshot, forecast, high)
        doubt = self._doubt(snapshot, observed)
        action = -1 if doubt else act(self.agent, observed, mask)
        taken = -1 if self._planner.options.shadow else action
        plan = self._adjusted(snapshot, base, high, taken)
        patience = self._patience if doubt else self.agent.card.patience
        asked, said = self._asked(action, patience), self._said(action, taken, high, patience, doubt)
        if taken != action:
            asked = _estimated(asked, plan, self._adjusted(snapshot, base, high, action))
            said += f"; estimated: {asked.servers:+d} servers, {asked.accuracy:+.4f} accuracy, {asked.capacity_rps:+.0f} rps"
        self._last = taken
        return replace(plan, reasons=(*plan.reasons, said), adjustment=asked)

    def _adjusted(self, snapshot: Snapshot, base: Demand, high: float, action: int) -> Plan:
        """The plan of an action on the card's base; of -1 that of the policy without an agent, not of that base."""
        if action < 0:
            return self._plan(snapshot, base, self._patience)
        demand, patience = adjusted(action, high, 1.0, self.agent.card.patience)
        return self._plan(snapshot, replace(base, high_rps=demand), patience)

    def _settle(self, snapshot: Snapshot, forecast: Forecast) -> None:
        """Past forecasts meet what came. The controller keeps a limited history, so seconds are counted by the clock, up to
        the last one that was told."""
        second = round(snapshot.now - snapshot.age_s)
        self._tracker.observe(second, np.array(snapshot.arrivals, np.float64))
        self._tracker.made(second, self._planner.lead_s(snapshot), forecast)

    def _observe(self, snapshot: Snapshot, forecast: Forecast, high: float) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        table, counts = self._table, np.array(snapshot.arrivals[-HISTORY_S:], np.float64)[None, :]
        error = self.agent.card.forecast_error if self._tracker.error is None else self._tracker.error
        demand = exogenous(counts, forecast.mean, forecast.quantiles, np.array([error]), table.best_rps)[0]
        # Training varies both: how many servers are there, and how many whole seconds are not counted yet.
        servers, late_s = len(snapshot.servers) or table.servers, float(int(snapshot.age_s))
        seen = observation(table, snapshot, demand, high, self._last, servers, self._planner.load_s, late_s)
        mask = np.zeros(ACTIONS, np.int8)
        fill_mask(mask, high, float(counts[0, -FLOOR_S:].mean()), table.most_rps * servers / table.servers)
        return seen, mask.astype(np.bool_)

    def _doubt(self, snapshot: Snapshot, observed: NDArray[np.float32]) -> str:
        """Why the agent is not believed now, or nothing."""
        why = self._reason(snapshot, observed)
        self._sitting_out = SIT_OUT if why else max(0, self._sitting_out - 1)
        return why or (f"{self._sitting_out} intervals to sit out" if self._sitting_out else "")

    def _reason(self, snapshot: Snapshot, observed: NDArray[np.float32]) -> str:
        card, error = self.agent.card, self._tracker.error
        if snapshot.exclusions:  # it was trained, and is measured by, a cluster that can load all of its models
            gone = ", ".join(f"'{one.variant}' of '{one.task}'" for one in snapshot.exclusions)
            return f"{gone} cannot be loaded"
        if not np.isfinite(observed).all():
            return "an observation is not a number"
        if snapshot.age_s > STALE_S:
            return f"counts are {snapshot.age_s:.0f} s old"
        if error is not None and error > FORECASTER_OFF * card.forecast_error:
            return f"the forecaster is off by {error / card.forecast_error:.1f} times its usual error"
        strange = outside(card, observed)
        return f"{card.features[int(strange.argmax())]} lies outside of the training range" if strange.any() else ""

    @staticmethod
    def _said(action: int, taken: int, high: float, patience: float, doubt: str) -> str:
        if doubt:
            return f"no adjustment: {doubt}"
        demand, lasting = adjusted(action, high, 1.0, patience)
        word = "adjusted" if taken == action else "shadow: would adjust"
        same = ", as without" if action == NO_ADJUSTMENT else ""
        return f"{word} {high:.1f} to {demand:.1f} requests/s for {lasting:g} intervals{same}"


def _estimated(asked: Adjustment, plan: Plan, other: Plan) -> Adjustment:
    """With what the plan that it asked for would have more than the one in force, as the allocator rates both."""
    return replace(
        asked,
        servers=other.servers - plan.servers,
        accuracy=other.accuracy - plan.accuracy,
        capacity_rps=other.capacity_rps - plan.capacity_rps,
    )
