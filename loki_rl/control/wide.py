"""A problem too large to be written down: the questions of a kept problem, answered by branch and price. Owns their
translation and what is remembered; knows no mode."""

from __future__ import annotations

from collections import OrderedDict
from math import nan
from time import perf_counter
from typing import Literal

import numpy as np
from msgspec.structs import replace

from loki_rl.control.fleets import Answer
from loki_rl.control.highs import Outcome
from loki_rl.control.hull import Graph, best_routes, graph_of, restrict, servers_per_flow
from loki_rl.control.likely import search
from loki_rl.control.network import Network
from loki_rl.control.pricing import Joint, Part, Relaxation
from loki_rl.control.simplex import OPTIMAL, Floats
from loki_rl.control.solver import GAP, Solved

# Networks with more arcs are searched so; measured, smaller ones are sooner written down.
WIDE_ARCS = 1500
ANSWERS = 64

_OUTCOMES: dict[str, tuple[Outcome, str]] = {
    "optimal": ("optimal", "Optimal"),
    "infeasible": ("infeasible", "Infeasible"),
    "limit": ("feasible", "Time limit"),
    "doubt": ("feasible", "Doubt"),
}


class WideProblem:
    """Ask as a kept problem. values: servers per configuration in the last answer, empty if there is none."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._graph = graph_of(network)
        self._answers: OrderedDict[tuple[object, ...], tuple[Solved, list[float]]] = OrderedDict()
        self.values: list[float] = []

    @property
    def counts(self) -> list[int]:
        """Servers per configuration in the last answer, whole."""
        return [round(value) for value in self.values]

    def narrowed(self, counts: list[int]) -> tuple[Network, list[int]]:
        """The network of a fleet's own configurations, and its counts. Where a task gets no items its fastest gets them."""
        configurations = self.network.configurations
        fastest = dict(sorted(((c.task, k) for k, c in enumerate(configurations)), key=lambda at: -configurations[at[1]].cost_us))
        keep = sorted({*fastest.values(), *(k for k, count in enumerate(counts) if count)})
        return restrict(self.network, self._graph, keep), [counts[k] for k in keep]

    def ask(
        self,
        goal: Literal["fewest servers", "most accurate", "most served"],
        demand_rps: float,
        servers: int,
        served: tuple[float, float | None] = (1.0, 1.0),
        floor: tuple[float, float] = (0.0, -1.0),
        counts: list[int] | None = None,
        start: list[int] | None = None,
        integer: bool = True,
        reserving: bool = True,
        time_limit_s: float = 10.0,
    ) -> Solved:
        """The best way to reach a goal, as `KeptProblem.ask` says."""
        fleet, first = tuple(counts or ()), tuple(start or ())
        question = (goal, demand_rps, servers, served, floor, fleet, first, integer, reserving)
        if question in self._answers:
            self._answers.move_to_end(question)
            solved, self.values = self._answers[question]
            return solved
        began = perf_counter()
        asked = _Question(self.network, self._graph, goal, demand_rps, servers, served, floor, reserving, began + time_limit_s)
        answer = asked.fleet(start) if integer and counts is None else asked.relaxed(counts)
        self.values = [] if answer.counts is None else answer.counts.tolist()
        outcome, status = _OUTCOMES[answer.outcome]
        outcome = "unknown" if outcome == "feasible" and not self.values else outcome
        objective, bound = (float(value * asked.unit) for value in (answer.objective, answer.bound))
        solved = Solved(outcome, status, objective if self.values else nan, bound, perf_counter() - began, {})
        if outcome in ("optimal", "infeasible"):
            self._answers[question] = replace(solved, seconds=0.0), self.values
            if len(self._answers) > ANSWERS:
                self._answers.popitem(last=False)
        return solved


class _Question:
    """One question as a joint problem of one part. unit: what 1 of its objective is in the goal's own."""

    def __init__(
        self,
        network: Network,
        graph: Graph,
        goal: Literal["fewest servers", "most accurate", "most served"],
        demand_rps: float,
        servers: int,
        served: tuple[float, float | None],
        floor: tuple[float, float],
        reserving: bool,
        end: float,
    ) -> None:
        self._network, self._demand, self._reserving, self._end = network, demand_rps, reserving, end
        self._scale = 1.0
        self._scale = 1.0 if served[1] is not None else servers / self._least_servers(graph)
        span = (served[0] / self._scale, 1.0 if served[1] is None else served[1])
        part = Part(graph, network.configurations, self._needs(0, graph), served=span, floor=floor)
        self.joint = Joint("least price" if goal == "fewest servers" else goal, [part], [servers])
        self.unit = self.joint.unit * self._scale

    def _needs(self, _: int, graph: Graph) -> Floats:
        return servers_per_flow(graph, self._demand, self._reserving) * self._scale

    def _least_servers(self, graph: Graph) -> float:
        """For the whole demand."""
        prices = np.append(np.ones(len(graph.rate) - 1), 0.0)
        return -float(best_routes(graph, self._needs(0, graph), prices, 0.0)[0])

    def _left_s(self) -> float:
        return self._end - perf_counter()

    def fleet(self, start: list[int] | None) -> Answer:
        step = 1 / self.joint.unit if self.joint.goal == "least price" else 0.0
        known = None
        if start is not None:
            cheap = Answer("optimal", sum(start) * step, counts=np.array(start))
            known = cheap if step else self.relaxed(start)
        return search(self.joint, [self._network], self._needs, GAP, step, self._left_s, known)

    def relaxed(self, counts: list[int] | None) -> Answer:
        """Where servers can be split, or with these and no others."""
        relaxation = Relaxation(self.joint, self._left_s)
        layout = relaxation.layout
        if counts is not None:
            relaxation.upper[layout.counts] = counts
            for k in np.flatnonzero(counts):
                relaxation.hold(int(layout.counts[k]))
        outcome, bound = relaxation.solve()
        if outcome != OPTIMAL:
            return Answer("doubt", bound=bound)
        if not relaxation.serves(bound):
            return Answer("infeasible")
        usage = relaxation.usage()[layout.counts] if counts is None else np.array(counts)
        return Answer("optimal", relaxation.objective, bound, usage)
