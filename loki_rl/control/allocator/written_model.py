"""Questions written down in PuLP, and their answers by HiGHS: what the search is held to. Nothing is kept."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from loki_rl.control.formulation.model import Counts, Flows, add_row, new_problem, set_objective
from loki_rl.control.formulation.network import Network
from loki_rl.control.formulation.problem import Problem, Question
from loki_rl.control.solver.pulp_highs import solve_written
from loki_rl.control.solver.solve import Solved


class Written:
    """A question about networks as a PuLP problem. units: prices of the types. floors, least: numbers of their rows."""

    def __init__(self, networks: tuple[Network, ...], units: list[float], question: Question) -> None:
        self.problem = new_problem(maximise=question.goal != "least price")
        self.counts = Counts(self.problem, [network.configurations for network in networks], question.servers, units)
        self.flows = [
            Flows(self.problem, network, demand, f"x{part:02d}_", served)
            for part, (network, demand, served) in enumerate(zip(networks, question.demands, question.served, strict=True))
        ]
        columns = iter(self.counts.columns)
        for flow, network in zip(self.flows, networks, strict=True):
            flow.fit(self.problem, [next(columns) for _ in network.configurations], question.reserving)
        self.floors = [
            add_row(self.problem, [*flow.accuracy, (flow.served, -a)], ">=", b)
            for flow, (a, b) in zip(self.flows, question.floors, strict=True)
        ]
        self.accuracy = [
            (column, weight * value)
            for flow, weight in zip(self.flows, question.weights, strict=True)
            for column, value in flow.accuracy
        ]
        self.least = add_row(self.problem, [*self.accuracy, (self.flows[0].served, 0.0)], ">=", question.least)
        self._restrict(question)
        self._aim(question)

    def _restrict(self, question: Question) -> None:
        """To given counts, and to what a part may hold of a type."""
        for column, count in zip(self.counts.columns, question.counts, strict=False):
            add_row(self.problem, [(column, 1.0)], "==", count)
        for key, (low, high) in question.holdings:
            add_row(self.problem, [(self.counts.holdings[key], 1.0)], ">=", low)
            add_row(self.problem, [(self.counts.holdings[key], 1.0)], "<=", high)

    def _aim(self, question: Question) -> None:
        served = [(flow.served, weight) for flow, weight in zip(self.flows, question.weights, strict=True)]
        goals = {"least price": self.counts.price, "most accurate": self.accuracy, "most served": served}
        set_objective(self.problem, goals[question.goal])


class WrittenModel(Problem):
    """Every question is written down and solved from nothing."""

    def answer(self, question: Question, time_limit_s: float) -> Solved:
        written = Written(self.networks, self.units, question)
        solved = solve_written(written.problem, time_limit_s, integer=question.integer and not question.counts)

        def found(columns: list[Any]) -> list[float]:
            return [solved.values.get(column.name, 0.0) for column in columns]

        self.values = found(written.counts.columns)
        self.flows = [found(flow.columns) for flow in written.flows]
        self.served = found([flow.served for flow in written.flows])
        if question.goal == "least price":
            return replace(solved, objective=solved.objective * self.unit, bound=solved.bound * self.unit)
        return solved
