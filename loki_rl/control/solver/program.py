"""A PuLP problem as arrays and as the dictionary that searches start from. Owns the reading, what may change between two
solves, and the check of a solution against the problem as it was written; solves nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pulp
from numpy.typing import NDArray

from loki_rl.control.compiled import compiled, njit
from loki_rl.control.solver.simplex import FEASIBLE, Dictionary, First, Floats, Indices, pivot, renew

Flags = NDArray[np.bool_]
SUMS_OF_SUMS = 3
# Of implied bounds.
PASSES = 3
# A larger dictionary is left to HiGHS, which uses sparsity.
LARGEST_TABLE = 200_000


class Program:
    """rows: matrix entries (row, column, value), row bounds; columns: bounds, costs of a minimisation, which are integer.

    All but the equations and the pattern may change between two solves: bounds, costs, sign and offset in place, values by
    `change`. small: not for the sparse methods of HiGHS. dense: there is a dictionary of it; it needs numba.
    """

    def __init__(self, problem: Any) -> None:
        self.variables: list[Any] = sorted(problem.variables(), key=lambda variable: variable.name)
        self.constraints: list[Any] = problem.constraints()
        self.integer = np.array([v.cat == pulp.LpInteger for v in self.variables], dtype=bool)
        self._read_matrix()
        self._read_sides()
        self._read_objective(problem)
        self.equal = self.row_lower == self.row_upper
        self.kept = False
        self.first: First
        self.small = 0 < len(self.constraints) * (len(self.variables) - int(self.equal.sum())) <= LARGEST_TABLE
        self.dense = self.small and njit is not None
        if self.dense:
            self._plant()
            self.root = self._stand()

    def _read_matrix(self) -> None:
        # By name: PuLP 4 hands out another object for the same variable every time.
        self.names: list[str] = [variable.name for variable in self.variables]
        self._index = {name: i for i, name in enumerate(self.names)}
        counts = [len(constraint) for constraint in self.constraints]
        self.begin = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.row = np.repeat(np.arange(len(counts)), counts)
        terms = [term for constraint in self.constraints for term in constraint.items()]
        self.column = np.array([self.index(variable) for variable, _ in terms], dtype=np.int64)
        self.value = np.array([value for _, value in terms], dtype=np.float64)

    def _read_sides(self) -> None:
        self.lower = np.array([-np.inf if v.lowBound is None else v.lowBound for v in self.variables], dtype=np.float64)
        self.upper = np.array([np.inf if v.upBound is None else v.upBound for v in self.variables], dtype=np.float64)
        self.lower[self.integer] = np.ceil(self.lower[self.integer] - FEASIBLE)
        self.upper[self.integer] = np.floor(self.upper[self.integer] + FEASIBLE)
        sides = np.array([-constraint.constant for constraint in self.constraints], dtype=np.float64)
        senses = np.array([constraint.sense for constraint in self.constraints], dtype=np.int64)
        self.row_lower = np.where(senses >= 0, sides, -np.inf)
        self.row_upper = np.where(senses <= 0, sides, np.inf)

    def _read_objective(self, problem: Any) -> None:
        self.sign = -1.0 if problem.sense == pulp.LpMaximize else 1.0
        objective = problem.objective
        self.offset = 0.0 if objective is None else objective.constant
        self.costs = self.sign * self.terms(() if objective is None else objective.items())

    def terms(self, terms: Iterable[tuple[Any, float]]) -> Floats:
        """Coefficients by variable of a sum."""
        found = np.zeros(len(self.variables))
        for variable, value in terms:
            found[self.index(variable)] += value
        return found

    def index(self, variable: Any) -> int:
        """Its number."""
        return self._index[variable.name]

    def entries(self, row: int, variables: Sequence[Any]) -> Indices:
        """Where the coefficients of a row's variables stand."""
        mine = self.column[self.begin[row] : self.begin[row + 1]].tolist()
        return np.array([self.begin[row] + mine.index(self.index(v)) for v in variables], dtype=np.int64)

    def columns(self, variables: Sequence[Any]) -> Indices:
        """Their numbers."""
        return np.array([self.index(variable) for variable in variables], dtype=np.int64)

    def change(self, entries: Indices, values: Floats) -> None:
        """New coefficients of inequalities."""
        self.value[entries] = values
        if self.dense:
            touched = np.zeros(len(self.constraints), dtype=bool)
            touched[self.row[entries]] = True
            rows = np.flatnonzero(touched)
            rewrite(self.table, self.first.constant, self.place, self.begin, self.column, self.value, rows)
            self.first = self.first._replace(value=self.table[self.first.row, self.first.column])
            if self.kept:
                renew(self.first, self.root)
            else:
                self.root = self._stand()

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
        # Entries that are 0 only for now count: with such values of the rows none is.
        shape, values = self.table.copy(), np.sqrt(np.arange(2.0, len(self.value) + 2))
        rewrite(shape, constant.copy(), self.place, self.begin, self.column, values, np.flatnonzero(~self.equal))
        row, column = np.nonzero((self.table != 0) | (shape != 0))
        self.first = First(row, column, self.table[row, column], constant, np.zeros(len(self.order)))
        self.ranks = self._rank()[self.order]

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
        matrix = (self.begin, self.column, self.value)
        rows = violation(*matrix, self.row_lower, self.row_upper, values)
        return max(rows, float(np.maximum(self.lower - values, values - self.upper).max(initial=0.0)))


