"""Branch and price (Barnhart et al. 1998): the exact search for whole servers above a relaxation that makes its routes as
needed. Owns nodes, proofs and incumbents; knows no modes and no clock but the one it is given."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from math import ceil, inf

import numpy as np
from msgspec import Struct

from loki_rl.control.branch_and_price.master import combine
from loki_rl.control.branch_and_price.master_problem import MasterProblem
from loki_rl.control.branch_and_price.pricing import LATE, Relaxation
from loki_rl.control.compiled import compiled
from loki_rl.control.solver.simplex import CANDIDATE, FEASIBLE, INFEASIBLE, OPTIMAL, Dictionary, Floats, Indices

INTEGRAL = 1e-7
# Servers that a count which is not whole yet is expected to take more: one of these usually leads to a fleet.
ROUNDINGS = (0.3, 0.45, 0.6)
# What two solutions of one relaxation may differ by.
NOISE = 1e-12

Box = tuple[Floats, Floats]


class Answer(Struct):
    """outcome: optimal (within the gap), infeasible, limit (of time) or doubt. objective, bound: of the minimisation.

    counts [configuration of all parts]: servers. served [part]: share.
    """

    outcome: str
    objective: float = inf
    bound: float = -inf
    counts: Indices | Floats | None = None
    served: Floats | None = None
    nodes: int = 0


class BranchAndPrice:
    """gap: relative. step: what the objectives of two fleets differ by at least, 0 if that can be anything. Equal questions
    get equal answers unless the time limit strikes."""

    def __init__(self, joint: MasterProblem, gap: float, step: float, left_s: Callable[[], float]) -> None:
        self.joint, self.gap, self.step, self.left_s = joint, gap, step, left_s
        self.limits = np.array(joint.limits)
        self.relaxation = Relaxation(joint, left_s)
        self.layout = self.relaxation.layout
        self.best = Answer("infeasible")
        self._open: list[tuple[float, int, Floats, Floats]] = []
        self._floor = inf
        for row in self.layout.tasks:
            self.relaxation.hold(int(row))

    def know(self, counts: Indices | Floats, objective: float, served: Floats | None) -> None:
        """A fleet that is possible, and what it reaches."""
        if objective < self.best.objective:
            self.best.objective, self.best.counts, self.best.served = objective, counts, served
            room = (1 - 1e-6) * self.step if self.step else 0.99 * self.gap * abs(objective)
            self.relaxation.cutoff = min(self.relaxation.cutoff, objective - max(room, NOISE))

    def run(self, most_nodes: int | None = None) -> Answer:
        """Search until nothing better than the best fleet can be left, or time is over, or so many nodes were looked at."""
        self._push(-inf, self._box())
        while self._open and self._open[0][0] < self.relaxation.cutoff:
            if self.best.nodes and (self.left_s() <= 0 or (most_nodes and self.best.nodes > most_nodes)):
                return self._end("limit")
            bound, _, *box = heappop(self._open)
            self._restore((box[0], box[1]))
            self._dive(bound)
        return self._end("optimal" if self.best.counts is not None else "infeasible")

    def round(self) -> None:
        """Fleets near the relaxation: one count after another is rounded up, the one nearest to it first, and the relaxation
        solved again with so many fewer servers as the others will still take."""
        box = self._box()
        for each in ROUNDINGS:
            self._rounded(each)
            self._restore(box)
        self.relaxation.upper[self.layout.pools] = self.limits

    def _rounded(self, each: float) -> None:
        relaxation, counts, pools = self.relaxation, self.layout.counts, self.layout.pools
        pool_of = self.layout.of[:, 0] - pools[0]
        left = np.zeros(len(pools))
        while self.left_s() > 0:
            relaxation.upper[pools] = self.limits - each * left
            self.best.nodes += 1
            outcome, bound = relaxation.solve()
            usage = relaxation.usage()
            if outcome != OPTIMAL or bound >= relaxation.cutoff or self._settles(usage, bound):
                return
            parts = usage[counts] - np.floor(usage[counts] + INTEGRAL)
            fractional = parts > INTEGRAL
            if not fractional.any():
                return
            left = np.bincount(pool_of[fractional], minlength=len(pools)).astype(float)
            k = int(np.argmax(parts))
            left[pool_of[k]] -= 1
            row = int(counts[k])
            relaxation.hold(row)
            relaxation.lower[row] = np.floor(usage[row] + INTEGRAL) + 1

    def _dive(self, bound: float) -> None:
        """Branch down from a node to one without children."""
        while True:
            self.best.nodes += 1
            outcome, mine = self.relaxation.solve()
            bound = max(bound, mine)
            if outcome == INFEASIBLE or bound >= self.relaxation.worst:
                return
            if outcome == LATE:
                self._push(bound, self._box())
                return
            if outcome != OPTIMAL or bound >= self.relaxation.cutoff:
                self._floor = min(self._floor, bound)
                return
            usage = self.relaxation.usage()
            if self._settles(usage, bound):
                self._floor = min(self._floor, bound)
                return
            if self.left_s() <= 0:
                self._push(bound, self._box())
                return
            row, up_first = self._choose(usage)
            if row < 0:
                self._floor = min(self._floor, bound)
                return
            self._branch(row, float(np.floor(usage[row] + INTEGRAL)), up_first, bound)

    def _settles(self, usage: Floats, bound: float) -> bool:
        """Whether a node's relaxation, its counts rounded up, is a fleet that is as good."""
        counts = self._filled(np.ceil(usage[self.layout.counts] - INTEGRAL).astype(np.int64))
        pools = np.bincount(self.layout.of[:, 0] - self.layout.pools[0], counts, len(self.limits))
        if (pools > self.limits).any() or not self.relaxation.serves or not self._holds(counts):
            return False
        objective = self.relaxation.objective
        if self.joint.goal == "least price":
            objective = float(pools @ self.joint.prices) / self.joint.unit
        self.know(counts, objective, usage[self.layout.served])
        return objective <= max(bound + self.step / 2, self.relaxation.objective + NOISE)

    def _filled(self, counts: Indices) -> Indices:
        """With the idle servers that a part must hold."""
        for key, (low, _) in self.joint.holdings.items():
            mine = np.flatnonzero(self.layout.of[:, 1] == self.layout.holding_of[key])
            counts[mine[0]] += max(0, low - int(counts[mine].sum()))
        return counts

    def _holds(self, counts: Indices) -> bool:
        held = self.layout.of[:, 1]
        return all(
            counts[held == self.layout.holding_of[key]].sum() <= high for key, (_, high) in self.joint.holdings.items()
        )

    def _choose(self, usage: Floats) -> tuple[int, bool]:
        """Row to branch on (-1: none is fractional) and whether up is cheaper."""
        layout, master = self.layout, self.relaxation.master
        parts = usage - np.floor(usage + INTEGRAL)
        fractional = (parts > INTEGRAL) & (layout.rank > 0)
        if not fractional.any():
            return -1, False
        rows = np.flatnonzero(fractional & (layout.rank == layout.rank[fractional].max()))
        chosen, up_first = choose(master.now, master.matrix, rows, parts[rows], master.lower, master.upper)
        return int(rows[chosen]), bool(up_first)

    def _branch(self, row: int, below: float, up_first: bool, bound: float) -> None:
        relaxation = self.relaxation
        relaxation.hold(row)
        box = self._box()
        up, down = (below + 1, relaxation.upper[row]), (relaxation.lower[row], below)
        relaxation.lower[row], relaxation.upper[row] = down if up_first else up
        self._push(bound, self._box())
        self._restore(box)
        relaxation.lower[row], relaxation.upper[row] = up if up_first else down

    def _box(self) -> Box:
        """Bounds of the integers."""
        mine = self.layout.integers
        return self.relaxation.lower[mine].copy(), self.relaxation.upper[mine].copy()

    def _restore(self, box: Box) -> None:
        mine = self.layout.integers
        self.relaxation.lower[mine], self.relaxation.upper[mine] = box

    def _push(self, bound: float, box: Box) -> None:
        # Of equal bounds the youngest first: it is deeper.
        heappush(self._open, (bound, -len(self._open) - self.best.nodes, *box))

    def _end(self, outcome: str) -> Answer:
        best = self.best
        bound = min(self._floor, min((node[0] for node in self._open), default=inf), best.objective)
        if self.step and -inf < bound < inf:
            bound = min(ceil(bound / self.step - 1e-6) * self.step, best.objective)
        best.outcome = "doubt" if outcome == "infeasible" and self._floor < inf else outcome
        best.bound = bound
        return best


