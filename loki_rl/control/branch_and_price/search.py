"""Branch and price (Barnhart et al. 1998): the exact search for whole servers above a relaxation that makes its routes as
needed."""

from __future__ import annotations

from math import ceil, inf
from typing import Any, NamedTuple

import numpy as np
from msgspec import Struct

from loki_rl.control.branch_and_price.master import Master, as_master, combine, objective, sums
from loki_rl.control.branch_and_price.pricing import LATE, Relaxation, Terms, as_terms, hold, plain, serves, solve
from loki_rl.control.compiled import compiled
from loki_rl.control.solver.simplex import CANDIDATE, DOUBT, FEASIBLE, INFEASIBLE, OPTIMAL, Floats, Indices

INTEGRAL = 1e-7
# Servers that a count which is not whole yet is expected to take more: one of these usually leads to a fleet.
ROUNDINGS = (0.3, 0.45, 0.6)
# What two solutions of one relaxation may differ by.
NOISE = 1e-12
FIRST_NODES = 64

Box = tuple[Floats, Floats]


class Answer(Struct):
    """outcome: optimal (within the gap), infeasible, limit (of time) or doubt. objective, bound: of the minimisation.

    counts [configuration of all parts]: servers. served [part]: share. flow [arc of the joined graph]: if it is told.
    """

    outcome: str
    objective: float = inf
    bound: float = -inf
    counts: Indices | Floats | None = None
    served: Floats | None = None
    nodes: int = 0
    flow: Floats | None = None


class Nodes(NamedTuple):
    """Per open node its bound, and lower and upper of the integer rows; those from `State.open` on are free."""

    bound: Floats
    lower: Floats
    upper: Floats


class Fleets(NamedTuple):
    """When a solution is a fleet. integers: rows to branch on; rank [integer]: the highest first. counts: rows of servers
    of each configuration; pool_of [count]. pools: rows of pools; limits, prices [pool]: servers there are, cost of one.
    held, first, least, most [group]: rows in which idle servers count as well as others, the first configuration in each,
    least servers (below 0: as many as the relaxation has) and most; place: where rows of configurations have theirs.
    served: rows. step: by what the costs of fleets differ at least, or 0. Where models are loaded, model_of [count]; loads,
    there, load_price [model]: the column of its loads (-1: every server is one, and its price in the relaxation has it), how
    many servers need none, and what one costs.
    """

    integers: Indices
    rank: Indices
    counts: Indices
    pool_of: Indices
    pools: Indices
    limits: Floats
    prices: Floats
    held: Indices
    place: int
    first: Indices
    least: Floats
    most: Floats
    served: Indices
    step: float
    model_of: Indices
    loads: Indices
    there: Floats
    load_price: Floats


class State(NamedTuple):
    """Of a search. open: nodes. bound: of the node that is looked at, if `inside`. cutoff: what is not below is useless.
    floor: least bound of what was cut off or solved. objective: of the best fleet. made: nodes so far."""

    open: int
    inside: bool
    bound: float
    cutoff: float
    floor: float
    objective: float
    made: int