@compiled
def violation(begin: Indices, column: Indices, value: Floats, row_lower: Floats, row_upper: Floats, values: Floats) -> float:
    """Largest of a row, relative to the row's size."""
    largest = 0.0
    for i in range(len(begin) - 1):
        activity, size = 0.0, 0.0
        for k in range(begin[i], begin[i + 1]):
            term = value[k] * values[column[k]]
            activity += term
            size += abs(term)
        largest = max(largest, max(row_lower[i] - activity, activity - row_upper[i]) / max(1.0, size))
    return largest


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
    rows, columns, values, constant, _ = first
    size = len(constant)
    least, most = lower.copy(), upper.copy()
    for _ in range(PASSES):
        low, high = least.copy(), most.copy()
        # Of each row: what its variables bring together at least and at most, and how many of them are endless.
        down, up = low[:size].copy(), high[:size].copy()
        no_down, no_up = np.zeros(size), np.zeros(size)
        for i in range(size):
            if down[i] == -np.inf:
                down[i], no_down[i] = 0.0, 1.0
            if up[i] == np.inf:
                up[i], no_up[i] = 0.0, 1.0
        for k in range(len(rows)):
            i, v, value = rows[k], size + columns[k], values[k]
            from_, to = (low[v] * value, high[v] * value) if value > 0 else (high[v] * value, low[v] * value)
            if from_ > -np.inf:
                down[i] += from_
            else:
                no_down[i] += 1
            if to < np.inf:
                up[i] += to
            else:
                no_up[i] += 1
        for k in range(len(rows)):
            i, v, value = rows[k], size + columns[k], values[k]
            from_, to = (low[v] * value, high[v] * value) if value > 0 else (high[v] * value, low[v] * value)
            # The others at their least leave so much at most, and the other way round.
            if no_down[i] == (0 if from_ > -np.inf else 1):
                end = (constant[i] - down[i] + (from_ if from_ > -np.inf else 0.0)) / value
                room = FEASIBLE * max(1.0, abs(end))
                if value > 0:
                    most[v] = min(most[v], end + room)
                else:
                    least[v] = max(least[v], end - room)
            if no_up[i] == (0 if to < np.inf else 1):
                end = (constant[i] - up[i] + (to if to < np.inf else 0.0)) / value
                room = FEASIBLE * max(1.0, abs(end))
                if value > 0:
                    least[v] = max(least[v], end - room)
                else:
                    most[v] = min(most[v], end + room)
        for i in range(size):
            if no_down[i] == (0 if low[i] > -np.inf else 1):
                end = constant[i] - down[i] + (low[i] if low[i] > -np.inf else 0.0)
                most[i] = min(most[i], end + FEASIBLE * max(1.0, abs(end)))
            if no_up[i] == (0 if high[i] < np.inf else 1):
                end = constant[i] - up[i] + (high[i] if high[i] < np.inf else 0.0)
                least[i] = max(least[i], end - FEASIBLE * max(1.0, abs(end)))
    return least, most
