"""A relaxation whose routes are made as prices ask for them (column generation; Dantzig and Wolfe 1960), with bounds that
hold whatever routes there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from loki_rl.control.branch_and_price.master import (
    FIXED,
    ROUTE,
    Master,
    add,
    as_master,
    blank,
    bring,
    clean,
    improve,
    objective,
    recover,
    reoptimise,
    room,
    sums,
)
from loki_rl.control.branch_and_price.route_pricing import Graph, best_of, walk_from
from loki_rl.control.compiled import compiled
from loki_rl.control.solver.simplex import CUT_OFF, DOUBT, INFEASIBLE, OPTIMAL, Flags, Floats, Indices, price

# A route that pays less is none.
PAYS = 1e-9
# No server is worth so much.
FORBIDDEN = 1e6
ROUNDS = 1000
LATE = 4
# What is not served costs at first, and at most. All else is worth 1 at most, so more than MISSING of it is never better.
PENALTY, LARGEST_PENALTY = 10.0, 1e7
MISSING = 1e-8
# Errors are looked for once in so many solves.
EVERY = 4
# Routes that are kept beside those in use, as a multiple of the rows.
SPARE = 2
# Arcs that are priced between two looks at the clock.
ARCS = 200_000


class Terms(NamedTuple):
    """What a relaxation is made of. graph, ends [part + 1]: of all parts, and where the states of each end. servers [arc]:
    for the whole demand. of, by [count, place]: the rows that a server of a configuration counts in (-1: none), and how.
    price [count]: of a server. units [part, place]: the rows that count what is served of a part. floor [part], least: rows
    of accuracies. level [part]: accuracy that the floor row is above. weight [part]: in the least row. accurate, served
    [part]: what a unit of accuracy and a unit served are worth. most [part]: of what is served. missing [part]: slots.
    lines [line, place], line_price [line], line_of [row + 1]: rows that an idle server of a row counts in, its price, and
    which lines are those of a row. closes [row]: whether none of its
    servers is had where its upper bound is 0. spare: servers that may be idle.
    """

    graph: Graph
    ends: Indices
    servers: Floats
    of: Indices
    by: Floats
    price: Floats
    units: Indices
    floor: Indices
    least: int
    level: Floats
    weight: Floats
    accurate: Floats
    served: Floats
    most: Floats
    missing: Indices
    lines: Indices
    line_price: Floats
    line_of: Indices
    closes: Flags
    spare: float


class Solution(NamedTuple):
    """serves: what must be served. usage [row]: servers in it, as sums over the columns. flow [arc of the joined graph]:
    share of the demand that takes it, if it is told."""

    serves: bool
    objective: float
    usage: Floats
    flow: Floats


class Relaxation:
    """Ask with `solve` after any change of the bounds in `lower` and `upper` [row]. worst: no fleet costs more; cutoff: of
    no interest above. longest: arcs of a route, 0 if flows are not wanted."""

    def __init__(self, rows: int, terms: Terms, worst: float, left_s: Callable[[], float], longest: int = 0) -> None:
        self.master, self.terms, self.plain = blank(rows, longest), terms, plain(terms)
        self.worst = self.cutoff = worst
        self.left_s = left_s
        self.solved = np.zeros(1, dtype=np.int64)
        # Between two looks at the clock.
        self.rounds = 1 + ARCS // max(1, len(terms.servers))
        # Serve without servers, at a penalty: so that there always is a solution.
        missing = np.zeros((len(terms.missing), rows))
        for p in terms.missing:
            np.add.at(missing[p], [terms.units[p, 0], terms.floor[p], terms.least], 1.0)
        self.columns(missing, np.full(len(missing), PENALTY), np.full(len(missing), np.inf))

    @property
    def lower(self) -> Floats:
        return self.master.lower[len(self.master.kind) :]

    @property
    def upper(self) -> Floats:
        return self.master.upper[len(self.master.kind) :]

    def bring(self, rows: Iterable[int]) -> None:
        """Let rows take part."""
        self.master = bring_all(plain(self.master), np.array([*rows], dtype=np.int64))

    def columns(self, coefficients: Floats, costs: Floats, most: Floats) -> Indices:
        """Columns [column, row] beside the routes, of at most so much each; their slots."""
        self.master, slots = add_all(plain(self.master), coefficients, costs, most)
        return slots

    def hold(self, rows: Iterable[int]) -> None:
        """Let rows of servers take part, and servers idle in them."""
        self.master = hold_all(plain(self.master), self.plain, np.array([*rows], dtype=np.int64))

    def idle(self, rows: Iterable[int]) -> None:
        """Let servers idle in rows, whether these take part or not."""
        self.master = idle_all(plain(self.master), self.plain, np.array([*rows], dtype=np.int64))

    def solve(self) -> tuple[int, float]:
        """OPTIMAL, CUT_OFF, LATE, INFEASIBLE (not even idle servers fit) or DOUBT; and a bound that holds whatever routes
        there are."""
        best, outcome = -np.inf, LATE
        while outcome == LATE:
            self.master, outcome, bound, _ = solve_plain(
                plain(self.master), self.plain, self.cutoff, self.rounds, self.solved
            )
            best = max(best, bound)
            if self.left_s() <= 0:
                break
        return outcome, best

    def worth(self, p: int, duals: Floats) -> float:
        """Of a unit of a part's accuracy, what floors make of it included."""
        terms = self.terms
        return float(terms.accurate[p] + duals[terms.floor[p]] + terms.weight[p] * duals[terms.least])

    def quote(self) -> tuple[float, Floats, Floats]:
        """What the rows' bounds are worth at the duals, these [row], and what a server of each configuration is [count]."""
        quoted: tuple[float, Floats, Floats] = quote(self.master, self.terms)
        return quoted

    def read(self) -> Solution:
        """What the last solve found."""
        return Solution(*read_plain(plain(self.master), self.plain))