class BranchAndPrice:
    """gap: relative. Equal questions get equal answers unless the time limit strikes."""

    def __init__(self, relaxation: Relaxation, fleets: Fleets, gap: float) -> None:
        self.relaxation, self.fleets, self.gap = relaxation, fleets, gap
        self.best = Answer("infeasible")
        shape = (FIRST_NODES, len(fleets.integers))
        self._nodes = Nodes(np.empty(FIRST_NODES), np.empty(shape), np.empty(shape))
        self._counts, self._served = np.zeros(len(fleets.counts), dtype=np.int64), np.zeros(len(fleets.served))

    def know(self, counts: Indices | Floats, objective: float, served: Floats | None) -> None:
        """A fleet that is possible, and what it reaches."""
        if objective < self.best.objective:
            self.best.objective, self.best.counts, self.best.served = objective, counts, served
            better = objective - float(gain(objective, self.gap, self.fleets.step))
            self.relaxation.cutoff = min(self.relaxation.cutoff, better)

    def run(self, most_nodes: int | None = None) -> Answer:
        """Search until nothing better than the best fleet can be left, or time is over, or so many nodes were looked at."""
        relaxation, made = self.relaxation, self.best.nodes
        self._nodes.bound[0] = -inf
        self._nodes.lower[0], self._nodes.upper[0] = self._box()
        state, outcome = State(1, False, -inf, relaxation.cutoff, inf, self.best.objective, made), LATE
        while outcome == LATE:
            known = state.objective
            most = made + most_nodes if most_nodes else 1 << 40
            relaxation.master, outcome, state, self._nodes = explore(
                plain(relaxation.master), relaxation.plain, tuple(self.fleets), tuple(self._nodes), tuple(state),
                self.gap, relaxation.worst, relaxation.rounds, relaxation.solved, most, self._counts, self._served,
            )  # fmt: skip
            self.best.nodes = state.made
            if state.objective < known:
                self.know(self._counts.copy(), state.objective, self._served.copy())
            if outcome == LATE and (relaxation.left_s() <= 0 or state.made > most):
                break
        return self._end(outcome, state)

    def round(self) -> None:
        """Fleets near the relaxation: one count after another is rounded up, the one nearest to it first, and the relaxation
        solved again with so many fewer servers as the others will still take."""
        box = self._box()
        for each in ROUNDINGS:
            self._rounded(each)
            self._restore(box)
        self.relaxation.upper[self.fleets.pools] = self.fleets.limits

    def _rounded(self, each: float) -> None:
        relaxation, fleets = self.relaxation, self.fleets
        counts, pools = fleets.counts, fleets.pools
        left = np.zeros(len(pools))
        while relaxation.left_s() > 0:
            relaxation.upper[pools] = fleets.limits - each * left
            self.best.nodes += 1
            outcome, bound = relaxation.solve()
            if outcome != OPTIMAL or bound >= relaxation.cutoff:
                return
            usage = relaxation.read().usage
            value, done = settles(relaxation.master, relaxation.terms, fleets, usage, bound, self._counts)
            if value < inf:
                self.know(self._counts.copy(), value, usage[fleets.served])
            if done:
                return
            parts = usage[counts] - np.floor(usage[counts] + INTEGRAL)
            fractional = parts > INTEGRAL
            if not fractional.any():
                return
            left = np.bincount(fleets.pool_of[fractional], minlength=len(pools)).astype(float)
            k = int(np.argmax(parts))
            left[fleets.pool_of[k]] -= 1
            row = int(counts[k])
            relaxation.hold([row])
            relaxation.lower[row] = np.floor(usage[row] + INTEGRAL) + 1

    def _box(self) -> Box:
        """Bounds of the integers."""
        mine = self.fleets.integers
        return self.relaxation.lower[mine], self.relaxation.upper[mine]

    def _restore(self, box: Box) -> None:
        mine = self.fleets.integers
        self.relaxation.lower[mine], self.relaxation.upper[mine] = box

    def _end(self, outcome: int, state: State) -> Answer:
        best = self.best
        # A node that nothing was learnt of is as good as the one it was made from.
        inside = state.bound if state.inside else inf
        bound = min(state.floor, inside, float(self._nodes.bound[: state.open].min(initial=inf)), best.objective)
        step = self.fleets.step
        if step and -inf < bound < inf:
            bound = min(ceil(bound / step - 1e-6) * step, best.objective)
        word = {OPTIMAL: "optimal", LATE: "limit"}.get(outcome, "doubt")
        if word == "optimal" and best.counts is None:
            word = "doubt" if state.floor < inf else "infeasible"
        best.outcome, best.bound = word, bound
        return best


@compiled
def gain(objective: float, gap: float, step: float) -> float:
    return max((1 - 1e-6) * step if step > 0 else 0.99 * gap * abs(objective), NOISE)


@compiled
def explore(
    master_: tuple[Any, ...],
    terms_: tuple[Any, ...],
    fleets_: tuple[Any, ...],
    nodes_: tuple[Any, ...],
    state: tuple[Any, ...],
    gap: float,
    worst: float,
    rounds: int,
    solved: Indices,
    most: int,
    counts: Indices,
    served: Floats,
) -> tuple[Master, int, State, Nodes]:
    """Dive along the cheaper branch, then go on from the best open node; LATE after so many rounds of prices or nodes, to be
    called again. OPTIMAL: no open node can be better. counts, served: receive the best fleet. Records come as their fields.
    """
    master, terms, fleets, nodes = as_master(master_), as_terms(terms_), Fleets(*fleets_), Nodes(*nodes_)
    open_, inside, bound, cutoff, floor, objective, made = state
    mine, outcome = fleets.integers, LATE
    found = np.zeros(len(counts), dtype=np.int64)
    while rounds > 0 and made <= most:
        slots = len(master.kind)
        if not inside:
            chosen = _best(nodes, open_)
            if chosen < 0 or nodes.bound[chosen] >= cutoff:
                outcome = OPTIMAL
                break
            open_ -= 1
            bound, inside = nodes.bound[chosen], True
            master.lower[slots + mine], master.upper[slots + mine] = nodes.lower[chosen], nodes.upper[chosen]
            nodes.bound[chosen] = nodes.bound[open_]
            nodes.lower[chosen], nodes.upper[chosen] = nodes.lower[open_], nodes.upper[open_]
        before = rounds
        master, result, proven, rounds = solve(master, terms, cutoff, rounds, solved)
        rounds = min(rounds, before - 1)
        bound = max(bound, proven)
        if result == LATE:
            break
        made += 1
        if result == DOUBT:
            outcome = DOUBT
            break
        if result == INFEASIBLE or bound >= worst:
            inside = False
            continue
        if result != OPTIMAL or bound >= cutoff:
            floor, inside = min(floor, bound), False
            continue
        usage = sums(master)
        value, done = settles(master, terms, fleets, usage, bound, found)
        if value < objective:
            objective, cutoff = value, min(cutoff, value - gain(value, gap, fleets.step))
            counts[:] = found
            served[:] = usage[fleets.served]
        row, up_first = (-1, False) if done else _choose(master, fleets, usage)
        if row < 0:
            floor, inside = min(floor, bound), False
            continue
        if open_ == len(nodes.bound):
            nodes = _more(nodes)
        master = hold(master, terms, row)
        v = len(master.kind) + row
        below, low, high = np.floor(usage[row] + INTEGRAL), master.lower[v], master.upper[v]
        master.lower[v], master.upper[v] = (low, below) if up_first else (below + 1, high)
        nodes.bound[open_] = bound
        nodes.lower[open_] = master.lower[len(master.kind) + mine]
        nodes.upper[open_] = master.upper[len(master.kind) + mine]
        open_ += 1
        master.lower[v], master.upper[v] = (below + 1, high) if up_first else (low, below)
    return master, outcome, State(open_, inside, bound, cutoff, floor, objective, made), nodes


