"""What an agent sees and may do, in the twin and in a live controller alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from loki_rl.control.compiled import inlined, lean
from loki_rl.control.demand.belief import CUTS, Coming
from loki_rl.control.demand.estimators import FLOOR_RPS, Floats
from loki_rl.control.demand.regime import LONGEST_S, regime
from loki_rl.control.fast.objective_kernels import CHANCE, TO, capacity
from loki_rl.control.fast.table import Table
from loki_rl.control.formulation.request import Slice
from loki_rl.core.plan import Server, Snapshot

# On the part of the demand that may come which exceeds what is expected, and on the odds that it comes.
MULTIPLIERS = np.array([0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0])
ODDS = np.array([1.0, 0.25, 4.0])
ACTIONS = len(MULTIPLIERS) * len(ODDS)
NO_ADJUSTMENT = 4
FLOOR_S = 2  # the rate of so many last seconds is to be served
SLACK = 0.05  # the end of the slices may lie this much below the last seconds' rate: noise

# Widths [s] of the bins of recent demand, newest first: fine near now, a minute in all.
BINS = (1, 1, 1, 1, 2, 2, 2, 5, 5, 5, 5, 10, 10, 10)
BEGINS = np.cumsum((0, *BINS))[:-1]
# Ratios of bins; noise, how long the regime has held, level; ratios of slices; their chances; ratio of the mean; horizon.
EXOGENOUS = len(BINS) + 3 + 2 * len(CUTS) + 2
STATE = 12
OBSERVATION = EXOGENOUS + STATE
LONG_S, LONG_HORIZON_S = 20.0, 60.0


def exogenous(histories: Sequence[Floats], comings: Sequence[Coming], horizons_s: Floats, best_rps: float) -> Floats:
    """[n, EXOGENOUS] features of demand: from counts per second until now, what is believed to come after them, and for how
    long a plan should pay [s]. best_rps: what the cluster serves with its best variants."""
    expected = np.array([max(coming.expected_rps, FLOOR_RPS) for coming in comings])[:, None]
    slices = np.array([[(one.to_rps, one.chance) for one in coming.slices] for coming in comings])
    regimes = [regime(counts) for counts in histories]
    means = np.array([coming.mean_rps for coming in comings])[:, None]
    noise = np.sqrt(np.array([[now.dispersion] for now in regimes]) / expected)
    held = np.array([[now.held_s] for now in regimes]) / LONGEST_S
    bins, level = np.stack([_bins(counts) for counts in histories]), np.log(expected / best_rps).clip(-4.0, 4.0)
    return np.column_stack((
        ratio(bins + FLOOR_RPS, expected + FLOOR_RPS), noise.clip(0.0, 2.0), held, level, ratio(slices[..., 0], expected),
        _rarity(slices[..., 1]), ratio(means, expected), (horizons_s / LONG_HORIZON_S).clip(0.0, 2.0),
    ))  # fmt: skip


def _bins(counts: Floats) -> Floats:
    """Rates of the bins [1/s]; a history shorter than a minute is continued backwards by its mean."""
    seconds = sum(BINS)
    newest = np.append(counts[: -seconds - 1 : -1], np.full(max(0, seconds - len(counts)), counts.mean()))
    found: Floats = np.add.reduceat(newest, BEGINS) / BINS
    return found


def ratio(rates: Floats, to: Floats) -> Floats:
    """Logarithm, within what a feature may be."""
    found: Floats = np.log(np.maximum(rates, FLOOR_RPS) / to).clip(-2.0, 2.0)
    return found


def _rarity(chances: Floats) -> Floats:
    """0 for what is sure, 1 for one in a thousand."""
    found: Floats = (-np.log10(np.maximum(chances, 1e-6)) / 3).clip(0.0, 2.0)
    return found


@lean
def fill_slices(out: Floats, to_rps: Floats, chance: Floats, expected: float, action: int) -> None:
    """out [2, S] gets the slices [S] of an action: their part above the expected demand and its odds, multiplied."""
    factor, odds = MULTIPLIERS[action % len(MULTIPLIERS)], ODDS[action // len(MULTIPLIERS)]
    end, likely = 0.0, 1.0
    for i in range(len(to_rps)):
        to, likelihood = to_rps[i], chance[i]
        if to > expected:
            to = to if factor == 1.0 else expected + factor * (to - expected)
            likelihood = likelihood if odds == 1.0 else odds * likelihood / (1.0 + (odds - 1.0) * likelihood)
        end, likely = max(end, to), min(likely, likelihood)
        out[TO, i], out[CHANCE, i] = end, likely


def factors(action: int) -> tuple[float, float]:
    """What an action multiplies room and odds by."""
    return float(MULTIPLIERS[action % len(MULTIPLIERS)]), float(ODDS[action // len(MULTIPLIERS)])


def adjusted(coming: Coming, action: int) -> Coming:
    """What an action makes of a belief."""
    given, out = np.array([(one.to_rps, one.chance) for one in coming.slices]).T.copy(), np.zeros((2, len(coming.slices)))
    fill_slices(out, given[TO], given[CHANCE], coming.expected_rps, action)
    slices = tuple(Slice(to_rps, chance) for to_rps, chance in out.T.tolist())
    return Coming(coming.expected_rps, slices, coming.mean_rps)


@lean
def fill_mask(mask: NDArray[np.int8], expected: float, top: float, floor_rps: float, most_rps: float) -> None:
    """Legal actions: slices that end above the last seconds' rate, as far as the cluster can serve it, and odds only of what
    is left. No adjustment is always legal. expected, top: where demand that may come is expected and ends [1/s]."""
    least = min(floor_rps * (1.0 - SLACK), most_rps)
    for action in range(len(mask)):
        factor = MULTIPLIERS[action % len(MULTIPLIERS)]
        served = expected + factor * max(0.0, top - expected) >= least
        repeated = factor == 0.0 and action >= len(MULTIPLIERS)
        mask[action] = 1 if action == NO_ADJUSTMENT or (served and not repeated) else 0


class StateFigures(NamedTuple):
    """Of a cluster: demand that it can serve with what is ready, and once what is planned is [1/s]; servers that load;
    longest time until one is loaded, and that a load takes [s]; longest backlog [s]; servers used; the last action; servers;
    age of the counts [s]."""

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
def fill_state(out: NDArray[np.float32], of: StateFigures, expected: float, most_rps: float, servers: int) -> None:
    """The state's features of an observation. most_rps, servers: of the whole cluster."""
    size, expected = len(MULTIPLIERS), max(expected, FLOOR_RPS)
    out[EXOGENOUS] = logarithm(of.ready_rps / expected)
    out[EXOGENOUS + 1] = logarithm(of.planned_rps / expected)
    out[EXOGENOUS + 2] = of.loading / of.servers
    out[EXOGENOUS + 3] = min(1.0, of.longest_s / LONG_S)
    out[EXOGENOUS + 4] = min(1.0, of.load_s / LONG_S)
    out[EXOGENOUS + 5] = min(1.0, of.backlog_s)
    out[EXOGENOUS + 6] = of.used / of.servers
    out[EXOGENOUS + 7] = MULTIPLIERS[of.last % size] - 1.0
    out[EXOGENOUS + 8] = np.log(ODDS[of.last // size])
    out[EXOGENOUS + 9] = of.servers / servers
    out[EXOGENOUS + 10] = of.lag_s / 2.0
    out[EXOGENOUS + 11] = logarithm(most_rps / expected)


@inlined
def logarithm(share: float) -> float:
    return float(min(2.0, max(-2.0, np.log(max(share, 1e-6)))))


def observation(
    table: Table, snapshot: Snapshot, demand: Floats, expected: float, last: int, servers: int, load_s: float, lag_s: float
) -> NDArray[np.float32]:
    """Features of demand [EXOGENOUS], and the state's from what the controller sees, as env/fluid/step.py `observe` has
    them."""
    fleet, rate, work = table.fleet, table.fleet.rates[-1], table.scratch.work
    now, after = np.zeros(fleet.models), np.zeros(fleet.models)
    for server in snapshot.servers:
        _held(fleet.model, server, now, after)
    loading = [server.remaining_s for server in snapshot.servers if server.loading]
    used = sum(server.serving is not None or server.loading is not None for server in snapshot.servers)
    ready, planned = (capacity(counts, rate, fleet.net, expected, work) for counts in (now, after))
    longest_s, backlog_s = max(loading, default=0.0), max(snapshot.backlog_s.values(), default=0.0)
    figures = StateFigures(
        ready, planned, float(len(loading)), longest_s, load_s, backlog_s, float(used), last, servers, lag_s
    )
    out = np.zeros(OBSERVATION, np.float32)
    out[:EXOGENOUS] = demand
    fill_state(out, figures, expected, table.most_rps, table.servers)
    return out


def _held(model: Callable[[str, str], int], server: Server, now: Floats, after: Floats) -> None:
    if server.serving is not None:
        now[model(*server.serving[:2])] += 1
    target = server.loading or server.serving
    if target is not None:
        after[model(*target[:2])] += 1
