"""A problem that is kept between calls: counts and flows of one network, of which a new question changes coefficients,
bounds and the objective only. Owns these changes and the keeping; knows no mode."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from fractions import Fraction
from math import gcd, inf, lcm, nan
from threading import local
from typing import Any, Literal

import pulp
from msgspec.structs import replace

from loki_rl.control.model import Counts, Flows, add_row, new_problem
from loki_rl.control.network import Network
from loki_rl.control.solver import Solved, solve_again

Goal = Literal["least price", "most accurate", "most served"]
# Least and most of the demand to serve, and a floor (a, b): accuracy of all requests >= a x served + b.
Span = tuple[float, float | None]
Floor = tuple[float, float]

KEPT = 16
ANSWERS = 64
GOALS = 16
ALL: Span = (1.0, 1.0)
ANY: Span = (0.0, 1.0)
NO_FLOOR: Floor = (0.0, -1.0)
NO_LEAST = -1.0
# Every question starts from the relaxation of half the demand that this many servers of each type can serve.
USUAL_SERVERS = 100
# For relaxations, which everything else starts from.
LONG_S = 10.0


class KeptProblem:
    """Ask, then read the answer before the next question. Equal questions get equal answers, whatever was asked before.

    networks: of the pipelines that share the cluster; what is asked per part is in their order. prices: of a server of each
    type. values: servers per configuration, part after part. flows: per part the flow per arc, as shares of the demand asked
    for. served: per part the share of it.
    """

    def __init__(self, networks: tuple[Network, ...], prices: tuple[float, ...]) -> None:
        self.networks = networks
        self.problem = new_problem(maximise=True)
        self._pools = (USUAL_SERVERS,) * len(prices)
        whole, self._unit = whole_prices(prices)
        self._counts = Counts(self.problem, [network.configurations for network in networks], self._pools, whole)
        self._flows = [Flows(self.problem, network, 1.0, f"x{part:02d}_") for part, network in enumerate(networks)]
        for flows, columns in zip(self._flows, self.split(self._counts.columns), strict=True):
            flows.fit(self.problem, columns)
        self._floors = [
            add_row(self.problem, [*flows.accuracy, (flows.served, 0.0)], ">=", NO_FLOOR[1]) for flows in self._flows
        ]
        self._weights = (1.0,) * len(networks)
        self._least = add_row(self.problem, [*self._weighed("accuracy"), (self._flows[0].served, 0.0)], ">=", NO_LEAST)
        self._goals: OrderedDict[tuple[object, ...], Any] = OrderedDict()
        self._now: dict[object, Any] = {"servers": self._pools, "least": NO_LEAST, "weights": self._weights}
        self._now |= {("demand", part): (1.0, True) for part in range(len(networks))}
        self._now |= {("floor", part): NO_FLOOR for part in range(len(networks))}
        self._impossible: dict[tuple[tuple[int, ...], bool], tuple[float, ...]] = {}
        self._answers: OrderedDict[tuple[object, ...], tuple[Solved, list[float], list[list[float]], list[float]]] = (
            OrderedDict()
        )
        self.values: list[float] = []
        self.flows: list[list[float]] = []
        self.served: list[float] = []
        self._begin()

    @property
    def configurations(self) -> list[tuple[int, Any]]:
        """What `values` count: (part, configuration)."""
        return self._counts.configurations

    @property
    def types(self) -> int:
        """Types of servers."""
        return len(self._pools)

    def split(self, values: Sequence[Any]) -> list[Sequence[Any]]:
        """Values per configuration, by part."""
        parts, start = [], 0
        for network in self.networks:
            parts.append(values[start : start + len(network.configurations)])
            start += len(network.configurations)
        return parts

    def _begin(self) -> None:
        parts = range(len(self.networks))
        most = []
        for part in parts:
            alone: list[Span] = [(0.0, None if part == other else 0.0) for other in parts]
            solved = self.ask("most served", (1.0,) * len(parts), self._pools, alone, integer=False, reserving=False)
            self.problem.solverModel.kept = False
            most.append(max(solved.objective, 1e-6) / 2 / len(parts))
        self.ask("most accurate", tuple(most), self._pools, [ANY for _ in parts], integer=False)

    def ask(
        self,
        goal: Goal,
        demands: tuple[float, ...],
        servers: tuple[int, ...],
        served: Sequence[Span] = (),
        floors: Sequence[Floor] = (),
        weights: tuple[float, ...] = (),
        least: float = NO_LEAST,
        holdings: dict[tuple[int, int], tuple[int, int]] | None = None,
        counts: Sequence[int] | None = None,
        start: Sequence[int] | None = None,
        integer: bool = True,
        reserving: bool = True,
        time_limit_s: float = LONG_S,
    ) -> Solved:
        """The best way to reach the goal with shares `served` (all if empty) of the demands on at most so many servers of
        each type.

        weights: of the parts, in what is served and accurate (1 if empty). least: of the weighed accuracies. holdings: of
        several parts how many servers one may have of a type, by (part, type). counts: these servers and no others. start:
        counts known to be possible. integer off: servers can be split. reserving off: none has to stay idle.
        """
        served, floors = tuple(served or (ALL for _ in demands)), tuple(floors or (NO_FLOOR for _ in demands))
        weights = weights or (1.0,) * len(demands)
        holdings = holdings or {}
        free = set(floors) == {NO_FLOOR} and least == NO_LEAST and not holdings
        whole = set(served) == {ALL} and free and counts is None and integer
        known = self._impossible.get((servers, reserving))
        if whole and known and all(demand >= too_much for demand, too_much in zip(demands, known, strict=True)):
            return Solved("infeasible", "Infeasible", nan, nan, 0.0, {})
        fleet, first, held = tuple(counts or ()), tuple(start or ()), tuple(sorted(holdings.items()))
        question = (goal, demands, servers, served, floors, weights, least, held, fleet, first, integer, reserving)
        if question in self._answers:
            self._answers.move_to_end(question)
            solved, self.values, self.flows, self.served = self._answers[question]
            return solved
        self._tune([(demand, reserving) for demand in demands], servers, served, floors, weights, least)
        self._bind(servers, holdings, counts, start)
        self.problem.sense = pulp.LpMinimize if goal == "least price" else pulp.LpMaximize
        self.problem.setObjective(self._goal(goal))
        solved = solve_again(self.problem, time_limit_s, integer and counts is None, start is not None)
        if goal == "least price":
            solved = replace(solved, objective=solved.objective * self._unit, bound=solved.bound * self._unit)
        if whole and solved.outcome == "infeasible":
            # What is too much stays too much for any larger demands.
            self._impossible[servers, reserving] = demands
        self._note(question, solved)
        return solved

    def _goal(self, goal: Goal) -> Any:
        key = (goal, self._weights)
        if key not in self._goals:
            terms = {"least price": self._counts.price, "most accurate": self._weighed("accuracy")}
            self._goals[key] = pulp.LpAffineExpression(terms.get(goal) or self._weighed("served"))
            if len(self._goals) > GOALS:
                self._goals.popitem(last=False)
        return self._goals[key]

    def _weighed(self, what: Literal["accuracy", "served"]) -> list[tuple[Any, float]]:
        return [
            (column, weight * value)
            for weight, flows in zip(self._weights, self._flows, strict=True)
            for column, value in (flows.accuracy if what == "accuracy" else [(flows.served, 1.0)])
        ]

    def _note(self, question: tuple[object, ...], solved: Solved) -> None:
        """Beyond what can be served at all every demand leads to the same questions."""
        self.values = [column.varValue for column in self._counts.columns]
        self.flows = [[column.varValue for column in flows.columns] for flows in self._flows]
        self.served = [flows.served.varValue for flows in self._flows]
        if solved.outcome in ("optimal", "infeasible"):
            self._answers[question] = replace(solved, seconds=0.0), self.values, self.flows, self.served
            if len(self._answers) > ANSWERS:
                self._answers.popitem(last=False)

    def _tune(
        self,
        demands: Sequence[tuple[float, bool]],
        servers: tuple[int, ...],
        served: Sequence[Span],
        floors: Sequence[Floor],
        weights: tuple[float, ...],
        least: float,
    ) -> None:
        for part, flows in enumerate(self._flows):
            self._set(("demand", part), demands[part], lambda demand, flows=flows: flows.rescale(*demand))
            self._set(("floor", part), floors[part], lambda floor, part=part: self._set_floor(part, floor))
            flows.served.bounds(*served[part])
        self._set("servers", servers, self._set_servers)
        self._set("weights", weights, self._set_weights)
        self._set("least", least, self._least.changeRHS)

    def _bind(
        self,
        servers: tuple[int, ...],
        holdings: dict[tuple[int, int], tuple[int, int]],
        counts: Sequence[int] | None,
        start: Sequence[int] | None,
    ) -> None:
        for k, (column, (_, c)) in enumerate(zip(self._counts.columns, self._counts.configurations, strict=True)):
            column.bounds(*((counts[k], counts[k]) if counts else (0, servers[c.pool])))
            column.varValue = start[k] if start else None
        for total, pool in self._counts.sums:
            total.bounds(0, servers[pool])
            total.varValue = None
        for (part, pool), total in self._counts.holdings.items():
            total.bounds(*holdings.get((part, pool), (0, servers[pool])))
            total.varValue = None

    def _set(self, name: object, value: Any, change: Any) -> None:
        if self._now[name] != value:
            self._now[name] = value
            change(value)

    def _set_servers(self, servers: tuple[int, ...]) -> None:
        for row, count in zip(self._counts.rows, servers, strict=True):
            row.changeRHS(count)

    def _set_weights(self, weights: tuple[float, ...]) -> None:
        self._weights = weights
        for column, value in self._weighed("accuracy"):
            self._least.expr[column] = value
        self._least.modified = True

    def _set_floor(self, part: int, floor: Floor) -> None:
        self._floors[part].expr[self._flows[part].served] = -floor[0]
        self._floors[part].changeRHS(floor[1])

    @property
    def counts(self) -> list[int]:
        """Servers per configuration in the last answer, whole."""
        return [round(value) for value in self.values]


def whole_prices(prices: Sequence[float]) -> tuple[list[float], float]:
    """Prices as small whole numbers of one unit where they are such (a search may then round), and that unit."""
    parts = [Fraction(price / max(prices)).limit_denominator(1000) for price in prices]
    scale = lcm(*(part.denominator for part in parts))
    numbers = [int(part * scale) for part in parts]
    numbers = [number // gcd(*numbers) for number in numbers]
    unit = prices[0] / numbers[0] if all(numbers) else inf
    if all(abs(number * unit - price) <= 1e-12 * price for number, price in zip(numbers, prices, strict=True)):
        return [float(number) for number in numbers], unit
    return [price / max(prices) for price in prices], max(prices)


class _Kept(local):
    """Of each thread its own: a PuLP problem is not to be shared."""

    def __init__(self) -> None:
        self.problems: OrderedDict[tuple[object, ...], KeptProblem] = OrderedDict()


_kept = _Kept()


def kept_problem(networks: tuple[Network, ...], prices: tuple[float, ...]) -> KeptProblem:
    """The problem of the networks, from the last KEPT ones of this thread where possible.

    A kept problem holds its networks, so their ids cannot be taken over by others.
    """
    problems, key = _kept.problems, (prices, *map(id, networks))
    if key not in problems:
        problems[key] = KeptProblem(networks, prices)
        while len(problems) > KEPT:
            problems.popitem(last=False)
    problems.move_to_end(key)
    return problems[key]
