"""Branch and bound over the dictionary simplex: dives along the cheaper branch, then goes on from the best open node. Owns
the open nodes and their order; knows no PuLP and no clock but the one it is given."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, inf
from typing import NamedTuple

import numpy as np

from loki_rl.control.compiled import compiled
from loki_rl.control.solver.relaxation import INTEGRAL, Result, Tree, choose, relax, tighten
from loki_rl.control.solver.simplex import (
    CUT_OFF,
    DOUBT,
    INFEASIBLE,
    NOISE,
    OPTIMAL,
    Dictionary,
    Floats,
    Indices,
    copy_of,
    settle,
)

DEPTH = 1000
# Dives between two looks at the clock.
DIVES = 8


class Nodes(NamedTuple):
    """Per open node its bound, and lower and upper of the integer variables; those from `State.open` on are free."""

    bound: Floats
    lower: Floats
    upper: Floats


class State(NamedTuple):
    """Of a search. open: nodes. cutoff: what is not below it is of no use. floor: least bound of what was cut off or solved.
    objective: of the best solution. nodes: made so far."""

    open: int
    cutoff: float
    floor: float
    objective: float
    nodes: int


@compiled
def dive(
    tree: Tree, now: Dictionary, lower: Floats, upper: Floats, cutoff: float, integers: Indices, nodes: Nodes, begin: int
) -> tuple[int, float, int]:
    """Branch down to a node without children: (outcome, its bound, number of open nodes, siblings on the way included).

    OPTIMAL: x is integral. lower and upper become those of the last node.
    """
    rank, rounded, end = tree.rank, False, begin
    objective = settle(now, tree.first.costs, lower, upper)
    while end < begin + DEPTH:
        outcome, bound = relax(tree, now, lower, upper, objective, cutoff)
        if outcome == INFEASIBLE and rounded:
            return DOUBT, bound, end
        if outcome != OPTIMAL or bound >= cutoff:
            return (CUT_OFF if outcome == OPTIMAL else outcome), bound, end
        row, up_first = choose(now, rank, lower, upper)
        if row < 0:
            if rounded or not _round(now.x, integers, lower, upper):
                return OPTIMAL, bound, end
            rounded = True
            objective = settle(now, tree.first.costs, lower, upper)
            continue
        objective = bound
        tighten(now, rank, lower, upper, cutoff - bound)
        v = now.basic[row]
        floor, before_lower, before_upper = np.floor(now.x[v] + INTEGRAL), lower[v], upper[v]
        lower[v], upper[v] = (before_lower, floor) if up_first else (floor + 1, before_upper)
        push(nodes, end, bound, lower, upper, integers)
        lower[v], upper[v] = (floor + 1, before_upper) if up_first else (before_lower, floor)
        end += 1
    return DOUBT, -np.inf, end


@compiled
def _round(x: Floats, integers: Indices, lower: Floats, upper: Floats) -> bool:
    """Fix the integer variables at their values, rounded; whether that moves any of them."""
    moved = False
    for v in integers:
        whole = np.round(x[v])
        moved |= whole != x[v]
        lower[v] = upper[v] = whole
    return moved


@compiled
def push(nodes: Nodes, at: int, bound: float, lower: Floats, upper: Floats, integers: Indices) -> None:
    """Write a node."""
    bounds, lowers, uppers = nodes
    bounds[at] = bound
    for k in range(len(integers)):
        lowers[at, k], uppers[at, k] = lower[integers[k]], upper[integers[k]]


@compiled
def explore(
    tree: Tree,
    now: Dictionary,
    nodes: Nodes,
    integers: Indices,
    state: State,
    best: Floats,
    gain: tuple[float, float],
    dives: int,
) -> tuple[int, State]:
    """So many dives, each from the best open node. best: receives x. gain: how much better a solution must be than the one
    before, and what share of it at least.

    CUT_OFF: no open node can be better. OPTIMAL: one may be. DOUBT: neither the current nor the root's dictionary gives a
    proof.
    """
    count, cutoff, floor, objective, made = state
    lower, upper = tree.lower.copy(), tree.upper.copy()
    for _ in range(dives):
        chosen = _best(nodes, count)
        if chosen < 0 or nodes.bound[chosen] >= cutoff:
            return CUT_OFF, State(count, cutoff, floor, objective, made)
        if count + DEPTH > len(nodes.bound):
            break
        count -= 1
        least, most = _take(nodes, chosen, count)
        outcome, bound, end = DOUBT, 0.0, count
        for again in range(2):
            if outcome == DOUBT:
                if again:
                    restore(now, tree.root)
                lower[integers], upper[integers] = least, most
                outcome, bound, end = dive(tree, now, lower, upper, cutoff, integers, nodes, count)
        if outcome == DOUBT:
            return DOUBT, State(count, cutoff, floor, objective, made)
        made, count = made + end - count, end
        floor = floor if outcome == INFEASIBLE else min(floor, bound)
        value = float(np.sum(tree.first.costs * now.x)) if outcome == OPTIMAL else np.inf
        if value < objective:
            best[:] = now.x
            objective, cutoff = value, min(cutoff, value - max(gain[0], gain[1] * abs(value)))
    return OPTIMAL, State(count, cutoff, floor, objective, made)


@compiled
def _best(nodes: Nodes, count: int) -> int:
    """The open node of the least bound, of equal ones the youngest: it is deeper. -1 if there is none."""
    bounds, chosen = nodes.bound, -1
    for k in range(count):
        if chosen < 0 or bounds[k] <= bounds[chosen]:
            chosen = k
    return chosen


@compiled
def _take(nodes: Nodes, chosen: int, last: int) -> tuple[Floats, Floats]:
    """Bounds of a node, whose place the last one takes."""
    least, most = nodes.lower[chosen].copy(), nodes.upper[chosen].copy()
    nodes.bound[chosen] = nodes.bound[last]
    nodes.lower[chosen], nodes.upper[chosen] = nodes.lower[last], nodes.upper[last]
    return least, most


@compiled
def restore(now: Dictionary, root: Dictionary) -> None:
    """Start from the root's dictionary again."""
    now.table[:] = root.table
    now.slopes[:] = root.slopes
    now.x[:] = root.x
    now.basic[:] = root.basic
    now.nonbasic[:] = root.nonbasic


