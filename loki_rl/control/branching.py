"""Branch and bound over the dictionary simplex: dives along the cheaper branch, then goes on from the best open node. Owns
the tree, its bounds and its proof; knows no PuLP and no clock but the one it is given."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from math import ceil, inf

import numpy as np
from msgspec import Struct

from loki_rl.control.simplex import (
    CANDIDATE,
    CUT_OFF,
    DOUBT,
    FEASIBLE,
    INFEASIBLE,
    NOISE,
    OPTIMAL,
    Dictionary,
    First,
    Floats,
    Indices,
    compiled,
    copy_of,
    dual,
    error,
    primal,
    renew,
    safe_bound,
    settle,
)

INTEGRAL = 1e-7
# A miss smaller than this is neither feasible nor proven infeasible.
PROVEN = 1e-8
PIVOTS = 2000
# A root with larger errors is solved for anew: every node starts from it.
CLEAN = 1e-11
DEPTH = 1000


class Tree(Struct):
    """A problem in dictionary form. rank: 0 for continuous variables, else higher for those to branch on first.

    lower, upper: bounds of all variables. reach_lower, reach_upper: what the equations allow at most, for proofs. root: the
    dictionary every search starts from. whole: the objective can take whole values only.
    """

    first: First
    root: Dictionary
    rank: Indices
    lower: Floats
    upper: Floats
    reach_lower: Floats
    reach_upper: Floats
    whole: bool


class Result(Struct):
    """outcome: optimal, infeasible, unbounded, limit or doubt. bound: proven. x: the best solution, if any."""

    outcome: str
    objective: float = inf
    bound: float = -inf
    x: Floats | None = None
    nodes: int = 0


@compiled
def relax(
    first: First, now: Dictionary, lower: Floats, upper: Floats, reach: tuple[Floats, Floats], start: float, cutoff: float
) -> tuple[int, float]:
    """The relaxation of a node: its outcome and its proven bound; DOUBT if the proof fails."""
    outcome, row, objective = dual(now, lower, upper, start, cutoff, PIVOTS)
    if outcome == DOUBT or error(first, now.x) > FEASIBLE:
        return DOUBT, -np.inf
    bound = safe_bound(first, now, row, np.maximum(lower, reach[0]), np.minimum(upper, reach[1]))
    if outcome == INFEASIBLE:
        return (INFEASIBLE, np.inf) if bound > PROVEN else (DOUBT, -np.inf)
    return (outcome, bound) if bound > objective - PROVEN * max(1.0, abs(objective)) else (DOUBT, -np.inf)


@compiled
def tighten(now: Dictionary, rank: Indices, lower: Floats, upper: Floats, slack: float) -> None:
    """Reduced-cost fixing: an integer variable moves no further than the slack to the cutoff pays for."""
    for j in np.flatnonzero((rank[now.nonbasic] > 0) & (np.abs(now.slopes) > FEASIBLE)):
        v = now.nonbasic[j]
        steps = np.floor(slack / abs(now.slopes[j]) + 1e-6)
        if now.slopes[j] > 0 and now.x[v] == lower[v]:
            upper[v] = min(upper[v], lower[v] + steps)
        elif now.slopes[j] < 0 and now.x[v] == upper[v]:
            lower[v] = max(lower[v], upper[v] - steps)


@compiled
def choose(now: Dictionary, rank: Indices, lower: Floats, upper: Floats) -> tuple[int, bool]:
    """Row to branch on (-1: all integers are) and whether up is cheaper: penalties of one dual step each way (Driebeek 1966;
    Tomlin 1971), the largest product among the highest rank."""
    values, ranks = now.x[now.basic], rank[now.basic]
    parts = values - np.floor(values + INTEGRAL)
    rows = np.flatnonzero((ranks > 0) & (parts > INTEGRAL))
    rises, falls = now.x[now.nonbasic] < upper[now.nonbasic], now.x[now.nonbasic] > lower[now.nonbasic]
    slopes = np.abs(now.slopes)
    chosen, up_first, best, top = -1, False, -1.0, 0
    for i in rows:
        top = max(top, int(ranks[i]))
    for i in rows:
        if ranks[i] == top:
            row = now.table[i]
            price = slopes / np.maximum(np.abs(row), CANDIDATE)
            up = (1 - parts[i]) * np.min(np.where(((row < -CANDIDATE) & rises) | ((row > CANDIDATE) & falls), price, 1e6))
            down = parts[i] * np.min(np.where(((row > CANDIDATE) & rises) | ((row < -CANDIDATE) & falls), price, 1e6))
            score = max(up, INTEGRAL) * max(down, INTEGRAL) + FEASIBLE * min(parts[i], 1 - parts[i])
            if score > best:
                chosen, up_first, best = int(i), up < down, score
    return chosen, up_first


@compiled
def dive(
    first: First,
    now: Dictionary,
    rank: Indices,
    lower: Floats,
    upper: Floats,
    reach: tuple[Floats, Floats],
    cutoff: float,
    siblings: tuple[Floats, Floats, Floats],
) -> tuple[int, float, int]:
    """Branch down to a node without children: (outcome, its bound, number of siblings left open on the way).

    OPTIMAL: x is integral. lower and upper become those of the last node. siblings: per depth the bound, and lower and upper
    of the integer variables.
    """
    integers = np.flatnonzero(rank > 0)
    bounds, lowers, uppers = siblings
    objective, rounded = settle(now, first.costs, lower, upper), False
    depth = 0
    while depth < len(bounds):
        outcome, bound = relax(first, now, lower, upper, reach, objective, cutoff)
        if outcome == INFEASIBLE and rounded:
            return DOUBT, bound, depth
        if outcome != OPTIMAL or bound >= cutoff:
            return (CUT_OFF if outcome == OPTIMAL else outcome), bound, depth
        row, up_first = choose(now, rank, lower, upper)
        if row < 0:
            whole = np.round(now.x[integers])
            if rounded or integers.size == 0 or np.max(np.abs(now.x[integers] - whole)) == 0.0:
                return OPTIMAL, bound, depth
            lower[integers] = whole
            upper[integers] = whole
            rounded = True
            objective = settle(now, first.costs, lower, upper)
            continue
        objective = bound
        tighten(now, rank, lower, upper, cutoff - bound)
        v, floor = now.basic[row], np.floor(now.x[now.basic[row]] + INTEGRAL)
        before_lower, before_upper = lower[v], upper[v]
        lower[v], upper[v] = (before_lower, floor) if up_first else (floor + 1, before_upper)
        bounds[depth] = bound
        lowers[depth] = lower[integers]
        uppers[depth] = upper[integers]
        lower[v], upper[v] = (floor + 1, before_upper) if up_first else (before_lower, floor)
        depth += 1
    return DOUBT, -np.inf, depth


def root(first: First, from_: Dictionary, lower: Floats, upper: Floats) -> tuple[int, Dictionary]:
    """The relaxation solved from any dictionary of the same equations; CUT_OFF: it has no limit.

    Where the slopes have wrong signs: the dual method without an objective, which only looks for a feasible x, then the
    primal one.
    """
    now = copy_of(from_)
    price(now, first.costs)
    settle(now, first.costs, lower, upper)
    x = now.x[now.nonbasic]
    rises, falls = x < upper[now.nonbasic], x > lower[now.nonbasic]
    if not (((now.slopes < -FEASIBLE) & rises) | ((now.slopes > FEASIBLE) & falls)).any():
        outcome = dual(now, lower, upper, 0.0, inf, PIVOTS)[0]
    else:
        now.slopes[:] = 0.0
        outcome = dual(now, lower, upper, 0.0, inf, PIVOTS)[0]
        if outcome == OPTIMAL:
            price(now, first.costs)
            outcome = primal(now, lower, upper, PIVOTS)
    if error(first, now.x) > CLEAN:
        renew(first, now)
        price(now, first.costs)
    return outcome, now


def price(now: Dictionary, costs: Floats) -> None:
    """Slopes from costs."""
    now.slopes[:] = costs[now.nonbasic]
    for i in np.flatnonzero(costs[now.basic]):
        now.slopes[:] -= costs[now.basic[i]] * now.table[i]


class Search:
    """One branch and bound. Equal trees give equal results unless the time limit strikes."""

    def __init__(self, tree: Tree, gap: float, most_nodes: int, left_s: Callable[[], float]) -> None:
        self.tree, self.gap, self.most_nodes, self.left_s = tree, gap, most_nodes, left_s
        self.now = copy_of(tree.root)
        self.lower, self.upper = tree.lower.copy(), tree.upper.copy()
        self.integers = np.flatnonzero(tree.rank > 0)
        size = (DEPTH, len(self.integers))
        self.siblings = (np.empty(DEPTH), np.empty(size), np.empty(size))
        self.open: list[tuple[float, int, Floats, Floats]] = []
        self.cutoff, self.floor = inf, inf
        self.result = Result("infeasible")

    def run(self, start: Floats | None = None) -> Result:
        """Search from the root; start: values of the integer variables (NaN: free) to look at first."""
        self._push(-inf, self.lower[self.integers], self.upper[self.integers])
        if start is not None and len(self.integers):
            known = ~np.isnan(start)
            self._push(
                -inf,
                np.where(known, start, self.lower[self.integers]),
                np.where(known, start, self.upper[self.integers]),
            )
        while self.open and self.open[0][0] < self.cutoff:
            bound, _, lower, upper = heappop(self.open)
            # The known solution, which comes first, is looked at even without time.
            if (self.result.x is not None or start is None) and (self.result.nodes > self.most_nodes or self.left_s() <= 0):
                return self._end("limit", bound)
            if not self._explore(lower, upper):
                return Result("doubt", nodes=self.result.nodes)
        return self._end("optimal" if self.result.x is not None else "infeasible", inf)

    def _push(self, bound: float, lower: Floats, upper: Floats) -> None:
        # Of equal bounds the youngest first: it is deeper.
        self.result.nodes += 1
        heappush(self.open, (bound, -self.result.nodes, lower, upper))

    def _explore(self, lower: Floats, upper: Floats) -> bool:
        """A dive from a node; False where neither the current nor the root's dictionary gives a proof."""
        for again in (False, True):
            if again:
                for mine, root in zip(self.now, self.tree.root, strict=True):
                    mine[:] = root
            self.lower[self.integers], self.upper[self.integers] = lower, upper
            tree, reach = self.tree, (self.tree.reach_lower, self.tree.reach_upper)
            outcome, bound, left = dive(
                tree.first, self.now, tree.rank, self.lower, self.upper, reach, self.cutoff, self.siblings
            )
            if outcome != DOUBT:
                break
        else:
            return False
        if outcome == OPTIMAL:
            self._accept(bound)
        elif outcome == CUT_OFF:
            self.floor = min(self.floor, bound)
        for depth in range(left):
            at = (float(self.siblings[0][depth]), self.siblings[1][depth].copy(), self.siblings[2][depth].copy())
            self._push(*at)
        return True

    def _accept(self, bound: float) -> None:
        objective = float(self.tree.first.costs @ self.now.x)
        self.floor = min(self.floor, bound)
        if objective < self.result.objective:
            self.result.objective, self.result.x = objective, self.now.x.copy()
            room = 1 - 1e-6 if self.tree.whole else 0.99 * self.gap * abs(objective)
            self.cutoff = min(self.cutoff, objective - max(room, NOISE))

    def _end(self, outcome: str, open_bound: float) -> Result:
        bound = min(self.floor, open_bound, min((node[0] for node in self.open), default=inf), self.result.objective)
        if self.tree.whole and bound > -inf and bound < inf:
            bound = min(ceil(bound - 1e-6), self.result.objective)
        self.result.outcome, self.result.bound = outcome, bound
        return self.result
