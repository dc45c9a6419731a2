"""The linear program over a few routes that grows: columns as prices ask for them, rows as the search branches on them. Owns
its dictionary and its prices; knows no network and no integers."""

from __future__ import annotations

from math import inf

import numpy as np

from loki_rl.control.compiled import compiled
from loki_rl.control.solver.simplex import FEASIBLE, OPTIMAL, Dictionary, Floats, Indices, dual, pivot, price, primal, settle

PIVOTS = 5000
FIRST_SLOTS = 128
# A row further from the sum of its columns is computed anew.
CLEAN = 1e-10


class Master:
    """minimise costs x columns, with bounds on sums over the columns (rows) and columns at least 0.

    matrix [slot, row]: coefficients of all rows; those that bind nothing yet take no part until brought in. Variable
    j < slots is a column, slots + r a row. lower, upper [variable].
    """

    def __init__(self, rows: int) -> None:
        self.rows, self.slots = rows, FIRST_SLOTS
        self.matrix = np.zeros((self.slots, rows))
        self.costs = np.zeros(self.slots + rows)
        self.lower = np.concatenate([np.zeros(self.slots), np.full(rows, -inf)])
        self.upper = np.concatenate([np.zeros(self.slots), np.full(rows, inf)])
        self.free = list(range(self.slots))[::-1]
        self.active: list[int] = []
        none = np.zeros(0, dtype=np.int64)
        x = np.zeros(self.slots + rows)
        self.now = Dictionary(np.zeros((0, self.slots)), np.zeros(self.slots), x, none, np.arange(self.slots))

    # -- growth

    def bring(self, row: int) -> None:
        """Let a row take part from now on."""
        if row in self.active:
            return
        self.active.append(row)
        table, slopes, x, basic, nonbasic = self.now
        new = combine(self.now, np.append(self.matrix[:, row], np.zeros(self.rows)))
        x[self.slots + row] = self.matrix[:, row] @ x[: self.slots]
        basic = np.append(basic, self.slots + row)
        self.now = Dictionary(np.vstack([table, new]), slopes, x, basic, nonbasic)

    def add(self, coefficients: Floats, cost: float) -> int:
        """A new column [row], 0 for now; returns its slot. There must be a free one."""
        slot = self.free.pop()
        self.matrix[slot] = coefficients
        self.costs[slot], self.upper[slot] = cost, inf
        own = np.array(self.active, dtype=np.int64)
        own = own[coefficients[own] != 0]
        append(self.now, slot, own + self.slots, coefficients[own], cost)
        return slot

    def drop(self, slots: Indices) -> None:
        """Forget columns that are 0 and nonbasic."""
        self.upper[slots] = 0.0
        self.matrix[slots] = 0.0
        self.free.extend(slots.tolist())

    def grow(self) -> None:
        """Twice as many slots."""
        more = self.slots
        table, slopes, x, basic, nonbasic = self.now

        def wider(values: Floats, filler: float = 0.0) -> Floats:
            return np.concatenate([values[: self.slots], np.full(more, filler), values[self.slots :]])

        self.matrix = np.vstack([self.matrix, np.zeros((more, self.rows))])
        self.costs, self.lower, self.upper = wider(self.costs), wider(self.lower), wider(self.upper)
        fresh = np.arange(more) + self.slots
        self.now = Dictionary(
            np.hstack([table, np.zeros((len(basic), more))]),
            np.append(slopes, np.zeros(more)),
            wider(x),
            np.where(basic < self.slots, basic, basic + more),
            np.append(np.where(nonbasic < self.slots, nonbasic, nonbasic + more), fresh),
        )
        self.free.extend(fresh.tolist()[::-1])
        self.slots += more

    # -- the solution

    def reoptimise(self) -> int:
        """After changed bounds or new columns: OPTIMAL, INFEASIBLE or DOUBT."""
        objective = settle(self.now, self.costs, self.lower, self.upper)
        outcome = int(dual(self.now, self.lower, self.upper, objective, inf, PIVOTS, FEASIBLE)[0])
        return self.improve() if outcome == OPTIMAL else outcome

    def improve(self) -> int:
        """From an x inside its bounds."""
        return int(primal(self.now, self.lower, self.upper, PIVOTS))

    def reprice(self) -> None:
        """After changed costs."""
        price(self.now, self.costs)

    def recover(self) -> int:
        """After DOUBT: the same basis free of rounding errors, from there any x inside the bounds, then the best."""
        self.renew()
        self.now.slopes[:] = 0.0
        settle(self.now, self.costs, self.lower, self.upper)
        outcome = int(dual(self.now, self.lower, self.upper, 0.0, inf, PIVOTS, FEASIBLE)[0])
        self.reprice()
        return self.improve() if outcome == OPTIMAL else outcome

    def renew(self) -> None:
        own = np.array(self.active, dtype=np.int64)
        renew(self.now, np.ascontiguousarray(self.matrix[:, own].T), own + self.slots)
        self.reprice()

    def clean(self) -> None:
        """Renew where there are errors to speak of."""
        own = np.array(self.active, dtype=np.int64)
        values = self.now.x[own + self.slots]
        if np.max(np.abs(values - self.sums()[own]) / np.maximum(1.0, np.abs(values)), initial=0.0) > CLEAN:
            self.renew()

    def sums(self) -> Floats:
        """[row] = its value, whether it takes part or not."""
        used = np.flatnonzero(self.now.x[: self.slots])
        total: Floats = self.now.x[used] @ self.matrix[used]
        return total

    def duals(self) -> Floats:
        """[row] = change of the objective per unit that the row is higher."""
        everything = np.zeros(len(self.costs))
        everything[self.now.nonbasic] = self.now.slopes
        return everything[self.slots :]

    def slopes(self) -> Floats:
        """[slot] = reduced cost of a column, 0 for basic ones."""
        everything = np.zeros(len(self.costs))
        everything[self.now.nonbasic] = self.now.slopes
        return everything[: self.slots]

    @property
    def objective(self) -> float:
        return float(self.costs @ self.now.x)