@compiled
def choose(now: Dictionary, matrix: Floats, rows: Indices, parts: Floats, lower: Floats, upper: Floats) -> tuple[int, bool]:
    """Of rows [slot, row] with fractional parts the one to branch on, and whether up is cheaper: penalties of one dual step
    each way (Driebeek 1966; Tomlin 1971), the largest product."""
    weights = np.zeros(len(lower))
    rises, falls = now.x[now.nonbasic] < upper[now.nonbasic], now.x[now.nonbasic] > lower[now.nonbasic]
    slopes = np.abs(now.slopes)
    chosen, up_first, best = 0, False, -1.0
    for i in range(len(parts)):
        weights[: len(matrix)] = matrix[:, rows[i]]
        row = combine(now, weights)
        price = slopes / np.maximum(np.abs(row), CANDIDATE)
        up = (1 - parts[i]) * np.min(np.where(((row < -CANDIDATE) & rises) | ((row > CANDIDATE) & falls), price, 1e6))
        down = parts[i] * np.min(np.where(((row > CANDIDATE) & rises) | ((row < -CANDIDATE) & falls), price, 1e6))
        score = max(up, FEASIBLE) * max(down, FEASIBLE) + FEASIBLE * min(parts[i], 1 - parts[i])
        if score > best:
            chosen, up_first, best = i, up < down, score
    return chosen, up_first