@compiled
def _best(nodes: Nodes, count: int) -> int:
    """The open node of the least bound, of equal ones the youngest: it is deeper. -1 if there is none."""
    chosen = -1
    for k in range(count):
        if chosen < 0 or nodes.bound[k] <= nodes.bound[chosen]:
            chosen = k
    return chosen


@compiled
def _more(nodes: Nodes) -> Nodes:
    """Room for twice as many."""
    size, width = nodes.lower.shape
    bound, lower, upper = np.empty(2 * size), np.empty((2 * size, width)), np.empty((2 * size, width))
    bound[:size], lower[:size], upper[:size] = nodes.bound, nodes.lower, nodes.upper
    return Nodes(bound, lower, upper)


@compiled
def settles(
    master: Master, terms: Terms, fleets: Fleets, usage: Floats, bound: float, counts: Indices
) -> tuple[float, bool]:
    """What the relaxation costs with its counts rounded up, infinity if that is no fleet, and whether none of this node can
    be better."""
    for k in range(len(counts)):
        counts[k] = int(np.ceil(usage[fleets.counts[k]] - INTEGRAL))
    for h in range(len(fleets.held)):
        # With the servers that must be there, or are there without use.
        total = 0
        for k in range(len(counts)):
            if terms.of[k, fleets.place] == fleets.held[h]:
                total += counts[k]
        if total > fleets.most[h]:
            return np.inf, False
        least = fleets.least[h] if fleets.least[h] >= 0 else np.ceil(usage[fleets.held[h]] - INTEGRAL)
        counts[fleets.first[h]] += max(0, int(least) - total)
    used = np.zeros(len(fleets.pools))
    for k in range(len(counts)):
        used[fleets.pool_of[k]] += counts[k]
    if not serves(master, terms):
        return np.inf, False
    relaxed = objective(master)
    value = relaxed
    for s in range(len(used)):
        if used[s] > fleets.limits[s]:
            return np.inf, False
        value += fleets.prices[s] * (used[s] - usage[fleets.pools[s]])
    if len(fleets.loads):
        wanted = np.zeros(len(fleets.loads))
        for k in range(len(counts)):
            wanted[fleets.model_of[k]] += counts[k]
        for m in range(len(wanted)):
            slot, needed = fleets.loads[m], max(0.0, wanted[m] - fleets.there[m])
            if slot < 0:
                value += fleets.load_price[m] * (wanted[m] - usage[fleets.held[m]])
                continue
            if needed > master.upper[slot]:
                return np.inf, False
            value += master.costs[slot] * (needed - master.now.x[slot])
    return value, value <= max(bound + fleets.step / 2, relaxed + NOISE)


@compiled
def _choose(master: Master, fleets: Fleets, usage: Floats) -> tuple[int, bool]:
    """Row to branch on (-1: none is fractional) and whether up is cheaper: penalties of one dual step each way (Driebeek
    1966; Tomlin 1971), the largest product among the highest rank."""
    top = 0
    for i in range(len(fleets.integers)):
        value = usage[fleets.integers[i]]
        if fleets.rank[i] > top and value - np.floor(value + INTEGRAL) > INTEGRAL:
            top = fleets.rank[i]
    now, slots = master.now, len(master.kind)
    chosen, up_first, best = -1, False, -1.0
    weights = np.zeros(len(master.lower))
    for i in range(len(fleets.integers)):
        row = fleets.integers[i]
        part = usage[row] - np.floor(usage[row] + INTEGRAL)
        if top == 0 or fleets.rank[i] != top or part <= INTEGRAL:
            continue
        weights[:slots] = master.matrix[:, row]
        line = combine(now, weights)
        up, down = 1e6, 1e6
        for j in range(len(line)):
            element, v = line[j], now.nonbasic[j]
            if abs(element) > CANDIDATE:
                ratio = abs(now.slopes[j] / element)
                if now.x[v] < master.upper[v]:
                    up, down = (up, min(down, ratio)) if element > 0 else (min(up, ratio), down)
                if now.x[v] > master.lower[v]:
                    up, down = (min(up, ratio), down) if element > 0 else (up, min(down, ratio))
        up, down = (1 - part) * up, part * down
        score = max(up, FEASIBLE) * max(down, FEASIBLE) + FEASIBLE * min(part, 1 - part)
        if score > best:
            chosen, up_first, best = row, up < down, score
    return chosen, up_first