@compiled
def append(now: Dictionary, variable: int, rows: Indices, values: Floats, cost: float) -> None:
    """Write a column over the rows as they were first into the dictionary as it is."""
    size = len(now.basic)
    where = np.full(len(now.x), -1)
    for i in range(size):
        where[now.basic[i]] = i
    for q in range(len(now.nonbasic)):
        where[now.nonbasic[q]] = size + q
    column = np.zeros(size)
    slope = cost
    for k in range(len(rows)):
        at = where[rows[k]]
        if at < size:
            column[at] -= values[k]
        else:
            column -= values[k] * now.table[:, at - size]
            slope -= values[k] * now.slopes[at - size]
    place = where[variable] - size
    now.table[:, place] = column
    now.slopes[place] = slope


@compiled
def combine(now: Dictionary, weights: Floats) -> Floats:
    """The dictionary's row of a weighted sum of variables."""
    row = -weights[now.nonbasic]
    for i in range(len(now.basic)):
        if weights[now.basic[i]] != 0.0:
            row += weights[now.basic[i]] * now.table[i]
    return row


@compiled
def renew(now: Dictionary, matrix: Floats, rows: Indices) -> None:
    """The dictionary of the same basis from the rows [row, slot] as they were first."""
    size, slots = matrix.shape
    fresh = Dictionary(-matrix, np.zeros(slots), now.x, rows.copy(), np.arange(slots))
    stays = np.zeros(len(now.x), dtype=np.bool_)
    stays[now.basic] = True
    for q in range(slots):
        if stays[fresh.nonbasic[q]]:
            best, chosen = 0.0, -1
            for i in range(size):
                if not stays[fresh.basic[i]] and np.abs(fresh.table[i, q]) > best:
                    best, chosen = np.abs(fresh.table[i, q]), i
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
