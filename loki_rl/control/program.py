"""A PuLP problem as arrays and as the dictionary that searches start from. Owns the reading, what a second solve may keep of
the first, and the check of a solution against the problem as it was written; solves nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pulp
from numpy.typing import NDArray

from loki_rl.control.simplex import (
    FEASIBLE,
    Dictionary,
    First,
    Floats,
    Indices,
    compiled,
    pivot,
    renew,
)

Flags = NDArray[np.bool_]
SUMS_OF_SUMS = 3
# A larger dictionary is left to HiGHS, which uses sparsity.
LARGEST_TABLE = 100_000


class Program:
    """rows: matrix entries (row, column, value), row bounds; columns: bounds, costs of a minimisation, which are integer.

    dense: there is a dictionary of it.
    """

    def __init__(self, problem: Any) -> None:
        self.variables: list[Any] = problem.variables()
        self.constraints: list[Any] = list(problem._constraints.values())
        self.integer = np.array([v.cat == pulp.LpInteger for v in self.variables], dtype=bool)
        self._read_matrix()
        self._read_sides(problem)
        self.equal = self.row_lower == self.row_upper
        self.kept = False
        self.dense = 0 < len(self.constraints) * (len(self.variables) - int(self.equal.sum())) <= LARGEST_TABLE
        if self.dense:
            self._plant()
            self.root = self._stand()

    def _read_matrix(self) -> None:
        self.index = {id(variable): i for i, variable in enumerate(self.variables)}
        counts = [len(constraint) for constraint in self.constraints]
        self.begin = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.row = np.repeat(np.arange(len(counts)), counts)
        terms = [term for constraint in self.constraints for term in constraint.items()]
        self.column = np.array([self.index[id(variable)] for variable, _ in terms], dtype=np.int64)
        self.value = np.array([value for _, value in terms], dtype=np.float64)
        for constraint in self.constraints:
            constraint.modified = False

    def refresh(self, problem: Any) -> bool:
        """Read again what may change between two solves: bounds, the objective, and the rows that are marked as modified.

        False where an equation or the pattern of a row has changed: then everything must be read again.
        """
        marked = [i for i, constraint in enumerate(self.constraints) if constraint.modified]
        read = [self._reread(i) for i in marked]
        if None in read:
            return False
        self._read_sides(problem)
        changed = np.array([i for i, new in zip(marked, read, strict=True) if new], dtype=np.int64)
        if len(changed) and self.dense:
            self._rewrite(changed)
        return True

    def _reread(self, i: int) -> bool | None:
        """Whether coefficients of a row have changed; None where that is not to be done in place."""
        constraint = self.constraints[i]
        constraint.modified = False
        mine = slice(self.begin[i], self.begin[i + 1])
        if self.equal[i] or self.column[mine].tolist() != [self.index.get(id(v), -1) for v in constraint.keys()]:  # noqa: SIM118
            return None
        before, now = self.value[mine].tolist(), list(constraint.values())
        self.value[mine] = now
        return bool(before != now)

    def _rewrite(self, changed: Indices) -> None:
        matrix = (self.begin, self.column, self.value)
        rewrite(self.table, self.first.constant, self.place, *matrix, changed)
        self._index_table()
        if not self.kept:
            self.root = self._stand()
            return
        basic = np.full(len(self.place), -1)
        basic[self.order[self.root.basic]] = np.arange(len(self.root.basic))
        if (basic[len(self.variables) + changed] < 0).any():
            renew(self.first, self.root)
            return
        basic[self.order[self.root.nonbasic]] = np.arange(len(self.root.nonbasic)) + len(self.root.basic)
        rewrite(self.root.table, np.zeros(len(self.root.basic)), basic, *matrix, changed)
        self._place_slacks(changed)

    def _place_slacks(self, changed: Indices) -> None:
        everything = np.zeros(len(self.place))
        everything[self.order] = self.root.x
        for i in changed:
            mine = slice(self.begin[i], self.begin[i + 1])
            self.root.x[self.place[len(self.variables) + i]] = self.value[mine] @ everything[self.column[mine]]

    def _read_sides(self, problem: Any) -> None:
        self.lower = np.array([-np.inf if v.lowBound is None else v.lowBound for v in self.variables], dtype=np.float64)
        self.upper = np.array([np.inf if v.upBound is None else v.upBound for v in self.variables], dtype=np.float64)
        self.lower[self.integer] = np.ceil(self.lower[self.integer] - FEASIBLE)
        self.upper[self.integer] = np.floor(self.upper[self.integer] + FEASIBLE)
        sides = np.array([-constraint.constant for constraint in self.constraints], dtype=np.float64)
        senses = np.array([constraint.sense for constraint in self.constraints], dtype=np.int64)
        self.row_lower = np.where(senses >= 0, sides, -np.inf)
        self.row_upper = np.where(senses <= 0, sides, np.inf)
        self.sign = -1.0 if problem.sense == pulp.LpMaximize else 1.0
        self.costs = np.zeros(len(self.variables))
        self.offset = problem.objective.constant
        for variable, value in problem.objective.items():
            self.costs[self.index[id(variable)]] = self.sign * value

    @property
    def whole(self) -> bool:
        """Whether the objective takes whole values only wherever the integers do."""
        costs = self.costs[self.costs != 0]
        return bool(self.integer[self.costs != 0].all() and (costs == np.round(costs)).all() and len(costs))

    def _rank(self) -> Indices:
        """0: continuous, 1: integer, more: a sum of integers, one above its highest part. Sums settle most at once."""
        rank = self.integer.astype(np.int64)
        sums = [found for i in np.flatnonzero(self.equal) if (found := self._sum(int(i)))]
        for _ in range(SUMS_OF_SUMS):
            for total, parts in sums:
                rank[total] = max(rank[total], 1 + rank[parts].max())
        return np.concatenate([rank, np.zeros(len(self.constraints), dtype=np.int64)])

    def _sum(self, i: int) -> tuple[int, Indices] | None:
        """The variable that an equation defines as a sum, and its parts."""
        mine = slice(self.begin[i], self.begin[i + 1])
        columns, values = self.column[mine], self.value[mine]
        if not self.integer[columns].all() or self.row_lower[i] != 0:
            return None
        for sign in (-1, 1):
            alone = sign * values > 0
            if alone.sum() == 1 and len(columns) > 1:
                return int(columns[alone][0]), columns[~alone]
        return None

    def _plant(self) -> None:
        """Solve the equations for as many variables as there are, so that only bounds remain."""
        size, total = len(self.constraints), len(self.variables)
        table = np.zeros((size, total))
        np.subtract.at(table, (self.row, self.column), self.value)
        blank = np.zeros(total)
        now = Dictionary(table, blank, blank, np.arange(total, total + size), np.arange(total))
        gone = eliminate(now, self.equal)
        sides = np.where(self.equal, self.row_lower, 0.0)[now.nonbasic[gone] - total]
        constant = -table[:, gone] @ sides
        self.table = np.ascontiguousarray(table[:, ~gone])
        self.order = np.concatenate([now.basic, now.nonbasic[~gone]])
        self.place = np.argsort(np.concatenate([self.order, now.nonbasic[gone]]))
        none = np.zeros(0, dtype=np.int64)
        self.first = First(none, none, np.zeros(0), constant, np.zeros(len(self.order)))
        self._index_table()
        self.ranks = self._rank()[self.order]

    def _index_table(self) -> None:
        row, column = np.nonzero(self.table)
        self.first = self.first._replace(row=row, column=column, value=self.table[row, column])

    def _stand(self) -> Dictionary:
        """Every nonbasic variable at a bound."""
        table = self.table.copy()
        size, total = table.shape[0], len(self.order)
        lower, upper = self.bounds()
        low, high = lower[size:], upper[size:]
        x = np.zeros(total)
        x[size:] = np.where(np.isfinite(low), low, np.where(np.isfinite(high), high, 0.0))
        x[:size] = self.first.constant - table @ x[size:]
        return Dictionary(table, np.zeros(total - size), x, np.arange(size), np.arange(size, total))

    def keep(self, relaxed: Dictionary) -> None:
        """Start from this dictionary from now on; only the first counts, so that no answer depends on the last question."""
        if not self.kept:
            self.root, self.kept = relaxed, True

    def integers_of(self, start: Floats) -> Floats:
        """Of values by variable, those of the dictionary's integer variables."""
        total = len(self.variables)
        chosen = self.order[self.ranks > 0]
        return np.where(chosen < total, start[np.minimum(chosen, total - 1)], np.nan)

    def bounds(self) -> tuple[Floats, Floats]:
        """Of all variables of the dictionary, those of the rows included."""
        lower, upper = np.concatenate([self.lower, self.row_lower]), np.concatenate([self.upper, self.row_upper])
        return lower[self.order], upper[self.order]

    def values(self, x: Floats, whole: bool) -> Floats:
        """The problem's own variables in a solution of the dictionary; whole: integers exact."""
        everything = np.zeros(len(self.variables) + len(self.constraints))
        everything[self.order] = x
        own = everything[: len(self.variables)]
        return np.where(self.integer, np.round(own), own) if whole else own

    def miss(self, values: Floats) -> float:
        """Largest violation of a row or bound of the problem as it was written, relative to the row's size."""
        activity = np.bincount(self.row, self.value * values[self.column], len(self.constraints))
        size = np.maximum(1.0, np.bincount(self.row, np.abs(self.value * values[self.column]), len(self.constraints)))
        rows = np.maximum(self.row_lower - activity, activity - self.row_upper) / size
        columns = np.maximum(self.lower - values, values - self.upper)
        return float(max(rows.max(initial=0.0), columns.max(initial=0.0)))


