"""A problem that is kept between calls: counts and flows of one network, of which a new question changes coefficients,
bounds and the objective only. Owns these changes and the keeping; knows no mode."""

from __future__ import annotations

from collections import OrderedDict
from math import inf, nan
from threading import local
from typing import Any, Literal

import numpy as np
from msgspec.structs import replace

from loki_rl.control.model import Counts, Flows, add_row, new_problem, set_objective
from loki_rl.control.network import Network
from loki_rl.control.program import Program
from loki_rl.control.simplex import Floats
from loki_rl.control.solver import Solved, solve_again

Goal = Literal["fewest servers", "most accurate", "most served"]

KEPT = 16
ANSWERS = 64
NO_FLOOR = (0.0, -1.0)
# Every question starts from the relaxation of half the demand that this many servers can serve.
USUAL_SERVERS = 100
# For relaxations, which everything else starts from.
LONG_S = 10.0


class KeptProblem:
    """Ask, then read the answer before the next question. Equal questions get equal answers, whatever was asked before.

    values: servers per configuration. flow: flow per arc, as shares of the demand asked for.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        problem = new_problem(maximise=True)
        counts, flows = Counts(problem, network.configurations, USUAL_SERVERS), Flows(problem, network, 1.0)
        flows.fit(problem, counts.columns)
        floor = add_row(problem, [*flows.accuracy, (flows.served, 0.0)], ">=", NO_FLOOR[1])
        set_objective(problem, flows.accuracy)
        self.program = program = Program(problem)
        self._goals = {
            "fewest servers": program.terms(dict(counts.all_servers)),
            "most accurate": program.terms(dict(flows.accuracy)),
            "most served": program.terms({flows.served: 1.0}),
        }
        self._flows, self._loads = flows, flows.entries(program)
        self._counts, self._arcs = program.columns(counts.columns), program.columns(flows.columns)
        self._all_counts = np.concatenate([self._counts, program.columns(counts.sums)])
        self._served, self._servers = program.index[id(flows.served)], program.row_of(counts.row)
        self._floor, self._floor_entry = program.row_of(floor), program.entries(floor, [flows.served])
        self._now: dict[str, Any] = {"demand": (1.0, True), "floor": 0.0}
        self._impossible: dict[tuple[int, bool], float] = {}
        self._answers: OrderedDict[tuple[object, ...], tuple[Solved, list[float], list[float]]] = OrderedDict()
        self.values: list[float] = []
        self.flow: list[float] = []
        self._begin()

    def _begin(self) -> None:
        most = self.ask("most served", 1.0, USUAL_SERVERS, served=(0.0, None), integer=False, reserving=False)
        self.program.kept = False
        self.ask("most accurate", max(most.objective, 1e-6) / 2, USUAL_SERVERS, served=(0.0, 1.0), integer=False)

    def ask(
        self,
        goal: Goal,
        demand_rps: float,
        servers: int,
        served: tuple[float, float | None] = (1.0, 1.0),
        floor: tuple[float, float] = NO_FLOOR,
        counts: list[int] | None = None,
        start: list[int] | None = None,
        integer: bool = True,
        reserving: bool = True,
        time_limit_s: float = LONG_S,
    ) -> Solved:
        """The best way to reach the goal with a share `served` of the demand on at most so many servers.

        floor: (a, b): accuracy of all requests >= a x served + b. counts: these servers and no others. start: counts known
        to be possible. integer off: servers can be split. reserving off: none has to stay idle.
        """
        whole = served == (1.0, 1.0) and floor == NO_FLOOR and counts is None and integer
        if whole and demand_rps >= self._impossible.get((servers, reserving), inf):
            return Solved("infeasible", "Infeasible", nan, nan, 0.0, {})
        question = (goal, demand_rps, servers, served, floor, tuple(counts or ()), tuple(start or ()), integer, reserving)
        if question in self._answers:
            self._answers.move_to_end(question)
            solved, self.values, self.flow = self._answers[question]
            return solved
        self._tune((demand_rps, reserving), servers, served, floor)
        self._bind(servers, counts)
        self._aim(goal)
        known = None if start is None else self._known(start)
        solved, values = solve_again(self.program, time_limit_s, integer and counts is None, known)
        if whole and solved.outcome == "infeasible":
            # What is too much stays too much for any larger demand.
            self._impossible[servers, reserving] = demand_rps
        self._note(question, solved, values)
        return solved

    def _note(self, question: tuple[object, ...], solved: Solved, values: Floats | None) -> None:
        """Beyond what can be served at all every demand leads to the same questions."""
        self.values = [] if values is None else values[self._counts].tolist()
        self.flow = [] if values is None else values[self._arcs].tolist()
        if solved.outcome in ("optimal", "infeasible"):
            self._answers[question] = replace(solved, seconds=0.0), self.values, self.flow
            if len(self._answers) > ANSWERS:
                self._answers.popitem(last=False)

    def _tune(
        self, demand: tuple[float, bool], servers: int, served: tuple[float, float | None], floor: tuple[float, float]
    ) -> None:
        program = self.program
        if self._now["demand"] != demand:
            program.change(self._loads, self._flows.servers(*demand))
        if self._now["floor"] != floor[0]:
            program.change(self._floor_entry, np.array([-floor[0]]))
        self._now = {"demand": demand, "floor": floor[0]}
        program.row_lower[self._floor], program.row_upper[self._servers] = floor[1], servers
        program.lower[self._served], program.upper[self._served] = served[0], inf if served[1] is None else served[1]

    def _bind(self, servers: int, counts: list[int] | None) -> None:
        self.program.lower[self._all_counts], self.program.upper[self._all_counts] = 0, servers
        if counts:
            self.program.lower[self._counts] = self.program.upper[self._counts] = counts

    def _aim(self, goal: Goal) -> None:
        self.program.sign = 1.0 if goal == "fewest servers" else -1.0
        self.program.costs = self.program.sign * self._goals[goal]

    def _known(self, start: list[int]) -> Floats:
        values = np.full(len(self.program.variables), nan)
        values[self._counts] = start
        return values

    @property
    def counts(self) -> list[int]:
        """Servers per configuration in the last answer, whole."""
        return [round(value) for value in self.values]


class _Kept(local):
    """Of each thread its own: a PuLP problem is not to be shared."""

    def __init__(self) -> None:
        self.problems: OrderedDict[int, KeptProblem] = OrderedDict()


_kept = _Kept()


def kept_problem(network: Network) -> KeptProblem:
    """The problem of a network, from the last KEPT ones of this thread where possible.

    A kept problem holds its network, so the id cannot be taken over by another.
    """
    problems = _kept.problems
    if id(network) not in problems:
        problems[id(network)] = KeptProblem(network)
        while len(problems) > KEPT:
            problems.popitem(last=False)
    problems.move_to_end(id(network))
    return problems[id(network)]
