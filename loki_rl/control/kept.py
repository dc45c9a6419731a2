"""A problem that is kept between calls: counts and flows of one network, of which a new question changes coefficients,
bounds and the objective only. Owns these changes and the keeping; knows no mode."""

from __future__ import annotations

from collections import OrderedDict
from math import inf, nan
from threading import local
from typing import Any, Literal

import pulp
from msgspec.structs import replace

from loki_rl.control.model import Counts, Flows, add_row, new_problem
from loki_rl.control.network import Network
from loki_rl.control.solver import Solved, solve_again

Goal = Literal["fewest servers", "most accurate", "most served"]

KEPT = 16
ANSWERS = 64
NO_FLOOR = (0.0, -1.0)
# Every question starts from the relaxation of half the demand that this many servers can serve.
USUAL_SERVERS = 100
LONG_S = 10.0


class KeptProblem:
    """Ask, then read the answer before the next question. Equal questions get equal answers, whatever was asked before.

    values: servers per configuration. flow: flow per arc, as shares of the demand asked for.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.problem = new_problem(maximise=True)
        self._counts = Counts(self.problem, network.configurations, USUAL_SERVERS)
        self._flows = Flows(self.problem, network, 1.0)
        self._flows.fit(self.problem, self._counts.columns)
        self._floor = add_row(self.problem, [*self._flows.accuracy, (self._flows.served, 0.0)], ">=", NO_FLOOR[1])
        self._goals = {
            "fewest servers": pulp.LpAffineExpression(self._counts.all_servers),
            "most accurate": pulp.LpAffineExpression(self._flows.accuracy),
            "most served": pulp.LpAffineExpression([(self._flows.served, 1.0)]),
        }
        self._now: dict[str, Any] = {"demand": (1.0, True), "servers": USUAL_SERVERS, "floor": NO_FLOOR}
        self._impossible: dict[tuple[int, bool], float] = {}
        self._answers: OrderedDict[tuple[object, ...], tuple[Solved, list[float], list[float]]] = OrderedDict()
        self.values: list[float] = []
        self.flow: list[float] = []
        self._begin()

    def _begin(self) -> None:
        most = self.ask("most served", 1.0, USUAL_SERVERS, served=(0.0, None), integer=False, reserving=False)
        self.problem.solverModel.kept = False
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
        self._bind(servers, counts, start)
        self.problem.sense = pulp.LpMinimize if goal == "fewest servers" else pulp.LpMaximize
        self.problem.setObjective(self._goals[goal])
        solved = solve_again(self.problem, time_limit_s, integer and counts is None, start is not None)
        if whole and solved.outcome == "infeasible":
            # What is too much stays too much for any larger demand.
            self._impossible[servers, reserving] = demand_rps
        self._note(question, solved)
        return solved

    def _note(self, question: tuple[object, ...], solved: Solved) -> None:
        """Beyond what can be served at all every demand leads to the same questions."""
        self.values = [column.varValue for column in self._counts.columns]
        self.flow = [column.varValue for column in self._flows.columns]
        if solved.outcome in ("optimal", "infeasible"):
            self._answers[question] = replace(solved, seconds=0.0), self.values, self.flow
            if len(self._answers) > ANSWERS:
                self._answers.popitem(last=False)

    def _tune(
        self, demand: tuple[float, bool], servers: int, served: tuple[float, float | None], floor: tuple[float, float]
    ) -> None:
        self._set("demand", demand, lambda demand: self._flows.rescale(*demand))
        self._set("servers", servers, self._counts.row.changeRHS)
        self._set("floor", floor, self._set_floor)
        self._flows.served.bounds(*served)

    def _bind(self, servers: int, counts: list[int] | None, start: list[int] | None) -> None:
        for k, column in enumerate(self._counts.columns):
            column.bounds(*((counts[k], counts[k]) if counts else (0, servers)))
            column.varValue = start[k] if start else None
        for total in self._counts.sums:
            total.bounds(0, servers)
            total.varValue = None

    def _set(self, name: str, value: Any, change: Any) -> None:
        if self._now[name] != value:
            self._now[name] = value
            change(value)

    def _set_floor(self, floor: tuple[float, float]) -> None:
        self._floor.expr[self._flows.served] = -floor[0]
        self._floor.changeRHS(floor[1])

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