@compiled
def rewrite(
    table: Floats, constant: Floats, place: Indices, begin: Indices, column: Indices, value: Floats, changed: Indices
) -> None:
    """The dictionary's rows of changed inequalities, whose slacks are basic: terms by the rows of their variables."""
    size, slacks = len(table), len(place) - len(begin) + 1
    for i in changed:
        at = place[slacks + i]
        table[at] = 0.0
        constant[at] = 0.0
        for k in range(begin[i], begin[i + 1]):
            v = place[column[k]]
            if v < size:
                table[at] += value[k] * table[v]
                constant[at] += value[k] * constant[v]
            else:
                table[at, v - size] -= value[k]


@compiled
def eliminate(now: Dictionary, equal: Flags) -> Flags:
    """Pivot the slack of every equation out of the basis; which columns then hold such slacks.

    Of the large elements of a row the one whose column has the fewest entries (Markowitz 1957).
    """
    gone = np.zeros(len(now.nonbasic), dtype=np.bool_)
    for i in range(len(equal)):
        if not equal[i]:
            continue
        size = np.where(gone, 0.0, np.abs(now.table[i]))
        largest = np.max(size)
        if largest < FEASIBLE:
            continue
        chosen, fewest = 0, len(equal) + 1
        for j in range(len(size)):
            if size[j] < 0.1 * largest:
                continue
            entries = int(np.sum(now.table[:, j] != 0.0))
            if entries < fewest:
                chosen, fewest = j, entries
        pivot(now, i, chosen)
        gone[chosen] = True
    return gone


@compiled
def reachable(first: First, lower: Floats, upper: Floats) -> tuple[Floats, Floats]:
    """Bounds that the equations imply; finite ones let proofs treat rounding errors of slopes exactly."""
    size = len(first.constant)
    row = np.concatenate((np.arange(size), first.row))
    column = np.concatenate((np.arange(size), first.column + size))
    value = np.concatenate((np.ones(size), first.value))
    least, most = lower.copy(), upper.copy()
    for _ in range(2):
        for side in (1.0, -1.0):
            ends = np.where(side * value > 0, least[column], most[column])
            finite = np.abs(ends) < np.inf
            part = np.where(finite, value * np.where(finite, ends, 0.0), 0.0)
            total = np.bincount(row, part, size)
            endless = np.bincount(row, np.where(finite, 0.0, 1.0), size)
            for k in np.flatnonzero(endless[row] == np.where(finite, 0.0, 1.0)):
                end = (first.constant[row[k]] - total[row[k]] + part[k]) / value[k]
                room = FEASIBLE * max(1.0, abs(end))
                if side * value[k] > 0:
                    most[column[k]] = min(most[column[k]], end + room)
                else:
                    least[column[k]] = max(least[column[k]], end - room)
    return least, most
