"""The bounded-variable simplex on a dense dictionary: pivoting, the dual and the primal method. Knows no integers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from loki_rl.control.compiled import compiled

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Flags = NDArray[np.bool_]

OPTIMAL, INFEASIBLE, CUT_OFF, DOUBT = 0, 1, 2, 3
# Bounds hold to FEASIBLE and signs of slopes to FEASIBLE; a pivot has at least PIVOT, what is below NOISE is rounding.
FEASIBLE, CANDIDATE, PIVOT, NOISE = 1e-9, 1e-8, 1e-6, 1e-13


class Dictionary(NamedTuple):
    """Equations solved for some of their variables: x[basic] = constants - table x[nonbasic] (Chvatal 1983, chapter 8).

    slopes: change of the objective per unit of each nonbasic variable. x: values of all variables.
    """

    table: Floats
    slopes: Floats
    x: Floats
    basic: Indices
    nonbasic: Indices


# Loops over single elements of arrays with names of their own: array expressions, views of rows, and arrays that are looked
# up in a tuple at every step would take most of the time.


@compiled
def pivot(now: Dictionary, leaving: int, entering: int) -> None:
    """Exchange the variables of a row and a column."""
    table, slopes, _, basic, nonbasic = now
    height, width = table.shape
    row = np.empty(width)
    inverse = 1 / table[leaving, entering]
    for j in range(width):
        row[j] = table[leaving, j] * inverse if abs(table[leaving, j]) > NOISE else 0.0
    row[entering] = inverse
    for i in range(height):
        factor = table[i, entering]
        if factor != 0.0:
            table[i, entering] = 0.0
            if abs(factor) > NOISE:
                for j in range(width):
                    table[i, j] -= factor * row[j]
    slope = slopes[entering]
    slopes[entering] = 0.0
    for j in range(width):
        table[leaving, j] = row[j]
        slopes[j] -= slope * row[j]
    basic[leaving], nonbasic[entering] = nonbasic[entering], basic[leaving]


@compiled
def dual(
    now: Dictionary, lower: Floats, upper: Floats, start: float, cutoff: float, limit: int, feasible: float
) -> tuple[int, int, float]:
    """Dual simplex from slopes of the right signs: (outcome, row that cannot be met, objective).

    start: objective at x; the method stops where it passes the cutoff. feasible: by how much bounds may be missed. Rows by
    steepest edge, columns by Harris' two passes (Koberstein 2005, chapters 3 and 6).
    """
    table, slopes, x, basic, nonbasic = now
    objective, edges = start, np.zeros(len(basic))
    for _ in range(limit):
        leaving = _leaving(table, x, basic, lower, upper, edges, feasible)
        if leaving < 0:
            return OPTIMAL, -1, objective
        out = basic[leaving]
        target = lower[out] if x[out] < lower[out] else upper[out]
        sign = -1.0 if x[out] < target else 1.0
        entering = _entering(table, slopes, x, nonbasic, lower, upper, leaving, sign)
        if entering < 0:
            return INFEASIBLE, leaving, objective
        element = table[leaving, entering]
        if abs(element) < PIVOT:
            return DOUBT, leaving, objective
        step = (x[out] - target) / element
        objective += abs(slopes[entering] * step)
        for i in range(len(basic)):
            if table[i, entering] != 0.0:
                x[basic[i]] -= table[i, entering] * step
                edges[i] = 0.0
        x[nonbasic[entering]] += step
        x[out] = target
        pivot(now, leaving, entering)
        if objective >= cutoff:
            return CUT_OFF, -1, objective
    return DOUBT, -1, objective


@compiled
def _leaving(table: Floats, x: Floats, basic: Indices, lower: Floats, upper: Floats, edges: Floats, feasible: float) -> int:
    """Row that is farthest outside its bounds along its edge; -1 if none is. edges: squared lengths, 0: not known."""
    leaving, best = -1, 0.0
    for i in range(len(basic)):
        v = basic[i]
        excess = max(lower[v] - x[v], x[v] - upper[v])
        if excess > feasible:
            if edges[i] == 0.0:
                edges[i] = _length(table, i)
            score = excess * excess / edges[i]
            if score > best:
                leaving, best = i, score
    return leaving


@compiled
def _length(table: Floats, i: int) -> float:
    """Squared, of the edge along which the variable of a row moves; in two sums, which a processor adds side by side."""
    length, other = 1.0, 0.0
    for j in range(0, table.shape[1] - 1, 2):
        length += table[i, j] * table[i, j]
        other += table[i, j + 1] * table[i, j + 1]
    if table.shape[1] % 2:
        other += table[i, -1] * table[i, -1]
    return length + other


@compiled
def _entering(
    table: Floats,
    slopes: Floats,
    x: Floats,
    nonbasic: Indices,
    lower: Floats,
    upper: Floats,
    leaving: int,
    sign: float,
) -> int:
    """Column that keeps the signs of the slopes; of those nearly as good the one with the largest element."""
    able = np.empty(len(nonbasic), dtype=np.int64)
    count, limit = 0, np.inf
    for j in range(len(nonbasic)):
        element, v = sign * table[leaving, j], nonbasic[j]
        if (element > CANDIDATE and x[v] < upper[v]) or (element < -CANDIDATE and x[v] > lower[v]):
            able[count] = j
            count += 1
            limit = min(limit, (abs(slopes[j]) + FEASIBLE) / abs(element))
    entering, size = -1, 0.0
    for k in range(count):
        j = able[k]
        element = abs(table[leaving, j])
        if element > size and abs(slopes[j]) <= limit * element:
            entering, size = j, element
    return entering


@compiled
def primal(now: Dictionary, lower: Floats, upper: Floats, limit: int) -> int:
    """Primal simplex from an x inside its bounds. CUT_OFF: the objective has no limit."""
    table, slopes, x, basic, nonbasic = now
    for _ in range(limit):
        entering = _improving(now, lower, upper)
        if entering < 0:
            return OPTIMAL
        into = nonbasic[entering]
        way = 1.0 if slopes[entering] < 0 else -1.0
        across = upper[into] - lower[into]
        leaving, step = _blocking(now, lower, upper, entering, way)
        if step == np.inf and across == np.inf:
            return CUT_OFF
        if across <= step:
            leaving, step = -1, across
        elif abs(table[leaving, entering]) < PIVOT:
            return DOUBT
        for i in range(len(basic)):
            x[basic[i]] -= way * step * table[i, entering]
        if leaving < 0:
            x[into] = upper[into] if way > 0 else lower[into]
            continue
        out = basic[leaving]
        x[into] += way * step
        x[out] = upper[out] if way * table[leaving, entering] < 0 else lower[out]
        pivot(now, leaving, entering)
    return DOUBT


@compiled
def _improving(now: Dictionary, lower: Floats, upper: Floats) -> int:
    """Column with the steepest useful slope, -1 if none is useful."""
    _, slopes, x, _, nonbasic = now
    entering, best = -1, FEASIBLE
    for j in range(len(nonbasic)):
        v, size = nonbasic[j], abs(slopes[j])
        if size > best and (x[v] < upper[v] if slopes[j] < 0 else x[v] > lower[v]):
            entering, best = j, size
    return entering


@compiled
def _blocking(now: Dictionary, lower: Floats, upper: Floats, entering: int, way: float) -> tuple[int, float]:
    """Row that reaches a bound first, and the step until then: of those nearly as near the one with the largest element."""
    table, _, x, basic, _ = now
    limit = np.inf
    for i in range(len(basic)):
        change, v = -way * table[i, entering], basic[i]
        if abs(change) > CANDIDATE:
            room = upper[v] - x[v] if change > 0 else x[v] - lower[v]
            limit = min(limit, (max(room, 0.0) + FEASIBLE) / abs(change))
    leaving, size, step = -1, 0.0, np.inf
    for i in range(len(basic)):
        change, v = -way * table[i, entering], basic[i]
        if abs(change) > size and abs(change) > CANDIDATE:
            room = upper[v] - x[v] if change > 0 else x[v] - lower[v]
            if max(room, 0.0) <= limit * abs(change):
                leaving, size, step = i, abs(change), max(room, 0.0) / abs(change)
    return leaving, step


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
            for i in range(len(basic)):
                x[basic[i]] -= table[i, j] * (wanted - x[v])
            x[v] = wanted
    total = 0.0
    for v in range(len(x)):
        total += costs[v] * x[v]
    return total


@compiled
def price(now: Dictionary, costs: Floats) -> None:
    """Slopes from costs."""
    table, slopes, _, basic, nonbasic = now
    for j in range(len(nonbasic)):
        slopes[j] = costs[nonbasic[j]]
    for i in range(len(basic)):
        if costs[basic[i]] != 0.0:
            for j in range(len(nonbasic)):
                slopes[j] -= costs[basic[i]] * table[i, j]