def plain(record: Any) -> tuple[Any, ...]:
    """The fields of a record and of records in it, which have none, for functions that take these."""
    return tuple(tuple(field) if isinstance(field, tuple) else field for field in record)


# -- compiled


@compiled
def as_terms(plain: tuple[Any, ...]) -> Terms:
    """Of its fields."""
    return Terms(Graph(*plain[0]), *plain[1:])


@compiled
def solve_plain(
    master: tuple[Any, ...], terms: tuple[Any, ...], cutoff: float, rounds: int, solved: Indices
) -> tuple[Master, int, float, int]:
    """As `solve`, of the fields of master and terms."""
    return solve(as_master(master), as_terms(terms), cutoff, rounds, solved)


@compiled
def read_plain(master_: tuple[Any, ...], terms_: tuple[Any, ...]) -> tuple[bool, float, Floats, Floats]:
    """See `Relaxation.read`."""
    master, terms = as_master(master_), as_terms(terms_)
    return serves(master, terms), objective(master), sums(master), flow(master, len(terms.servers))


@compiled
def bring_all(plain: tuple[Any, ...], rows: Indices) -> Master:
    """See `Relaxation.bring`."""
    master = as_master(plain)
    for row in rows:
        master = bring(master, row)
    return master


@compiled
def add_all(plain: tuple[Any, ...], coefficients: Floats, costs: Floats, most: Floats) -> tuple[Master, Indices]:
    """See `Relaxation.columns`."""
    master, slots = as_master(plain), np.empty(len(costs), dtype=np.int64)
    for i in range(len(costs)):
        master = room(master, PAYS, SPARE)
        slots[i] = add(master, coefficients[i], costs[i], most[i], FIXED)
    return master, slots


@compiled
def hold_all(plain: tuple[Any, ...], terms: tuple[Any, ...], rows: Indices) -> Master:
    """See `Relaxation.hold`."""
    master, of = as_master(plain), as_terms(terms)
    for row in rows:
        master = hold(master, of, row)
    return master


@compiled
def idle_all(plain: tuple[Any, ...], terms: tuple[Any, ...], rows: Indices) -> Master:
    """See `Relaxation.idle`."""
    master, of = as_master(plain), as_terms(terms)
    for row in rows:
        master = idle(master, of, row)
    return master


@compiled
def hold(master: Master, terms: Terms, row: int) -> Master:
    """See `Relaxation.hold`."""
    return idle(bring(master, row), terms, row)


@compiled
def idle(master: Master, terms: Terms, row: int) -> Master:
    """See `Relaxation.idle`."""
    if master.idle[row]:
        return master
    master.idle[row] = True
    for line in range(terms.line_of[row], terms.line_of[row + 1]):
        coefficients = np.zeros(len(master.active))
        for place in terms.lines[line]:
            if place >= 0:
                coefficients[place] = 1.0
        master = room(master, PAYS, SPARE)
        add(master, coefficients, terms.line_price[line], np.inf, FIXED)
    return master


@compiled
def solve(master: Master, terms: Terms, cutoff: float, rounds: int, solved: Indices) -> tuple[Master, int, float, int]:
    """As `Relaxation.solve`, with the rounds that are left: LATE when they were not enough."""
    solved[0] += 1
    if solved[0] % EVERY == 0:
        clean(master)
    master, outcome, bound, left = _converge(master, terms, cutoff, rounds, reoptimise(master))
    if outcome in (DOUBT, INFEASIBLE):
        master, outcome, again, left = _converge(master, terms, cutoff, left, recover(master))
        bound = max(bound, again)
    return master, outcome, bound, left


