"""What can be asked of pipelines that share a cluster, and what is remembered of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from fractions import Fraction
from math import gcd, inf, lcm, nan
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from loki_rl.control.formulation.configurations import Configuration
from loki_rl.control.formulation.network import Network
from loki_rl.control.solver.solve import Solved

Goal = Literal["least price", "most accurate", "most served"]
# Least and most of the demand to serve, and a floor (a, b): accuracy of all requests >= a x served + b.
Span = tuple[float, float | None]
Floor = tuple[float, float]

ANSWERS = 64
ALL: Span = (1.0, 1.0)
ANY: Span = (0.0, 1.0)
NO_FLOOR: Floor = (0.0, -1.0)
NO_LEAST = -1.0
# For relaxations, which everything else starts from.
LONG_S = 10.0


class Question(Struct, frozen=True):
    """As the arguments of `Problem.ask`, nothing left out."""

    goal: Goal
    demands: tuple[float, ...]
    servers: tuple[int, ...]
    served: tuple[Span, ...]
    floors: tuple[Floor, ...]
    weights: tuple[float, ...]
    least: float
    holdings: tuple[tuple[tuple[int, int], tuple[int, int]], ...]
    counts: tuple[int, ...]
    start: tuple[int, ...]
    integer: bool
    reserving: bool

    @property
    def plain(self) -> bool:
        """Whether it is only how well these servers can serve these demands whole."""
        free = set(self.floors) == {NO_FLOOR} and self.least == NO_LEAST and not self.holdings
        return free and set(self.served) == {ALL} and not self.counts and self.integer


class Problem(ABC):
    """Ask, then read the answer before the next question. Equal questions get equal answers, whatever was asked before.

    networks: of the pipelines that share the cluster; what is asked per part is in their order. prices: of a server of each
    type. step: by which prices of fleets differ at least, 0 if that can be anything. values: servers per configuration, part
    after part. flows: per part the flow per arc, as shares of the demand asked for; empty where they are not known. served:
    per part the share of it.
    """

    # Whether what is found at the time limit may be far from the relaxation.
    coarse = True

    def __init__(self, networks: tuple[Network, ...], prices: tuple[float, ...]) -> None:
        self.networks, self.prices = networks, prices
        self.units, self.unit = whole_prices(prices)
        self.step = self.unit if all(map(float.is_integer, self.units)) else 0.0
        self.configurations: list[tuple[int, Configuration]] = [
            (part, c) for part, network in enumerate(networks) for c in network.configurations
        ]
        self.values: list[float] = []
        self.flows: list[list[float]] = []
        self.served: list[float] = []
        self._impossible: dict[tuple[tuple[int, ...], bool], tuple[float, ...]] = {}
        self._answers: OrderedDict[Question, tuple[Solved, list[float], list[list[float]], list[float]]] = OrderedDict()

    @property
    def types(self) -> int:
        """Types of servers."""
        return len(self.prices)

    @property
    def counts(self) -> list[int]:
        """Servers per configuration in the last answer, whole."""
        return [round(value) for value in self.values]

    def split(self, values: Sequence[Any]) -> list[Sequence[Any]]:
        """Values per configuration, by part."""
        parts, start = [], 0
        for network in self.networks:
            parts.append(values[start : start + len(network.configurations)])
            start += len(network.configurations)
        return parts

    def price(self, counts: Sequence[int]) -> float:
        """Of a fleet."""
        return float(sum(count * self.prices[c.pool] for count, (_, c) in zip(counts, self.configurations, strict=True)))

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
        question = Question(
            goal,
            demands,
            servers,
            tuple(served or (ALL for _ in demands)),
            tuple(floors or (NO_FLOOR for _ in demands)),
            weights or (1.0,) * len(demands),
            least,
            tuple(sorted((holdings or {}).items())),
            tuple(counts or ()),
            tuple(start or ()),
            integer,
            reserving,
        )
        if self._known_impossible(question):
            return Solved("infeasible", "Infeasible", nan, nan, 0.0, {})
        if question in self._answers:
            self._answers.move_to_end(question)
            solved, self.values, self.flows, self.served = self._answers[question]
            return solved
        solved = self.answer(question, time_limit_s)
        self._note(question, solved)
        return solved

    @abstractmethod
    def answer(self, question: Question, time_limit_s: float) -> Solved:
        """Leaves values, flows and served."""

    def _known_impossible(self, question: Question) -> bool:
        """What is too much stays too much for any larger demands."""
        known = self._impossible.get((question.servers, question.reserving))
        if not question.plain or known is None:
            return False
        return all(demand >= too_much for demand, too_much in zip(question.demands, known, strict=True))

    def _note(self, question: Question, solved: Solved) -> None:
        """Beyond what can be served at all every demand leads to the same questions."""
        if question.plain and solved.outcome == "infeasible":
            self._impossible[question.servers, question.reserving] = question.demands
        if solved.outcome in ("optimal", "infeasible"):
            self._answers[question] = replace(solved, seconds=0.0), self.values, self.flows, self.served
            if len(self._answers) > ANSWERS:
                self._answers.popitem(last=False)


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
