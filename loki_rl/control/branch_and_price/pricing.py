"""The relaxation of a joint problem, its routes made as prices ask for them (column generation; Dantzig and Wolfe 1960).
Owns its routes, its prices and bounds that hold whatever routes there are; branches on nothing."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import numpy as np

from loki_rl.control.branch_and_price.master import Master
from loki_rl.control.branch_and_price.master_problem import Layout, MasterProblem, Part
from loki_rl.control.branch_and_price.route_pricing import best_routes, walk
from loki_rl.control.compiled import compiled
from loki_rl.control.solver.simplex import CUT_OFF, DOUBT, INFEASIBLE, OPTIMAL, Dictionary, Floats, Indices

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


class Relaxation:
    """Ask with `solve` after any change of the bounds in `lower` and `upper` [row]. cutoff: of no interest above."""

    def __init__(self, joint: MasterProblem, left_s: Callable[[], float]) -> None:
        self.joint, self.parts, self.left_s = joint, joint.parts, left_s
        self.layout = Layout(joint)
        self.master = Master(self.layout.size)
        self._routes: set[int] = set()
        self.price = np.array(joint.prices) / joint.unit if joint.goal == "least price" else np.zeros(len(joint.prices))
        self._base = self.price[self.layout.of[:, 0] - self.layout.pools[0]]
        self._most = float(sum(joint.limits))
        self._penalty = PENALTY
        self._idle: set[int] = set()
        # Nothing that is possible is worth less than serving at no accuracy, or with all servers.
        self.worst = (1.0 if joint.goal == "least price" else 0.0) + PAYS
        self.cutoff = self.worst
        self.solved = 0
        self._fit()
        self._missing = [self._miss(p) for p in range(len(self.parts))]

    def _fit(self) -> None:
        layout, joint = self.layout, self.joint
        for p, part in enumerate(self.parts):
            self.lower[layout.served[p]], self.upper[layout.served[p]] = part.served
            self.lower[layout.floor[p]] = part.floor[1]
        self.lower[layout.least] = joint.least
        self.upper[layout.pools] = joint.limits
        for key, bounds in joint.holdings.items():
            self.lower[layout.holding_of[key]], self.upper[layout.holding_of[key]] = bounds
            self.hold(layout.holding_of[key])
        floors = [row for row, part in zip(layout.floor, self.parts, strict=True) if part.floor[1] > -1]
        for row in [*layout.served, *floors, *([layout.least] if joint.least > -1 else []), *layout.pools]:
            self.master.bring(int(row))

    @property
    def lower(self) -> Floats:
        return self.master.lower[self.master.slots :]

    @property
    def upper(self) -> Floats:
        return self.master.upper[self.master.slots :]

    # -- columns

    def _column(self, rows: Indices, values: Floats | float, cost: float) -> int:
        if not self.master.free:
            self._make_room()
        coefficients: Floats = np.bincount(rows, np.broadcast_to(values, rows.shape), self.layout.size).astype(np.float64)
        return self.master.add(coefficients, cost)

    def _make_room(self) -> None:
        """Forget routes that have been out of use, the least worth having first."""
        slopes, x = self.master.slopes(), self.master.now.x
        idle = [slot for slot in sorted(self._routes) if slopes[slot] > PAYS and x[slot] == 0]
        idle.sort(key=lambda slot: -slopes[slot])
        dropped = idle[: max(0, len(self._routes) - SPARE * len(self.master.active))]
        if len(dropped) <= len(self._routes) // 4:
            self.master.grow()
            return
        self.master.drop(np.array(dropped, dtype=np.int64))
        self._routes.difference_update(dropped)

    def _miss(self, p: int) -> int:
        """Serves without servers, at a penalty: so that there always is a solution."""
        rows = np.array([self.layout.served[p], self.layout.floor[p], self.layout.least])
        return self._column(rows, 1.0, self._penalty)

    def hold(self, row: int) -> None:
        """Let a row of servers take part, and servers idle in it."""
        if row in self._idle:
            return
        self._idle.add(row)
        self.master.bring(row)
        for rows in self.layout.above(row):
            self._column(rows, 1.0, float(self.price[rows[0] - self.layout.pools[0]]))

    def _add(self, p: int, taken: Indices) -> None:
        part, layout = self.parts[p], self.layout
        arcs, amounts = walk(part.graph, taken)
        works = part.graph.configuration[arcs] >= 0
        needs = part.servers[arcs[works]] * amounts[works]
        accuracy = float(part.graph.accuracy[arcs] @ amounts)
        rows = layout.of[part.graph.configuration[arcs[works]] + layout.start[p]]
        at = np.concatenate([[layout.served[p], layout.floor[p], layout.least], rows.ravel()])
        values = np.concatenate([[1.0, accuracy - part.floor[0], part.weight * accuracy], np.repeat(needs, rows.shape[1])])
        worth, extra = self._worth(part)
        cost = float(self.price[rows[:, 0] - layout.pools[0]] @ needs) - worth * accuracy - extra
        self._routes.add(self._column(at, values, cost))

    def worth(self, p: int, duals: Floats) -> float:
        """Of a unit of a part's accuracy, what floors make of it included."""
        part, layout = self.parts[p], self.layout
        return float(self._worth(part)[0] + duals[layout.floor[p]] + part.weight * duals[layout.least])

    def _worth(self, part: Part) -> tuple[float, float]:
        """Of a unit of accuracy and of a unit served."""
        goal = self.joint.goal
        return (part.weight if goal == "most accurate" else 0.0), (part.weight if goal == "most served" else 0.0)

    # -- solving

    def solve(self) -> tuple[int, float]:
        """OPTIMAL, CUT_OFF, LATE, INFEASIBLE (not even idle servers fit) or DOUBT; and a bound that holds whatever routes
        there are."""
        self.solved += 1
        if self.solved % EVERY == 0:
            self.master.clean()
        outcome, bound = self._converge(self.master.reoptimise())
        if outcome in (DOUBT, INFEASIBLE):
            outcome, again = self._converge(self.master.recover())
            bound = max(bound, again)
        return outcome, bound

    def _converge(self, outcome: int) -> tuple[int, float]:
        best = -inf
        for _ in range(ROUNDS):
            if outcome != OPTIMAL:
                break
            bound, found = self._price()
            best = max(best, bound)
            if best >= self.cutoff:
                return CUT_OFF, best
            if self.left_s() <= 0:
                return LATE, best
            if not found and not self._insist():
                return OPTIMAL, best
            for p, taken in found:
                self._add(p, taken)
            outcome = self.master.improve()
        return outcome if outcome != OPTIMAL else DOUBT, best

    def _insist(self) -> bool:
        """Raise the penalty while it is paid."""
        if self.master.now.x[self._missing].max() <= MISSING or self._penalty >= LARGEST_PENALTY:
            return False
        self._penalty *= 10
        self.master.costs[self._missing] = self._penalty
        self.master.reprice()
        return True

    @property
    def serves(self) -> bool:
        """Whether the last solution serves what it must."""
        return float(self.master.now.x[self._missing].max()) <= 10 * MISSING

    def quote(self) -> tuple[float, Floats, Floats]:
        """What the rows' bounds are worth at the duals, these [row], and what a server of each configuration is [count]."""
        master, layout = self.master, self.layout
        quoted: tuple[float, Floats, Floats] = quote(
            master.now, master.lower, master.upper, master.slots, layout.of, self._base, self._most
        )
        return quoted

    def _price(self) -> tuple[float, list[tuple[int, Indices]]]:
        """A bound by these prices, and the routes that pay."""
        layout = self.layout
        bound, duals, prices = self.quote()
        found = []
        for p, part in enumerate(self.parts):
            mine = np.append(prices[layout.start[p] : layout.start[p + 1]], 0.0)
            value, taken = best_routes(part.graph, part.servers, mine, self.worth(p, duals))
            value += self._worth(part)[1] + duals[layout.served[p]] - part.floor[0] * duals[layout.floor[p]]
            if value > PAYS:
                bound -= value * part.served[1]
                found.append((p, taken))
        return bound, found

    # -- the solution

    @property
    def objective(self) -> float:
        return self.master.objective

    def usage(self) -> Floats:
        """[row] = servers in it, as sums over the columns."""
        return self.master.sums()


@compiled
def quote(
    now: Dictionary, lower: Floats, upper: Floats, slots: int, of: Indices, base: Floats, most: float
) -> tuple[float, Floats, Floats]:
    """A bound on the objective, but for columns that are not there yet; duals; prices. most: servers that may be idle."""
    duals = np.zeros(len(lower) - slots)
    total = 0.0
    for q in range(len(now.nonbasic)):
        v, slope = now.nonbasic[q], now.slopes[q]
        if v >= slots:
            side = lower[v] if slope > 0 else upper[v]
            if np.abs(side) < np.inf:
                total += slope * side
                duals[v - slots] = slope
            elif np.abs(slope) > PAYS:
                total = -np.inf
        elif slope < 0 and upper[v] > 0:
            total += slope * most
    prices = base.copy()
    for k in range(len(of)):
        for j in range(of.shape[1]):
            prices[k] -= duals[of[k, j]]
            if upper[slots + of[k, j]] <= 0:
                prices[k] = FORBIDDEN
    return total, duals, prices
