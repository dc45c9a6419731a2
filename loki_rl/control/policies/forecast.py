"""`forecast`: as `exact`, for the demand that a forecast of its quantiles says is worth having capacity for."""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace

from loki_rl.control.allocator.allocate import allocate
from loki_rl.control.demand.capacity_target import Demand
from loki_rl.control.demand.estimators import FLOOR_RPS
from loki_rl.control.demand.forecast import HISTORY_S, Forecast, Forecaster, make_forecaster
from loki_rl.control.demand.forecast_learned import SHIPPED, shipped_net
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.control.policies.planner import Planner
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Plan, Snapshot


class Forecasting:
    """The demand that is worth having capacity for by the forecast's quantiles, and its mean as what is expected, through
    the switch-aware allocator."""

    def __init__(self, pipeline: Pipeline, options: PolicyOptions, forecaster: Forecaster | None = None) -> None:
        self._planner = Planner(pipeline, options, "tail", 0.0)
        self._forecaster = forecaster or make_forecaster("quantile" if SHIPPED.is_file() else "holt", shipped_net)
        self._patience = options.patience

    def decide(self, snapshot: Snapshot) -> Plan:
        self._planner.learn(snapshot, keeping=True)
        if not snapshot.arrivals:
            base = self._planner.reserve.from_history((), self._planner.options.expected_rps, 0.0)
            return self._plan(snapshot, base, self._patience)
        return self._plan(snapshot, self._demand(snapshot, self._forecast(snapshot)), self._patience)

    def _demand(self, snapshot: Snapshot, forecast: Forecast) -> Demand:
        mean, quantiles = float(forecast.mean[0]), forecast.quantiles[0]
        return self._planner.reserve.from_forecast(snapshot.arrivals, mean, quantiles, self._lead_s(snapshot))

    def _forecast(self, snapshot: Snapshot) -> Forecast:
        counts = np.array(snapshot.arrivals[-HISTORY_S:], np.float64)[None, :]
        return self._forecaster(counts, self._lead_s(snapshot))

    def _lead_s(self, snapshot: Snapshot) -> float:
        return snapshot.interval_s + self._planner.load_s

    def _plan(self, snapshot: Snapshot, demand: Demand, patience: float) -> Plan:
        planner = self._planner
        request = replace(
            planner.request(demand.high_rps, there=snapshot.servers),
            expected_rps=max(min(demand.expected_rps, demand.high_rps), FLOOR_RPS),
            chance=demand.chance,
            current=snapshot.servers,
            horizon_s=patience * snapshot.interval_s,
            load_s=planner.options.load_s,
            unloadable=snapshot.exclusions,
        )
        return allocate(planner.pipeline, request)
