"""What `ppo` adjusts: the switch-aware allocator on the demand that a forecast says is worth having capacity for."""

from __future__ import annotations

import numpy as np

from loki_rl.control.allocator.allocate import allocate
from loki_rl.control.demand.capacity_target import Demand
from loki_rl.control.demand.forecast import HISTORY_S, Forecast, Forecaster
from loki_rl.control.demand.forecast_learned import shipped_net
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.control.policies.planner import Planner
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Plan, Snapshot


class Forecasting:
    """The demand that is worth having capacity for by the forecast's quantiles, and its mean as what is expected, through
    the switch-aware allocator."""

    def __init__(self, pipeline: Pipeline, options: PolicyOptions, forecaster: Forecaster | None = None) -> None:
        self._planner = Planner(pipeline, options, "tail", 0.0)
        self._patience = options.patience
        self._forecaster = forecaster or shipped_net()

    def decide(self, snapshot: Snapshot) -> Plan:
        self._planner.learn(snapshot, keeping=True)
        return self._plan(snapshot, self._demand(snapshot), self._patience)

    def _plan(self, snapshot: Snapshot, demand: Demand, patience: float) -> Plan:
        return allocate(self._planner.pipeline, self._planner.switching(snapshot, demand, patience))

    def _demand(self, snapshot: Snapshot) -> Demand:
        if not snapshot.arrivals:
            return self._planner.reserve.from_history((), self._planner.options.expected_rps, 0.0)
        return self._room(snapshot, self._forecast(snapshot))

    def _room(self, snapshot: Snapshot, forecast: Forecast) -> Demand:
        mean, quantiles = float(forecast.mean[0]), forecast.quantiles[0]
        return self._planner.reserve.from_forecast(snapshot.arrivals, mean, quantiles, self._planner.lead_s(snapshot))

    def _forecast(self, snapshot: Snapshot) -> Forecast:
        counts = np.array(snapshot.arrivals[-HISTORY_S:], np.float64)[None, :]
        return self._forecaster(counts, self._planner.lead_s(snapshot))
