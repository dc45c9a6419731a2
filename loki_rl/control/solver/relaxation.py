"""Relaxations of a mixed-integer problem: the root's and a node's, with proven bounds, and which variable to branch on.
Owns the proofs; knows no order of nodes and no PuLP."""

from __future__ import annotations

from math import inf
from typing import NamedTuple

import numpy as np
from msgspec import Struct

from loki_rl.control.compiled import compiled
from loki_rl.control.solver.simplex import (
    CANDIDATE,
    DOUBT,
    FEASIBLE,
    INFEASIBLE,
    OPTIMAL,
    Dictionary,
    First,
    Floats,
    Indices,
    dual,
    error,
    price,
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


class Tree(NamedTuple):
    """A problem in dictionary form. rank: 0 for continuous variables, else higher for those to branch on first.

    lower, upper: bounds of all variables. reach_lower, reach_upper: what the equations allow at most, for proofs. root: the
    dictionary every search starts from.
    """

    first: First
    root: Dictionary
    rank: Indices
    lower: Floats
    upper: Floats
    reach_lower: Floats
    reach_upper: Floats


class Result(Struct):
    """outcome: optimal, infeasible, unbounded, limit or doubt. bound: proven. x: the best solution, if any."""

    outcome: str
    objective: float = inf
    bound: float = -inf
    x: Floats | None = None
    nodes: int = 0


@compiled
def relax(tree: Tree, now: Dictionary, lower: Floats, upper: Floats, start: float, cutoff: float) -> tuple[int, float]:
    """The relaxation of a node: its outcome and its proven bound; DOUBT if the proof fails, renewed or not."""
    outcome, row, objective = dual(now, lower, upper, start, cutoff, PIVOTS, FEASIBLE)
    if outcome == DOUBT or error(tree.first, now.x) > FEASIBLE:
        renew(tree.first, now)
        price(now, tree.first.costs)
        start = settle(now, tree.first.costs, lower, upper)
        outcome, row, objective = dual(now, lower, upper, start, cutoff, PIVOTS, FEASIBLE)
        if outcome == DOUBT or error(tree.first, now.x) > FEASIBLE:
            return DOUBT, -np.inf
    least, most = np.maximum(lower, tree.reach_lower), np.minimum(upper, tree.reach_upper)
    bound = safe_bound(tree.first, now, row, least, most)
    if outcome == INFEASIBLE:
        if bound > PROVEN:
            return INFEASIBLE, np.inf
        # Too little is missing for a proof: then it may be missing.
        outcome, row, objective = dual(now, lower, upper, objective, cutoff, PIVOTS, 2 * PROVEN)
        if outcome in (DOUBT, INFEASIBLE):
            return DOUBT, -np.inf
        bound = safe_bound(tree.first, now, row, least, most)
    return (outcome, bound) if bound > objective - PROVEN * max(1.0, abs(objective)) else (DOUBT, -np.inf)


@compiled
def tighten(now: Dictionary, rank: Indices, lower: Floats, upper: Floats, slack: float) -> None:
    """Reduced-cost fixing: an integer variable moves no further than the slack to the cutoff pays for."""
    _, slopes, x, _, nonbasic = now
    for j in range(len(nonbasic)):
        v, slope = nonbasic[j], slopes[j]
        if rank[v] > 0 and abs(slope) > FEASIBLE:
            steps = np.floor(slack / abs(slope) + 1e-6)
            if slope > 0 and x[v] == lower[v]:
                upper[v] = min(upper[v], lower[v] + steps)
            elif slope < 0 and x[v] == upper[v]:
                lower[v] = max(lower[v], upper[v] - steps)


@compiled
def choose(now: Dictionary, rank: Indices, lower: Floats, upper: Floats) -> tuple[int, bool]:
    """Row to branch on (-1: all integers are) and whether up is cheaper: penalties of one dual step each way (Driebeek 1966;
    Tomlin 1971), the largest product among the highest rank."""
    _, _, x, basic, _ = now
    top = 0
    for i in range(len(basic)):
        if rank[basic[i]] > top and _part(x[basic[i]]) > INTEGRAL:
            top = rank[basic[i]]
    chosen, up_first, best = -1, False, -1.0
    for i in range(len(basic)):
        part = _part(x[basic[i]])
        if top > 0 and rank[basic[i]] == top and part > INTEGRAL:
            up, down = _penalties(now, lower, upper, i)
            up, down = (1 - part) * up, part * down
            score = max(up, INTEGRAL) * max(down, INTEGRAL) + FEASIBLE * min(part, 1 - part)
            if score > best:
                chosen, up_first, best = i, up < down, score
    return chosen, up_first


@compiled
def _part(value: float) -> float:
    return float(value - np.floor(value + INTEGRAL))


@compiled
def _penalties(now: Dictionary, lower: Floats, upper: Floats, row: int) -> tuple[float, float]:
    """What one unit more and one unit less of a row's variable cost at least."""
    table, slopes, x, _, nonbasic = now
    up, down = 1e6, 1e6
    for j in range(len(nonbasic)):
        element, v = table[row, j], nonbasic[j]
        if abs(element) > CANDIDATE:
            ratio = abs(slopes[j] / element)
            if x[v] < upper[v]:
                up, down = (up, min(down, ratio)) if element > 0 else (min(up, ratio), down)
            if x[v] > lower[v]:
                up, down = (min(up, ratio), down) if element > 0 else (up, min(down, ratio))
    return up, down


@compiled
def root(first: First, now: Dictionary, lower: Floats, upper: Floats) -> int:
    """Solve the relaxation from any dictionary of the same equations; CUT_OFF: it has no limit.

    Where the slopes have wrong signs: the dual method without an objective, which only looks for a feasible x, then the
    primal one.
    """
    price(now, first.costs)
    settle(now, first.costs, lower, upper)
    if _right(now, lower, upper):
        outcome = dual(now, lower, upper, 0.0, np.inf, PIVOTS, FEASIBLE)[0]
    else:
        now.slopes[:] = 0.0
        outcome = dual(now, lower, upper, 0.0, np.inf, PIVOTS, FEASIBLE)[0]
        if outcome == OPTIMAL:
            price(now, first.costs)
            outcome = primal(now, lower, upper, PIVOTS)
    if error(first, now.x) > CLEAN:
        renew(first, now)
        price(now, first.costs)
    return outcome


@compiled
def _right(now: Dictionary, lower: Floats, upper: Floats) -> bool:
    """Whether no nonbasic variable has a slope that would let it leave its bound."""
    _, slopes, x, _, nonbasic = now
    for j in range(len(nonbasic)):
        v, slope = nonbasic[j], slopes[j]
        if (slope < -FEASIBLE and x[v] < upper[v]) or (slope > FEASIBLE and x[v] > lower[v]):
            return False
    return True


def relaxed(tree: Tree) -> Result:
    """Without integers: the root, with a bound."""
    now, costs = tree.root, tree.first.costs
    objective = settle(now, costs, tree.lower, tree.upper)
    outcome, bound = relax(tree, now, tree.lower, tree.upper, objective, inf)
    return Result("optimal", float(costs @ now.x), bound, now.x, 1) if outcome == OPTIMAL else Result("doubt")
