"""The linear program over a few routes that grows: columns as prices ask for them, rows as the search branches on them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from loki_rl.control.compiled import compiled
from loki_rl.control.solver.simplex import (
    FEASIBLE,
    OPTIMAL,
    Dictionary,
    Flags,
    Floats,
    Indices,
    dual,
    pivot,
    price,
    primal,
    settle,
)

PIVOTS = 5000
FIRST_SLOTS = 64
# A row further from the sum of its columns is computed anew.
CLEAN = 1e-10
FREE, FIXED, ROUTE = 0, 1, 2


class Master(NamedTuple):
    """minimise costs x columns, with bounds on sums over the columns (rows) and columns at least 0.

    matrix [slot, row]: coefficients of all rows; those that bind nothing yet take no part until brought in. Variable
    j < slots is a column, slots + r a row. costs, lower, upper [variable]. active, idle [row]: takes part; has columns for
    servers without use. kind [slot]: FREE, FIXED or ROUTE. ways, amounts [slot, place]: the arcs of a route (-1: none), and
    how much of it takes them; empty if nobody wants to know.
    """

    matrix: Floats
    costs: Floats
    lower: Floats
    upper: Floats
    now: Dictionary
    active: Flags
    idle: Flags
    kind: Indices
    ways: Indices
    amounts: Floats


@compiled
def as_master(plain: tuple[Any, ...]) -> Master:
    """Of its fields: numba takes much longer to look at a named tuple than at a plain one."""
    matrix, costs, lower, upper, now, active, idle, kind, ways, amounts = plain
    return Master(matrix, costs, lower, upper, Dictionary(*now), active, idle, kind, ways, amounts)


def blank(rows: int, longest: int, slots: int = FIRST_SLOTS) -> Master:
    """Rows without bounds and no columns. longest: arcs of a route, 0 if they are not to be told."""
    free = np.full(rows, np.inf)
    now = Dictionary(
        np.zeros((0, slots)), np.zeros(slots), np.zeros(slots + rows), np.zeros(0, dtype=np.int64), np.arange(slots)
    )
    return Master(
        np.zeros((slots, rows)),
        np.zeros(slots + rows),
        np.concatenate([np.zeros(slots), -free]),
        np.concatenate([np.zeros(slots), free]),
        now,
        np.zeros(rows, dtype=np.bool_),
        np.zeros(rows, dtype=np.bool_),
        np.zeros(slots, dtype=np.int64),
        np.full((slots, longest), -1),
        np.zeros((slots, longest)),
    )


# -- growth


@compiled
def bring(master: Master, row: int) -> Master:
    """Let a row take part from now on."""
    matrix, costs, lower, upper, now, active, idle, kind, ways, amounts = master
    if active[row]:
        return master
    slots, size = len(kind), len(now.basic)
    weights = np.zeros(len(costs))
    weights[:slots] = matrix[:, row]
    table = np.empty((size + 1, slots))
    table[:size] = now.table
    table[size] = combine(now, weights)
    basic = np.empty(size + 1, dtype=np.int64)
    basic[:size] = now.basic
    basic[size] = slots + row
    now.x[slots + row] = np.sum(weights * now.x)
    active[row] = True
    longer = Dictionary(table, now.slopes, now.x, basic, now.nonbasic)
    return Master(matrix, costs, lower, upper, longer, active, idle, kind, ways, amounts)


@compiled
def add(master: Master, coefficients: Floats, cost: float, most: float, kind: int) -> int:
    """A new column [row], 0 for now, of at most so much; returns its slot. There must be a free one."""
    slots = len(master.kind)
    slot = 0
    while master.kind[slot] != FREE:
        slot += 1
    master.matrix[slot] = coefficients
    master.costs[slot], master.upper[slot], master.kind[slot] = cost, most, kind
    now, size = master.now, len(master.now.basic)
    where = np.full(len(now.x), -1)
    for i in range(size):
        where[now.basic[i]] = i
    for q in range(len(now.nonbasic)):
        where[now.nonbasic[q]] = size + q
    column = np.zeros(size)
    slope = cost
    for row in range(len(coefficients)):
        value = coefficients[row]
        if value != 0.0 and master.active[row]:
            at = where[slots + row]
            if at < size:
                column[at] -= value
            else:
                for i in range(size):
                    column[i] -= value * now.table[i, at - size]
                slope -= value * now.slopes[at - size]
    place = where[slot] - size
    for i in range(size):
        now.table[i, place] = column[i]
    now.slopes[place] = slope
    return slot


@compiled
def room(master: Master, pays: float, spare: int) -> Master:
    """With a free slot: routes that have been out of use are forgotten, the least worth having first, else it grows."""
    kind, now = master.kind, master.now
    for slot in range(len(kind)):
        if kind[slot] == FREE:
            return master
    slopes = np.zeros(len(now.x))
    slopes[now.nonbasic] = now.slopes
    routes = np.sum(kind == ROUTE)
    surplus = routes - spare * len(now.basic)
    if surplus > routes // 4:
        worst = np.zeros(len(kind))
        for slot in range(len(kind)):
            if kind[slot] == ROUTE and slopes[slot] > pays and now.x[slot] == 0.0:
                worst[slot] = -slopes[slot]
        order = np.argsort(worst)
        dropped = 0
        while dropped < surplus and worst[order[dropped]] < 0.0:
            slot = order[dropped]
            master.upper[slot], kind[slot] = 0.0, FREE
            master.matrix[slot] = 0.0
            dropped += 1
        if dropped > routes // 4:
            return master
    return _grown(master)


@compiled
def _grown(master: Master) -> Master:
    """Twice as many slots."""
    matrix, costs, lower, upper, now, active, idle, kind, ways, amounts = master
    slots, rows = matrix.shape
    basic, nonbasic = now.basic.copy(), np.empty(2 * slots, dtype=np.int64)
    basic[basic >= slots] += slots
    nonbasic[:slots] = now.nonbasic
    nonbasic[:slots][nonbasic[:slots] >= slots] += slots
    nonbasic[slots:] = np.arange(slots, 2 * slots)
    wide = np.zeros((2 * slots, rows))
    wide[:slots] = matrix
    table = np.zeros((len(basic), 2 * slots))
    table[:, :slots] = now.table
    slopes, kinds = np.zeros(2 * slots), np.zeros(2 * slots, dtype=np.int64)
    slopes[:slots], kinds[:slots] = now.slopes, kind
    fresh = Dictionary(table, slopes, _wider(now.x, slots), basic, nonbasic)
    told, much = np.full((2 * slots, ways.shape[1]), -1), np.zeros((2 * slots, ways.shape[1]))
    told[:slots], much[:slots] = ways, amounts
    return Master(
        wide, _wider(costs, slots), _wider(lower, slots), _wider(upper, slots), fresh, active, idle, kinds, told, much
    )


@compiled
def _wider(values: Floats, slots: int) -> Floats:
    found = np.zeros(len(values) + slots)
    found[:slots] = values[:slots]
    found[2 * slots :] = values[slots:]
    return found


# -- the solution


@compiled
def reoptimise(master: Master) -> int:
    """After changed bounds or new columns: OPTIMAL, INFEASIBLE or DOUBT."""
    objective = settle(master.now, master.costs, master.lower, master.upper)
    outcome = dual(master.now, master.lower, master.upper, objective, np.inf, PIVOTS, FEASIBLE)[0]
    return improve(master) if outcome == OPTIMAL else outcome


@compiled
def improve(master: Master) -> int:
    """From an x inside its bounds."""
    return primal(master.now, master.lower, master.upper, PIVOTS)


@compiled
def recover(master: Master) -> int:
    """After DOUBT: the same basis free of rounding errors, from there any x inside the bounds, then the best."""
    renew(master)
    master.now.slopes[:] = 0.0
    settle(master.now, master.costs, master.lower, master.upper)
    outcome = dual(master.now, master.lower, master.upper, 0.0, np.inf, PIVOTS, FEASIBLE)[0]
    price(master.now, master.costs)
    return improve(master) if outcome == OPTIMAL else outcome


@compiled
def clean(master: Master) -> None:
    """Renew where there are errors to speak of."""
    values, slots = sums(master), len(master.kind)
    for row in range(len(values)):
        value = master.now.x[slots + row]
        if master.active[row] and abs(value - values[row]) > CLEAN * max(1.0, abs(value)):
            renew(master)
            return


@compiled
def sums(master: Master) -> Floats:
    """[row] = its value, whether it takes part or not."""
    total = np.zeros(len(master.active))
    for slot in range(len(master.kind)):
        x = master.now.x[slot]
        if x != 0.0:
            for row in range(len(total)):
                total[row] += x * master.matrix[slot, row]
    return total


@compiled
def objective(master: Master) -> float:
    """What the columns cost."""
    total = 0.0
    for slot in range(len(master.kind)):
        total += master.costs[slot] * master.now.x[slot]
    return total


@compiled
def combine(now: Dictionary, weights: Floats) -> Floats:
    """The dictionary's row of a weighted sum of variables."""
    row = -weights[now.nonbasic]
    for i in range(len(now.basic)):
        weight = weights[now.basic[i]]
        if weight != 0.0:
            for j in range(len(row)):
                row[j] += weight * now.table[i, j]
    return row


