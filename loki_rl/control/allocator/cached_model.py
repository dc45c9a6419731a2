"""A problem that is kept between calls: counts and flows of some networks, of which a new question changes coefficients,
bounds and the objective only. Owns these changes and the keeping; knows no mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, nan
from threading import local
from typing import Any, TypeVar

import numpy as np
from msgspec.structs import replace

from loki_rl.control.allocator.written_model import Written
from loki_rl.control.formulation.network import Network
from loki_rl.control.formulation.problem import ALL, ANY, NO_FLOOR, NO_LEAST, Goal, Problem, Question, Span
from loki_rl.control.lru import Lru
from loki_rl.control.solver.program import Program
from loki_rl.control.solver.simplex import Floats, Indices
from loki_rl.control.solver.solve import Solved, solve_again

Kept = TypeVar("Kept")

KEPT = 16
# Every question starts from the relaxation of half the demand that this many servers of each type can serve.
USUAL_SERVERS = 100


class CachedModel(Problem):
    """Rows and columns are made once."""

    def __init__(self, networks: tuple[Network, ...], prices: tuple[float, ...]) -> None:
        super().__init__(networks, prices)
        self._parts = range(len(networks))
        self._pools = (USUAL_SERVERS,) * len(prices)
        each = len(networks)
        neutral = Question(
            "most accurate", (1.0,) * each, self._pools, (ALL,) * each, (NO_FLOOR,) * each, (1.0,) * each, NO_LEAST,
            (), (), (), integer=True, reserving=True,
        )  # fmt: skip
        self._place(Written(networks, self.units, neutral))
        self._now: dict[object, Any] = {"weights": neutral.weights}
        self._begin()

    def _place(self, written: Written) -> None:
        """Where the program holds what changes."""
        counts, flows, floors, least = written.counts, written.flows, written.floors, written.least
        self.program = program = Program(written.problem)
        self._counts = program.columns(counts.columns)
        self._wholes = np.concatenate([self._counts, program.columns([total for total, _ in counts.sums])])
        self._pool_of = np.array([c.pool for _, c in counts.configurations] + [pool for _, pool in counts.sums])
        self._holdings = {key: program.index(total) for key, total in counts.holdings.items()}
        self._rows = np.array(counts.rows)
        self._price = program.terms(counts.price)
        self._accuracies = [program.terms(flow.accuracy) for flow in flows]
        self._arcs = [program.columns(flow.columns) for flow in flows]
        self._served = [program.index(flow.served) for flow in flows]
        self._needs, self._loads = [flow.servers for flow in flows], [flow.entries(program) for flow in flows]
        self._floor_rows = floors
        self._floors = [program.entries(row, [flow.served]) for row, flow in zip(floors, flows, strict=True)]
        self._least_row = least
        self._leasts = program.entries(least, [column for flow in flows for column, _ in flow.accuracy])

    def _begin(self) -> None:
        most = []
        for part in self._parts:
            alone: list[Span] = [(0.0, None if part == other else 0.0) for other in self._parts]
            solved = self.ask("most served", (1.0,) * len(self._parts), self._pools, alone, integer=False, reserving=False)
            self.program.kept = False
            most.append(max(solved.objective, 1e-6) / 2 / len(self._parts))
        self.ask("most accurate", tuple(most), self._pools, [ANY for _ in self._parts], integer=False)

    def _answer(self, question: Question, time_limit_s: float) -> Solved:
        demands = [(demand, question.reserving) for demand in question.demands]
        self._tune(demands, [a for a, _ in question.floors], question.weights)
        self._bound(question)
        self._aim(question.goal, question.weights)
        first = self._known(question.start) if question.start else None
        whole = question.integer and not question.counts
        solved, values = solve_again(self.program, time_limit_s, whole, first)
        self._read(values)
        if question.goal == "least price":
            return replace(solved, objective=solved.objective * self.unit, bound=solved.bound * self.unit)
        return solved

    def _read(self, values: Floats | None) -> None:
        found = np.zeros(len(self.program.variables)) if values is None else values
        self.values, self.served = found[self._counts].tolist(), found[self._served].tolist()
        self.flows = [found[arcs].tolist() for arcs in self._arcs]

    def _tune(self, demands: list[tuple[float, bool]], floors: list[float], weights: tuple[float, ...]) -> None:
        """Coefficients that differ from those of the last question."""
        changes = [
            *(self._changed(("floor", i), floors[i], self._floors[i], lambda a: np.array([-a])) for i in self._parts),
            *(
                self._changed(("demand", i), demands[i], self._loads[i], lambda d, i=i: self._needs[i](*d))
                for i in self._parts
            ),
            self._changed(
                "weights", weights, self._leasts, lambda _: self._weighed(weights)[self.program.column[self._leasts]]
            ),
        ]
        made = [change for change in changes if change is not None]
        if made:
            entries, values = zip(*made, strict=True)
            self.program.change(np.concatenate(entries), np.concatenate(values))

    def _changed(self, name: object, value: Any, entries: Indices, values: Any) -> tuple[Indices, Floats] | None:
        if self._now.get(name) == value:
            return None
        self._now[name] = value
        return entries, values(value)

    def _bound(self, question: Question) -> None:
        program, servers, holdings = self.program, question.servers, dict(question.holdings)
        program.lower[self._wholes], program.upper[self._wholes] = 0, np.array(servers)[self._pool_of]
        if question.counts:
            program.lower[self._counts] = program.upper[self._counts] = question.counts
        for (part, pool), total in self._holdings.items():
            program.lower[total], program.upper[total] = holdings.get((part, pool), (0, servers[pool]))
        program.row_upper[self._rows] = servers
        program.row_lower[self._floor_rows] = [b for _, b in question.floors]
        program.row_lower[self._least_row] = question.least
        program.lower[self._served] = [low for low, _ in question.served]
        program.upper[self._served] = [inf if high is None else high for _, high in question.served]

    def _aim(self, goal: Goal, weights: tuple[float, ...]) -> None:
        self.program.sign = 1.0 if goal == "least price" else -1.0
        if goal == "least price":
            self.program.costs = self._price
        elif goal == "most accurate":
            self.program.costs = -self._weighed(weights)
        else:
            self.program.costs = np.zeros(len(self.program.variables))
            self.program.costs[self._served] = [-weight for weight in weights]

    def _weighed(self, weights: tuple[float, ...]) -> Floats:
        """The accuracies of all parts."""
        return sum(
            (weight * accuracy for weight, accuracy in zip(weights, self._accuracies, strict=True)),
            np.zeros(len(self.program.variables)),
        )

    def _known(self, start: Sequence[int]) -> Floats:
        values = np.full(len(self.program.variables), nan)
        values[self._counts] = start
        return values


class _Kept(local):
    """Of each thread its own: a program is not to be shared."""

    def __init__(self) -> None:
        self.problems: Lru[Any] = Lru(KEPT)


_kept = _Kept()


def keep(key: tuple[object, ...], make: Callable[[], Kept]) -> Kept:
    """What was made under that key, from the last KEPT problems of this thread where possible."""
    kept: Kept = _kept.problems.get(key, make)
    return kept


def kept_problem(networks: tuple[Network, ...], prices: tuple[float, ...]) -> CachedModel:
    """The problem of the networks. It holds them, so their ids cannot be taken over by others."""
    return keep((prices, *map(id, networks)), lambda: CachedModel(networks, prices))
