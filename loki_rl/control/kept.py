"""A problem that is kept between calls: counts and flows of one network, of which a new question changes coefficients,
bounds and the objective only. Owns these changes and the keeping; knows no mode."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from fractions import Fraction
from math import gcd, inf, lcm, nan
from threading import local
from typing import Any, Literal, TypeVar

import numpy as np
from msgspec.structs import replace

from loki_rl.control.model import Counts, Flows, add_row, new_problem, set_objective
from loki_rl.control.network import Network
from loki_rl.control.program import Program
from loki_rl.control.simplex import Floats, Indices
from loki_rl.control.solver import Solved, solve_again

Goal = Literal["least price", "most accurate", "most served"]
# Least and most of the demand to serve, and a floor (a, b): accuracy of all requests >= a x served + b.
Span = tuple[float, float | None]
Floor = tuple[float, float]

Kept = TypeVar("Kept")

KEPT = 16
ANSWERS = 64
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
    type. step: by which prices of fleets differ at least. values: servers per configuration, part after part. flows: per
    part the flow per arc, as shares of the demand asked for. served: per part the share of it.
    """

    def __init__(self, networks: tuple[Network, ...], prices: tuple[float, ...]) -> None:
        self.networks = networks
        self._parts = range(len(networks))
        self._pools = (USUAL_SERVERS,) * len(prices)
        whole, self._unit = whole_prices(prices)
        self._prices, self.step = prices, self._unit if all(map(float.is_integer, whole)) else 0.0
        problem = new_problem(maximise=True)
        counts = Counts(problem, [network.configurations for network in networks], self._pools, whole)
        flows = [Flows(problem, network, 1.0, f"x{part:02d}_") for part, network in enumerate(networks)]
        for flow, columns in zip(flows, self.split(counts.columns), strict=True):
            flow.fit(problem, columns)
        floors = [add_row(problem, [*flow.accuracy, (flow.served, 0.0)], ">=", NO_FLOOR[1]) for flow in flows]
        accuracy = [term for flow in flows for term in flow.accuracy]
        least = add_row(problem, [*accuracy, (flows[0].served, 0.0)], ">=", NO_LEAST)
        set_objective(problem, accuracy)
        self.program = Program(problem)
        self.configurations: list[tuple[int, Any]] = counts.configurations
        self._place(counts, flows, floors, least)
        self._now: dict[object, Any] = {"weights": (1.0,) * len(networks)}
        self._impossible: dict[tuple[tuple[int, ...], bool], tuple[float, ...]] = {}
        self._answers: OrderedDict[tuple[object, ...], tuple[Solved, list[float], list[list[float]], list[float]]] = (
            OrderedDict()
        )
        self.values: list[float] = []
        self.flows: list[list[float]] = []
        self.served: list[float] = []
        self._begin()

    def _place(self, counts: Counts, flows: list[Flows], floors: list[Any], least: Any) -> None:
        """Where the program holds what changes."""
        program = self.program
        self._counts = program.columns(counts.columns)
        self._wholes = np.concatenate([self._counts, program.columns([total for total, _ in counts.sums])])
        self._pool_of = np.array([c.pool for _, c in counts.configurations] + [pool for _, pool in counts.sums])
        self._holdings = {key: program.index[id(total)] for key, total in counts.holdings.items()}
        self._rows = np.array([program.row_of(row) for row in counts.rows])
        self._price = program.terms(dict(counts.price))
        self._accuracies = [program.terms(dict(flow.accuracy)) for flow in flows]
        self._arcs = [program.columns(flow.columns) for flow in flows]
        self._served = [program.index[id(flow.served)] for flow in flows]
        self._needs, self._loads = [flow.servers for flow in flows], [flow.entries(program) for flow in flows]
        self._floor_rows = [program.row_of(row) for row in floors]
        self._floors = [program.entries(row, [flow.served]) for row, flow in zip(floors, flows, strict=True)]
        self._least_row = program.row_of(least)
        self._leasts = program.entries(least, [column for flow in flows for column, _ in flow.accuracy])

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

    def price(self, counts: Sequence[int]) -> float:
        """Of a fleet."""
        return float(sum(count * self._prices[c.pool] for count, (_, c) in zip(counts, self.configurations, strict=True)))

    def _begin(self) -> None:
        most = []
        for part in self._parts:
            alone: list[Span] = [(0.0, None if part == other else 0.0) for other in self._parts]
            solved = self.ask("most served", (1.0,) * len(self._parts), self._pools, alone, integer=False, reserving=False)
            self.program.kept = False
            most.append(max(solved.objective, 1e-6) / 2 / len(self._parts))
        self.ask("most accurate", tuple(most), self._pools, [ANY for _ in self._parts], integer=False)

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
        given = (tuple(sorted(holdings.items())), tuple(counts or ()), tuple(start or ()))
        question = (goal, demands, servers, served, floors, weights, least, given, integer, reserving)
        if question in self._answers:
            self._answers.move_to_end(question)
            solved, self.values, self.flows, self.served = self._answers[question]
            return solved
        self._tune([(demand, reserving) for demand in demands], [a for a, _ in floors], weights)
        self._bound(servers, served, [b for _, b in floors], least, holdings, counts)
        self._aim(goal, weights)
        first = self._known(start) if start else None
        solved, values = solve_again(self.program, time_limit_s, integer and counts is None, first)
        if goal == "least price":
            solved = replace(solved, objective=solved.objective * self._unit, bound=solved.bound * self._unit)
        if whole and solved.outcome == "infeasible":
            # What is too much stays too much for any larger demands.
            self._impossible[servers, reserving] = demands
        self._note(question, solved, values)
        return solved

    def _note(self, question: tuple[object, ...], solved: Solved, values: Floats | None) -> None:
        """Beyond what can be served at all every demand leads to the same questions."""
        found = np.zeros(len(self.program.variables)) if values is None else values
        self.values, self.served = found[self._counts].tolist(), found[self._served].tolist()
        self.flows = [found[arcs].tolist() for arcs in self._arcs]
        if solved.outcome in ("optimal", "infeasible"):
            self._answers[question] = replace(solved, seconds=0.0), self.values, self.flows, self.served
            if len(self._answers) > ANSWERS:
                self._answers.popitem(last=False)

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

    def _bound(
        self,
        servers: tuple[int, ...],
        served: Sequence[Span],
        floors: Sequence[float],
        least: float,
        holdings: dict[tuple[int, int], tuple[int, int]],
        counts: Sequence[int] | None,
    ) -> None:
        program = self.program
        program.lower[self._wholes], program.upper[self._wholes] = 0, np.array(servers)[self._pool_of]
        if counts:
            program.lower[self._counts] = program.upper[self._counts] = counts
        for (part, pool), total in self._holdings.items():
            program.lower[total], program.upper[total] = holdings.get((part, pool), (0, servers[pool]))
        program.row_upper[self._rows] = servers
        program.row_lower[self._floor_rows], program.row_lower[self._least_row] = floors, least
        program.lower[self._served] = [low for low, _ in served]
        program.upper[self._served] = [inf if high is None else high for _, high in served]

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
    """Of each thread its own: a program is not to be shared."""

    def __init__(self) -> None:
        self.problems: OrderedDict[tuple[object, ...], Any] = OrderedDict()


_kept = _Kept()


def keep(key: tuple[object, ...], make: Callable[[], Kept]) -> Kept:
    """What was made under that key, from the last KEPT problems of this thread where possible."""
    problems = _kept.problems
    if key not in problems:
        problems[key] = make()
        while len(problems) > KEPT:
            problems.popitem(last=False)
    problems.move_to_end(key)
    kept: Kept = problems[key]
    return kept


def kept_problem(networks: tuple[Network, ...], prices: tuple[float, ...]) -> KeptProblem:
    """The problem of the networks. It holds them, so their ids cannot be taken over by others."""
    return keep((prices, *map(id, networks)), lambda: KeptProblem(networks, prices))