@compiled
def renew(master: Master) -> None:
    """The dictionary of the same basis from the rows as they were first."""
    now, slots = master.now, len(master.kind)
    rows = np.flatnonzero(master.active)
    size = len(rows)
    table = np.empty((size, slots))
    for i in range(size):
        table[i] = -master.matrix[:, rows[i]]
    fresh = Dictionary(table, np.zeros(slots), now.x, rows + slots, np.arange(slots))
    stays = np.zeros(len(now.x), dtype=np.bool_)
    stays[now.basic] = True
    for q in range(slots):
        if stays[fresh.nonbasic[q]]:
            best, chosen = 0.0, -1
            for i in range(size):
                if not stays[fresh.basic[i]] and abs(fresh.table[i, q]) > best:
                    best, chosen = abs(fresh.table[i, q]), i
            if best > 1e-11:
                pivot(fresh, chosen, q)
    now.table[:] = fresh.table
    now.basic[:] = fresh.basic
    now.nonbasic[:] = fresh.nonbasic
    for i in range(size):
        now.x[now.basic[i]] = 0.0
    for q in range(slots):
        value = now.x[now.nonbasic[q]]
        if value != 0.0:
            for i in range(size):
                now.x[now.basic[i]] -= now.table[i, q] * value
    price(now, master.costs)
