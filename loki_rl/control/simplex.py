"""The bounded-variable simplex on a dense dictionary, with proofs that do not trust it. Owns pivoting, the dual and primal
methods and safe bounds; knows no integers and no PuLP."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
F = TypeVar("F", bound=Callable[..., Any])

OPTIMAL, INFEASIBLE, CUT_OFF, DOUBT = 0, 1, 2, 3
# Bounds hold to FEASIBLE and signs of slopes to FEASIBLE; a pivot has at least PIVOT, what is below NOISE is rounding.
FEASIBLE, CANDIDATE, PIVOT, NOISE = 1e-9, 1e-8, 1e-6, 1e-13

numba: Any = import_module("numba") if find_spec("numba") else None


def compiled(function: F) -> F:
    """Compiled once, kept on disk; without numba the same arithmetic runs in numpy, 20 times slower."""
    return cast(F, numba.njit(cache=True)(function)) if numba else function


if numba is None:

    def _subtract(table: Floats, column: Floats, row: Floats) -> None:
        rows, columns = np.flatnonzero(column), np.flatnonzero(row)
        table[rows[:, None], columns] -= column[rows, None] * row[columns]
else:

    @compiled
    def _subtract(table: Floats, column: Floats, row: Floats) -> None:
        for i in range(len(column)):
            if column[i] != 0.0:
                # Rows are dense soon: all of it, many at a time, is quicker than the elements that count one by one.
                for j in range(len(row)):
                    table[i, j] -= column[i] * row[j]


class First(NamedTuple):
    """The dictionary that the problem was read into: x[i] + sum of value x[column] over the entries of row i = constant[i].

    Variables 0..m-1 are basic, the rest are not; costs are those of all variables.
    """

    row: Indices
    column: Indices
    value: Floats
    constant: Floats
    costs: Floats


class Dictionary(NamedTuple):
    """The same equations solved for other variables: x[basic] = constants - table x[nonbasic] (Chvatal 1983, chapter 8).

    slopes: change of the objective per unit of each nonbasic variable. x: values of all variables.
    """

    table: Floats
    slopes: Floats
    x: Floats
    basic: Indices
    nonbasic: Indices


def copy_of(now: Dictionary) -> Dictionary:
    """Arrays of its own, to be changed."""
    return Dictionary(now.table.copy(), now.slopes.copy(), now.x.copy(), now.basic.copy(), now.nonbasic.copy())


@compiled
def pivot(now: Dictionary, leaving: int, entering: int) -> None:
    """Exchange the variables of a row and a column."""
    table, slopes, _, basic, nonbasic = now
    element = table[leaving, entering]
    column = np.where(np.abs(table[:, entering]) > NOISE, table[:, entering], 0.0)
    row = np.where(np.abs(table[leaving]) > NOISE, table[leaving], 0.0) / element
    row[entering] = 1 / element
    column[leaving] = 0.0
    table[:, entering] = 0.0
    _subtract(table, column, row)
    table[leaving] = row
    slope = slopes[entering]
    slopes[entering] = 0.0
    slopes -= slope * row
    basic[leaving], nonbasic[entering] = nonbasic[entering], basic[leaving]


@compiled
def dual(now: Dictionary, lower: Floats, upper: Floats, start: float, cutoff: float, limit: int) -> tuple[int, int, float]:
    """Dual simplex from slopes of the right signs: (outcome, row that cannot be met, objective).

    start: objective at x; the method stops where it passes the cutoff. Rows by steepest edge, columns by Harris' two passes
    (Koberstein 2005, chapters 3 and 6).
    """
    table, slopes, x, basic, nonbasic = now
    objective = start
    for _ in range(limit):
        values = x[basic]
        excess = np.maximum(lower[basic] - values, values - upper[basic])
        leaving, best = -1, 0.0
        for i in np.flatnonzero(excess > FEASIBLE):
            score = excess[i] ** 2 / (1.0 + table[i] @ table[i])
            if score > best:
                leaving, best = int(i), score
        if leaving < 0:
            return OPTIMAL, -1, objective
        out = basic[leaving]
        target = lower[out] if x[out] < lower[out] else upper[out]
        entering = _entering(now, lower, upper, leaving, -1.0 if x[out] < target else 1.0)
        if entering < 0:
            return INFEASIBLE, leaving, objective
        element = table[leaving, entering]
        if abs(element) < PIVOT:
            return DOUBT, leaving, objective
        step = (x[out] - target) / element
        objective += abs(slopes[entering] * step)
        x[basic] -= table[:, entering] * step
        x[nonbasic[entering]] += step
        x[out] = target
        pivot(now, leaving, entering)
        if objective >= cutoff:
            return CUT_OFF, -1, objective
    return DOUBT, -1, objective


@compiled
def _entering(now: Dictionary, lower: Floats, upper: Floats, leaving: int, sign: float) -> int:
    """Column that keeps the signs of the slopes; of those nearly as good the one with the largest element."""
    table, slopes, x, _, nonbasic = now
    row, values = sign * table[leaving], x[nonbasic]
    rises = (row > CANDIDATE) & (values < upper[nonbasic])
    falls = (row < -CANDIDATE) & (values > lower[nonbasic])
    able = np.flatnonzero(rises | falls)
    if able.size == 0:
        return -1
    size, slope = np.abs(row[able]), np.abs(slopes[able])
    close = slope / size <= np.min((slope + FEASIBLE) / size)
    return int(able[np.argmax(np.where(close, size, 0.0))])


@compiled
def primal(now: Dictionary, lower: Floats, upper: Floats, limit: int) -> int:
    """Primal simplex from an x inside its bounds. CUT_OFF: the objective has no limit."""
    table, slopes, x, basic, nonbasic = now
    for _ in range(limit):
        values = x[nonbasic]
        rises = (slopes < -FEASIBLE) & (values < upper[nonbasic])
        falls = (slopes > FEASIBLE) & (values > lower[nonbasic])
        gain = np.where(rises | falls, np.abs(slopes), 0.0)
        entering = int(np.argmax(gain))
        if gain[entering] == 0.0:
            return OPTIMAL
        into = nonbasic[entering]
        way = 1.0 if slopes[entering] < 0 else -1.0
        change = -way * table[:, entering]
        room = np.maximum(np.where(change > 0, upper[basic] - x[basic], x[basic] - lower[basic]), 0.0)
        moves = np.abs(change) > CANDIDATE
        size = np.where(moves, np.abs(change), 1.0)
        reach = np.where(moves, room / size, np.inf)
        step = np.min(np.where(moves, (room + FEASIBLE) / size, np.inf))
        across = upper[into] - lower[into]
        if step == np.inf and across == np.inf:
            return CUT_OFF
        leaving = int(np.argmax(np.where(moves & (reach <= step), size, 0.0)))
        step = min(reach[leaving], across)
        x[basic] += change * step
        if across <= reach[leaving]:
            x[into] = upper[into] if way > 0 else lower[into]
            continue
        if size[leaving] < PIVOT:
            return DOUBT
        out = basic[leaving]
        x[into] += way * step
        x[out] = upper[out] if change[leaving] > 0 else lower[out]
        pivot(now, leaving, entering)
    return DOUBT


@compiled
def settle(now: Dictionary, costs: Floats, lower: Floats, upper: Floats) -> float:
    """After bounds have changed: every nonbasic variable to the bound that its slope asks for. Returns the objective."""
    table, slopes, x, basic, nonbasic = now
    for j in range(len(nonbasic)):
        v = nonbasic[j]
        wanted = min(max(x[v], lower[v]), upper[v])
        if slopes[j] > FEASIBLE and lower[v] > -np.inf:
            wanted = lower[v]
        elif slopes[j] < -FEASIBLE and upper[v] < np.inf:
            wanted = upper[v]
        if wanted != x[v]:
            x[basic] -= table[:, j] * (wanted - x[v])
            x[v] = wanted
    return float(np.sum(costs * x))


@compiled
def error(first: First, x: Floats) -> float:
    """How far x is from the equations as they were read."""
    size = len(first.constant)
    left = np.bincount(first.row, first.value * x[size:][first.column], size)
    return float(np.max(np.abs(x[:size] + left - first.constant)))


@compiled
def safe_bound(first: First, now: Dictionary, infeasible_row: int, lower: Floats, upper: Floats) -> float:
    """Lower bound on the objective from the equations as they were read, multipliers taken from the slopes (Neumaier and
    Shcherbina 2004). With a row that cannot be met: by how much at least, above 0 only if there is no solution (Farkas).
    """
    size, x = len(first.constant), now.x
    full = np.zeros(len(x))
    if infeasible_row < 0:
        full[now.nonbasic] = now.slopes
        costs = first.costs
        multipliers = costs[:size] - full[:size]
    else:
        out = now.basic[infeasible_row]
        full[now.nonbasic] = now.table[infeasible_row]
        full[out] = 1.0
        costs = np.zeros(len(x))
        multipliers = full[:size] if x[out] > upper[out] else -full[:size]
    rest = costs.copy()
    rest[:size] -= multipliers
    rest[size:] -= np.bincount(first.column, first.value * multipliers[first.row], len(x) - size)
    total = np.sum(multipliers * first.constant)
    for v in np.flatnonzero(np.abs(rest) > NOISE):
        bound = lower[v] if rest[v] > 0 else upper[v]
        if abs(bound) < np.inf or abs(rest[v]) > FEASIBLE:
            total += rest[v] * bound
    return float(total)


@compiled
def renew(first: First, now: Dictionary) -> None:
    """The dictionary of the same basis from the equations as they were read, free of the rounding errors of earlier pivots.

    Each variable that is to become basic takes the row with its largest element among those still to be left.
    """
    size, total = len(first.constant), len(now.x)
    # The constants are one more column: that of a variable of value -1.
    table = np.zeros((size, total - size + 1))
    for k in range(len(first.row)):
        table[first.row[k], first.column[k]] = first.value[k]
    table[:, -1] = first.constant
    fresh = Dictionary(table, np.zeros(total - size + 1), now.x, np.arange(size), np.arange(size, total + 1))
    stays = np.zeros(total + 1, dtype=np.bool_)
    stays[now.basic] = True
    for j in range(total - size):
        if stays[fresh.nonbasic[j]]:
            pivot(fresh, int(np.argmax(np.where(stays[fresh.basic], 0.0, np.abs(table[:, j])))), j)
    now.table[:] = table[:, :-1]
    now.basic[:] = fresh.basic
    now.nonbasic[:] = fresh.nonbasic[:-1]
    now.x[now.basic] = table[:, -1]
    for j in range(total - size):
        now.x[now.basic] -= table[:, j] * now.x[now.nonbasic[j]]
