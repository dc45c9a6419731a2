"""Questions answered by branch and price, and by the reference where there is doubt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from math import inf, nan
from threading import local
from time import perf_counter
from typing import Any, TypeVar

import numpy as np

from loki_rl.control.allocator.written_model import WrittenModel
from loki_rl.control.branch_and_price.joint import relax
from loki_rl.control.branch_and_price.master_problem import Layout, MasterProblem, Part
from loki_rl.control.branch_and_price.pricing import LATE
from loki_rl.control.branch_and_price.restriction import begun, likely, search
from loki_rl.control.branch_and_price.route_pricing import Graph, best_routes, graph_of, restrict, servers_per_flow
from loki_rl.control.branch_and_price.search import Answer
from loki_rl.control.compiled import njit
from loki_rl.control.formulation.configurations import Configuration
from loki_rl.control.formulation.network import Arc, Network, State
from loki_rl.control.formulation.problem import Problem, Question, Span
from loki_rl.control.formulation.request import Solver
from loki_rl.control.lru import Lru
from loki_rl.control.solver.simplex import OPTIMAL, Floats
from loki_rl.control.solver.solve import GAP, Outcome, Solved

Kept = TypeVar("Kept")

KEPT = 16
# With more arcs a fleet's flow is looked for among its own configurations.
WIDE_ARCS = 600

_OUTCOMES: dict[str, tuple[Outcome, str]] = {
    "optimal": ("optimal", "Optimal"),
    "infeasible": ("infeasible", "Infeasible"),
    "limit": ("feasible", "Time limit"),
}


class ImplicitModel(Problem):
    """Flows are told where servers can be split or their counts are given."""

    # Its search begins near the relaxation, with bounds that are no worse.
    coarse = False

    def __init__(self, networks: tuple[Network, ...], prices: tuple[float, ...]) -> None:
        super().__init__(networks, prices)
        self.graphs = [graph_of(network) for network in networks]
        self.layout = Layout([network.configurations for network in networks], len(prices))

    def answer(self, question: Question, time_limit_s: float) -> Solved:
        began = perf_counter()
        asked = _Asked(self, question, began + time_limit_s)
        answer = asked.fleet() if question.integer and not question.counts else asked.relaxed(question.counts)
        if answer.outcome == "doubt":
            return self._written(question, began + time_limit_s - perf_counter())
        found = answer.counts is not None
        self.values = [0.0] * len(self.configurations) if answer.counts is None else answer.counts.tolist()
        self.served = [0.0] * len(self.graphs) if answer.served is None else (answer.served * asked.scales).tolist()
        self.flows = [] if answer.flow is None else self._told(answer.flow, asked.scales)
        outcome, status = _OUTCOMES[answer.outcome]
        outcome = "unknown" if outcome == "feasible" and not found else outcome
        objective, bound = float(answer.objective * asked.unit), float(answer.bound * asked.unit)
        return Solved(outcome, status, objective if found else nan, bound, perf_counter() - began, {})

    def _written(self, question: Question, time_limit_s: float) -> Solved:
        """Where rounding errors leave doubt: the reference."""
        written = WrittenModel(self.networks, self.prices)
        solved = written.answer(question, time_limit_s)
        self.values, self.served, self.flows = written.values, written.served, written.flows
        return solved

    def _told(self, flow: Floats, scales: Floats) -> list[list[float]]:
        """Per part the flow per arc of its network."""
        found, begin = [], 0
        for graph, scale in zip(self.graphs, scales, strict=True):
            mine = np.zeros(len(graph.number))
            mine[graph.number] = scale * flow[begin : begin + len(mine)]
            begin += len(mine)
            found.append(mine.tolist())
        return found


class _Asked:
    """A question as a joint problem. scales: what a share 1 of a part is there of its demand. unit: what an objective of 1
    is in the goal's own."""

    def __init__(self, problem: ImplicitModel, question: Question, end: float) -> None:
        self._problem, self._question, self._end = problem, question, end
        self.scales = np.array([self._scale(p, span) for p, span in enumerate(question.served)])
        weights = self.scales * np.array(question.weights)
        size = float(weights.max())
        parts = [self._part(p, weight / size) for p, weight in enumerate(weights.tolist())]
        least = question.least / size if question.least > -1 else -1.0
        self.joint = MasterProblem(
            question.goal, parts, question.servers, problem.layout, problem.prices, least, dict(question.holdings)
        )
        self.unit = self.joint.unit * (1.0 if question.goal == "least price" else size)

    def _scale(self, p: int, served: Span) -> float:
        """Where the share has no limit, the most there can be, so that shares are of size 1."""
        if served[1] is not None:
            return 1.0
        graph = self._problem.graphs[p]
        alike = np.append(np.ones(len(graph.rate) - 1), 0.0)
        needed = float(best_routes(graph, self._servers(p, graph), alike, 0.0)[0])
        # A network may have no route at all, or one without work.
        return sum(self._question.servers) / -needed if 0 < -needed < inf else 1.0

    def _part(self, p: int, weight: float) -> Part:
        question, scale = self._question, self.scales[p]
        low, high = question.served[p]
        a, b = question.floors[p]
        return Part(
            self._problem.graphs[p],
            self._problem.networks[p].configurations,
            self.needs(p, self._problem.graphs[p]),
            weight,
            (low / scale, 1.0 if high is None else high),
            (a, b if b <= -1 else b / scale),
        )

    def _servers(self, p: int, graph: Graph) -> Floats:
        return servers_per_flow(graph, self._question.demands[p], self._question.reserving)

    def needs(self, p: int, graph: Graph) -> Floats:
        """[arc] = servers for a share 1 of a part."""
        scaled: Floats = self._servers(p, graph) * self.scales[p]
        return scaled

    def _left_s(self) -> float:
        return self._end - perf_counter()

    def fleet(self) -> Answer:
        """The best whole servers."""
        step = self._problem.step / self.joint.unit if self.joint.goal == "least price" else 0.0
        start = self._question.start if self._fits(self._question.start) else ()
        if start and self.joint.goal == "least price":
            known: Answer | None = Answer("optimal", self._problem.price(start) / self.joint.unit, counts=np.array(start))
        else:
            known = self.relaxed(start, telling=False) if start else None
        return search(self.joint, self._problem.networks, self.needs, GAP, step, self._left_s, known)

    def _fits(self, counts: Sequence[int]) -> bool:
        """Whether these servers are what each part may hold. (A relaxation has servers without use that are in no count.)"""
        held = dict.fromkeys(self.joint.holdings, 0)
        for (part, c), count in zip(self._problem.configurations, counts, strict=False):
            if (part, c.pool) in held:
                held[part, c.pool] += count
        return all(low <= held[key] <= high for key, (low, high) in self.joint.holdings.items())

    def relaxed(self, counts: Sequence[int], telling: bool = True) -> Answer:
        """Where servers can be split; or with these counts and no others, if there are any; telling: the flow as
        well."""
        relaxation, layout = relax(self.joint, self._left_s, telling), self.joint.layout
        if counts:
            relaxation.upper[layout.counts] = counts
            relaxation.hold(layout.counts[np.flatnonzero(counts)])
        outcome, bound = relaxation.solve()
        if bound >= relaxation.worst:
            return Answer("infeasible")
        settled = {OPTIMAL: "optimal", LATE: "limit"}.get(outcome, "doubt")
        found = relaxation.read()
        if settled == "doubt" or not found.serves:
            return Answer("limit" if outcome == LATE else "doubt", bound=bound)
        used, served = np.array(counts) if counts else found.usage[layout.counts], found.usage[layout.served]
        return Answer(settled, found.objective, bound, used, served, flow=found.flow if telling else None)