@compiled
def _converge(master: Master, terms: Terms, cutoff: float, rounds: int, outcome: int) -> tuple[Master, int, float, int]:
    best = -np.inf
    for i in range(ROUNDS):
        if outcome != OPTIMAL:
            return master, outcome, best, rounds - i
        master, bound, found = _price(master, terms)
        best = max(best, bound)
        if best >= cutoff:
            return master, CUT_OFF, best, rounds - i
        if not found and not _insist(master, terms):
            return master, OPTIMAL, best, rounds - i
        outcome = improve(master)
        if i >= rounds:
            return master, LATE, best, 0
    return master, DOUBT, best, rounds


@compiled
def _insist(master: Master, terms: Terms) -> bool:
    """Raise the penalty while it is paid."""
    penalty = master.costs[terms.missing[0]]
    if np.max(master.now.x[terms.missing]) <= MISSING or penalty >= LARGEST_PENALTY:
        return False
    master.costs[terms.missing] = 10 * penalty
    price(master.now, master.costs)
    return True


@compiled
def serves(master: Master, terms: Terms) -> bool:
    """Whether the solution serves what it must."""
    return bool(np.max(master.now.x[terms.missing]) <= 10 * MISSING)


@compiled
def _price(master: Master, terms: Terms) -> tuple[Master, float, int]:
    """A bound by these prices; the routes that pay are added."""
    bound, duals, prices = quote(master, terms)
    prices = np.append(prices, 0.0)
    found = 0
    for p in range(len(terms.weight)):
        floor = duals[terms.floor[p]]
        worth = terms.accurate[p] + floor + terms.weight[p] * duals[terms.least]
        value, taken = best_of(terms.graph, terms.servers, prices, worth, terms.ends[p], terms.ends[p + 1])
        value += terms.served[p] - terms.level[p] * floor
        for row in terms.units[p]:
            if row >= 0:
                value += duals[row]
        if value > PAYS:
            bound -= value * terms.most[p]
            master = room(master, PAYS, SPARE)
            _add(master, terms, p, taken)
            found += 1
    return master, bound, found


@compiled
def _add(master: Master, terms: Terms, p: int, taken: Indices) -> None:
    graph, coefficients = terms.graph, np.zeros(len(master.active))
    arcs, amounts = walk_from(graph, taken, terms.ends[p], terms.ends[p + 1])
    accuracy, cost = 0.0, 0.0
    for i in range(len(arcs)):
        e = arcs[i]
        k = graph.configuration[e]
        accuracy += graph.accuracy[e] * amounts[i]
        if k >= 0:
            need = terms.servers[e] * amounts[i]
            cost += terms.price[k] * need
            for j in range(terms.of.shape[1]):
                if terms.of[k, j] >= 0:
                    coefficients[terms.of[k, j]] += terms.by[k, j] * need
    for row in terms.units[p]:
        if row >= 0:
            coefficients[row] += 1.0
    coefficients[terms.floor[p]] += accuracy - terms.level[p]
    coefficients[terms.least] += terms.weight[p] * accuracy
    slot = add(master, coefficients, cost - terms.accurate[p] * accuracy - terms.served[p], np.inf, ROUTE)
    for i in range(min(len(arcs), master.ways.shape[1])):
        master.ways[slot, i], master.amounts[slot, i] = arcs[i], amounts[i]
    master.ways[slot, len(arcs) :] = -1


@compiled
def flow(master: Master, arcs: int) -> Floats:
    """[arc] = share of the demand that takes it."""
    found = np.zeros(arcs)
    for slot in range(len(master.kind)):
        x = master.now.x[slot]
        if x != 0.0 and master.kind[slot] == ROUTE:
            for i in range(master.ways.shape[1]):
                if master.ways[slot, i] >= 0:
                    found[master.ways[slot, i]] += x * master.amounts[slot, i]
    return found


@compiled
def quote(master: Master, terms: Terms) -> tuple[float, Floats, Floats]:
    """A bound on the objective, but for columns that are not there yet; duals; prices."""
    now, slots = master.now, len(master.kind)
    duals = np.zeros(len(master.active))
    total = 0.0
    for q in range(len(now.nonbasic)):
        v, slope = now.nonbasic[q], now.slopes[q]
        if v >= slots:
            side = master.lower[v] if slope > 0 else master.upper[v]
            if abs(side) < np.inf:
                total += slope * side
                duals[v - slots] = slope
            elif abs(slope) > PAYS:
                total = -np.inf
        elif slope < 0 and master.upper[v] > 0:
            total += slope * min(master.upper[v], terms.spare)
    prices = terms.price.copy()
    for k in range(len(prices)):
        for j in range(terms.of.shape[1]):
            row = terms.of[k, j]
            if row >= 0:
                prices[k] -= terms.by[k, j] * duals[row]
                if master.upper[slots + row] <= 0 and terms.closes[row]:
                    prices[k] = FORBIDDEN
    return total, duals, prices
