"""How sure a comparison is: mean costs with bootstrap intervals, and paired differences on the same requests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from msgspec import Struct

from loki_rl.reports.statistics import Interval, mean_interval
from loki_rl.reports.summary import DRIVERS
from loki_rl.runs.result import RunResult

# A window of demand: equal requests for every policy.
Window = tuple[str, int]  # trace, seed


class Estimate(Struct, frozen=True):
    """Means of one policy over n windows. cost: J, with the interval of resampled windows (for one window a point)."""

    policy: str
    n: int
    violations: float
    accuracy: float
    servers: float
    of_servers: float
    cost: Interval


class Difference(Struct, frozen=True):
    """policy minus reference, per pair of runs on the same requests."""

    policy: str
    reference: str
    n: int
    cost: Interval
    violations: Interval
    accuracy: Interval
    servers: Interval


class Contrast(Struct, frozen=True):
    """One driver: policies from the lowest cost to the highest, and every other one against the first. policies: in the
    order in which they were given."""

    driver: str
    policies: tuple[str, ...]
    estimates: tuple[Estimate, ...]
    differences: tuple[Difference, ...]


def contrasts(results: Iterable[RunResult]) -> list[Contrast]:
    """One for each driver that counted servers; over the windows that all of its policies played."""
    known = [done for done in results if done.summary.cost_j is not None]
    drivers = [driver for driver in DRIVERS if any(done.options.driver == driver for done in known)]
    return [_contrast(driver, [done for done in known if done.options.driver == driver]) for driver in drivers]


def _contrast(driver: str, results: Sequence[RunResult]) -> Contrast:
    played: dict[str, dict[Window, RunResult]] = {}
    for done in results:
        played.setdefault(done.options.policy, {})[done.trace, done.options.seed] = done
    windows = [window for window in next(iter(played.values())) if all(window in mine for mine in played.values())]
    if not windows:
        return Contrast(driver, tuple(played), (), ())
    runs = {policy: [mine[window] for window in windows] for policy, mine in played.items()}
    estimates = sorted((_estimate(policy, mine) for policy, mine in runs.items()), key=lambda one: one.cost.value)
    first = estimates[0].policy
    differences = [_difference(one.policy, runs[one.policy], first, runs[first]) for one in estimates[1:]]
    return Contrast(driver, tuple(played), tuple(estimates), tuple(differences))


def _estimate(policy: str, runs: Sequence[RunResult]) -> Estimate:
    violations, accuracy, servers, _ = np.mean([_figures(done) for done in runs], axis=0).tolist()
    of_servers = float(np.mean([done.servers for done in runs]))
    cost = mean_interval(np.array([_figures(done)[3] for done in runs]))
    return Estimate(policy, len(runs), violations, accuracy, servers, of_servers, cost)


def _difference(policy: str, runs: Sequence[RunResult], reference: str, others: Sequence[RunResult]) -> Difference:
    apart = np.array([_figures(done) for done in runs]) - np.array([_figures(done) for done in others])
    violations, accuracy, servers, cost = (mean_interval(column) for column in apart.T)
    return Difference(policy, reference, len(runs), cost, violations, accuracy, servers)


def _figures(done: RunResult) -> tuple[float, float, float, float]:
    found = done.summary
    return found.slo_violation_ratio, found.accuracy or 0.0, found.servers_mean or 0.0, found.cost_j or 0.0