class Search:
    """One branch and bound. whole: the objective can take whole values only. Equal trees give equal results unless the time
    limit strikes."""

    def __init__(self, tree: Tree, gap: float, whole: bool, most_nodes: int, left_s: Callable[[], float]) -> None:
        self.tree, self.whole, self.most_nodes, self.left_s = tree, whole, most_nodes, left_s
        self.gain = (1 - 1e-6, 0.0) if whole else (NOISE, 0.99 * gap)
        self.integers = np.flatnonzero(tree.rank > 0)
        self.nodes = self._blank(2 * DEPTH)
        self.state = State(0, inf, inf, inf, 0)
        self.x = np.empty(len(tree.rank))

    def _blank(self, size: int) -> Nodes:
        shape = (size, len(self.integers))
        return Nodes(np.empty(size), np.empty(shape), np.empty(shape))

    def run(self, start: Floats | None = None) -> Result:
        """Search from the root; start: values of the integer variables (NaN: free) to look at first."""
        now, tree = copy_of(self.tree.root), self.tree
        lower, upper = tree.lower[self.integers], tree.upper[self.integers]
        self._push(lower, upper)
        if start is not None and len(self.integers):
            known = ~np.isnan(start)
            self._push(np.where(known, start, lower), np.where(known, start, upper))
        # The known solution, which comes first, is looked at even without time.
        outcome, owed = OPTIMAL, start is not None
        while outcome == OPTIMAL:
            if not owed and (self.state.nodes > self.most_nodes or self.left_s() <= 0):
                return self._end("limit")
            if self.state.open + DEPTH > len(self.nodes.bound):
                self._grow()
            most = 1 if owed else DIVES
            args = (tree, now, self.nodes, self.integers, self.state, self.x, self.gain, most)
            outcome, self.state = explore(*args)
            owed = False
        if outcome == DOUBT:
            return Result("doubt", nodes=self.state.nodes)
        return self._end("optimal" if self.state.objective < inf else "infeasible")

    def _push(self, lower: Floats, upper: Floats) -> None:
        number = self.state.open
        self.nodes.bound[number], self.nodes.lower[number], self.nodes.upper[number] = -inf, lower, upper
        self.state = self.state._replace(open=number + 1, nodes=self.state.nodes + 1)

    def _grow(self) -> None:
        more = self._blank(2 * len(self.nodes.bound))
        for mine, bigger in zip(self.nodes, more, strict=True):
            bigger[: len(mine)] = mine
        self.nodes = more

    def _end(self, outcome: str) -> Result:
        objective, open_ = self.state.objective, self.nodes.bound[: self.state.open]
        bound = min(self.state.floor, float(open_.min(initial=inf)), objective)
        if self.whole and abs(bound) < inf:
            bound = min(ceil(bound - 1e-6), objective)
        return Result(outcome, objective, bound, self.x if objective < inf else None, self.state.nodes)
