"""What an agent sees and may do, in the twin and in a live controller alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from loki_rl.control.compiled import inlined, lean
from loki_rl.control.demand.estimators import FLOOR_RPS, Floats
from loki_rl.control.demand.forecast import deviations
from loki_rl.control.demand.forecast_learned import BINS, binned
from loki_rl.control.fast.objective_kernels import capacity
from loki_rl.control.fast.table import Table
from loki_rl.control.formulation.request import PATIENCE
from loki_rl.core.plan import Server, Snapshot

MULTIPLIERS = np.array([0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.45, 1.6, 1.8])
PATIENCES = np.array([1.0, 8.0])  # times the base's own
ACTIONS = len(MULTIPLIERS) * len(PATIENCES)
NO_ADJUSTMENT = 3
# What is no action of an agent: the tuned base that it adjusts, and policy `forecast` as it ships, which decides where an
# agent is not believed.
BASE, FORECAST = -1, -2
FLOOR_S = 2  # the rate of so many last seconds is to be served
SLACK = 0.05  # a target may lie this much below the last seconds' rate: noise
# log ratios of bins, noise, log of level over the cluster's rate, log ratios of mean and quantiles, error of the forecaster
EXOGENOUS = len(BINS) + 10
STATE = 12
OBSERVATION = EXOGENOUS + STATE
LONG_S = 20.0


def exogenous(history: Floats, mean: Floats, quantiles: Floats, errors: Floats, best_rps: float) -> Floats:
    """[n, EXOGENOUS] features of demand, from counts per second [n, H], forecasts and the forecaster's recent error [n]."""
    level, bins = binned(history)
    noise = (deviations(history, level) / level).clip(0.0, 2.0)
    size = np.log(level / best_rps).clip(-4.0, 2.0)
    ratios = np.log(np.column_stack((mean, quantiles)).clip(FLOOR_RPS) / level[:, None]).clip(-2.0, 2.0)
    return np.column_stack((bins, noise, size, ratios, (10 * errors).clip(0.0, 2.0)))


@inlined
def adjusted(action: int, base_rps: float, scale: float, patience: float) -> tuple[float, float]:
    """Demand for capacity [1/s] and patience [intervals] of an action, of BASE or of FORECAST."""
    if action == FORECAST:
        return base_rps, PATIENCE
    if action == BASE:
        return base_rps * scale, patience
    size = len(MULTIPLIERS)
    return base_rps * scale * MULTIPLIERS[action % size], patience * PATIENCES[action // size]


@lean
def fill_mask(mask: NDArray[np.int8], base_rps: float, floor_rps: float, most_rps: float) -> None:
    """Legal actions: targets that serve the last seconds' rate, as far as the cluster can, and only the lowest of those
    beyond the cluster's largest demand. No adjustment is always legal."""
    size = len(MULTIPLIERS)
    least = min(floor_rps * (1.0 - SLACK), most_rps)
    for action in range(ACTIONS):
        place = action % size
        repeated = place > 0 and base_rps * MULTIPLIERS[place - 1] >= most_rps
        legal = place == NO_ADJUSTMENT or (base_rps * MULTIPLIERS[place] >= least and not repeated)
        mask[action] = 1 if legal else 0


class StateFigures(NamedTuple):
    """Of a cluster: demand that it can serve with what is ready, and once what is planned is [1/s]; servers that load;
    longest time until one is loaded, and that a load takes [s]; longest backlog [s]; servers used; the last action, -1 for
    none; servers; age of the counts [s]."""

    ready_rps: float
    planned_rps: float
    loading: float
    longest_s: float
    load_s: float
    backlog_s: float
    used: float
    last: int
    servers: int
    lag_s: float


@lean
def fill_state(out: NDArray[np.float32], of: StateFigures, high_rps: float, most_rps: float, servers: int) -> None:
    """The state's features of an observation. most_rps, servers: of the whole cluster."""
    size = len(MULTIPLIERS)
    out[EXOGENOUS] = logarithm(of.ready_rps / high_rps)
    out[EXOGENOUS + 1] = logarithm(of.planned_rps / high_rps)
    out[EXOGENOUS + 2] = of.loading / of.servers
    out[EXOGENOUS + 3] = min(1.0, of.longest_s / LONG_S)
    out[EXOGENOUS + 4] = min(1.0, of.load_s / LONG_S)
    out[EXOGENOUS + 5] = min(1.0, of.backlog_s)
    out[EXOGENOUS + 6] = of.used / of.servers
    out[EXOGENOUS + 7] = MULTIPLIERS[of.last % size] - 1.0 if of.last >= 0 else 0.0
    out[EXOGENOUS + 8] = PATIENCES[of.last // size] / PATIENCES[1] if of.last >= 0 else 0.0
    out[EXOGENOUS + 9] = of.servers / servers
    out[EXOGENOUS + 10] = of.lag_s / 2.0
    out[EXOGENOUS + 11] = logarithm(most_rps / high_rps)


@inlined
def logarithm(ratio: float) -> float:
    return float(min(2.0, max(-2.0, np.log(max(ratio, 1e-6)))))


def observation(
    table: Table, snapshot: Snapshot, demand: Floats, high_rps: float, last: int, servers: int, load_s: float, lag_s: float
) -> NDArray[np.float32]:
    """Features of demand [EXOGENOUS], and the state's from what the controller sees, as env/fluid/step.py `observe` has
    them."""
    fleet, rate, work = table.fleet, table.fleet.rates[-1], table.scratch.work
    now, after = np.zeros(fleet.models), np.zeros(fleet.models)
    for server in snapshot.servers:
        _held(fleet.model, server, now, after)
    loading = [server.remaining_s for server in snapshot.servers if server.loading]
    used = sum(server.serving is not None or server.loading is not None for server in snapshot.servers)
    ready, planned = (capacity(counts, rate, fleet.net, high_rps, work) for counts in (now, after))
    longest_s, backlog_s = max(loading, default=0.0), max(snapshot.backlog_s.values(), default=0.0)
    figures = StateFigures(
        ready, planned, float(len(loading)), longest_s, load_s, backlog_s, float(used), last, servers, lag_s
    )
    out = np.zeros(OBSERVATION, np.float32)
    out[:EXOGENOUS] = demand
    fill_state(out, figures, high_rps, table.most_rps, table.servers)
    return out


def _held(model: Callable[[str, str], int], server: Server, now: Floats, after: Floats) -> None:
    if server.serving is not None:
        now[model(*server.serving[:2])] += 1
    target = server.loading or server.serving
    if target is not None:
        after[model(*target[:2])] += 1