@cache
def warm() -> None:
    """Load the compiled code, or compile it (once per installation, about a minute), before a time limit runs."""
    configurations = tuple(Configuration(0, v, 1, 1, 10.0 * (1 + v), 0.1) for v in range(2))
    states = (State(0, (), 2, 1.0, 1.0), State(0, (), 1, 1.0, 0.0))
    arcs = (Arc(0, 0, 1.0, 0.1, 1.0, ()), Arc(0, -1, 0.0, 0.0, 0.0, ((1, 1.0),)), Arc(1, 1, 1.0, 0.1, 0.5, ()))
    network = Network(configurations, states, arcs)
    model = ImplicitModel((network,), (1.0,))
    model.ask("most accurate", (33.0,), (3,))
    model.ask("most accurate", (33.0,), (3,), counts=(1, 2))
    (graph,) = model.graphs
    part = Part(graph, configurations, servers_per_flow(graph, 33.0))
    joint = MasterProblem("most accurate", [part], (3,), model.layout)
    few = begun(joint, GAP, 0.0, lambda: 1.0)
    few.round()
    few.relaxation.idle(model.layout.models)
    likely(joint, few.relaxation, 1)
    restrict(network, graph, (0, 1))


class _Kept(local):
    """Of each thread its own: a problem is not to be shared."""

    def __init__(self) -> None:
        self.problems: Lru[Any] = Lru(KEPT)


_kept = _Kept()


def keep(key: tuple[object, ...], make: Callable[[], Kept]) -> Kept:
    """What was made under that key, from the last KEPT problems of this thread where possible."""
    kept: Kept = _kept.problems.get(key, make)
    return kept


def problem_of(networks: tuple[Network, ...], prices: tuple[float, ...], solver: Solver) -> Problem:
    """The problem of the networks, from the last ones of this thread where possible: it holds them, so their ids cannot be
    taken over by others. Without machine code the search is slower than the reference, but where that cannot be written."""
    written = solver == "pulp" or (njit is None and not is_wide(networks))
    kind = WrittenModel if written else ImplicitModel
    return keep((kind, prices, *map(id, networks)), lambda: kind(networks, prices))


def is_wide(networks: Sequence[Network]) -> bool:
    """Whether networks are too large to be looked at whole for a flow."""
    return sum(len(network.arcs) for network in networks) > WIDE_ARCS


def narrowed(network: Network, counts: Sequence[int]) -> tuple[Network, list[int]]:
    """The network of a fleet's own configurations, and its counts; for ways without items also each task's fastest."""
    fastest: dict[int, int] = {}
    for k, c in enumerate(network.configurations):
        if c.task not in fastest or c.cost_us < network.configurations[fastest[c.task]].cost_us:
            fastest[c.task] = k
    keep = sorted({*fastest.values(), *(k for k, count in enumerate(counts) if count)})
    return restrict(network, graph_of(network), keep), [counts[k] for k in keep]
