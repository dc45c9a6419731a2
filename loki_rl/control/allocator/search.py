"""One allocation in progress: its parts, its deadline and the time it took. Knows no order of modes and writes no plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import inf
from time import perf_counter
from typing import Any, Literal

from msgspec import Struct

from loki_rl.control.allocator.implicit_model import problem_of, warm
from loki_rl.control.allocator.plan_extraction import Holding, holdings, names
from loki_rl.control.formulation.accuracy import TIE
from loki_rl.control.formulation.network import Network
from loki_rl.control.formulation.prepared import prepare
from loki_rl.control.formulation.problem import NO_FLOOR, Floor, Goal, Problem
from loki_rl.control.formulation.request import Part
from loki_rl.control.solver.solve import Solved
from loki_rl.core.plan import Mode, Plan

# A later phase may give up this share of what an earlier one reached: room for the solver's own tolerance.
SLACK = 1e-7


class Found(Struct):
    """An answer before it is a plan. networks, demands: of each part, what it was found for. counts: part after part.
    objective, bound: in the unit of the goal. flows: of each part the most accurate one of those that serve all with these
    counts; empty: not known. most_rps: demand that is served of all that may come, where a plan of least cost is made for
    more than the demand; its mode is that of its flow."""

    mode: Mode
    goal: Goal | Literal["least cost"]
    networks: tuple[Network, ...]
    counts: list[int]
    objective: float
    bound: float
    status: str
    demands: tuple[float, ...]
    flows: Sequence[Sequence[float]] = ()
    most_rps: float = 0.0


class Search:
    """Shared by all modes of one question. unlimited: it is how much can be served, whatever the demand. known: plans of the
    parts to begin with, or none."""

    def __init__(self, parts: Sequence[Part], unlimited: bool = False, known: Sequence[Plan] = ()) -> None:
        self.parts, self.unlimited, self.known = parts, unlimited, known
        self.settings = [prepare(part.pipeline, part.request) for part in parts]
        self.types, self.solver = parts[0].request.types, parts[0].request.solver
        self.servers = tuple(kind.count for kind in self.types)
        total = sum(part.weight for part in parts)
        self.weights = tuple(part.weight / total for part in parts)
        self.build_s = 0.0
        self.solve_s = 0.0
        # unproven: serving all was passed over because time ran out; accuracy_bound: of all plans that would. doubt: the
        # solver's word when it first ran out.
        self.unproven = False
        self.accuracy_bound = self.weighed([part.pipeline.best_accuracy for part in parts])
        self.doubt, self.provers = "", set[str]()
        self._prepare()
        self._end = perf_counter() + parts[0].request.time_limit_s

    def _prepare(self) -> None:
        """What is made once for all demands takes its time."""
        if self.solver == "search":
            warm()
        if all(setting.feasible for setting in self.settings):
            self.kept(self.networks)

    @property
    def alone(self) -> bool:
        """Whether one pipeline has the cluster to itself."""
        return len(self.parts) == 1

    @property
    def demands(self) -> tuple[float, ...]:
        return tuple(part.request.demand_rps for part in self.parts)

    @property
    def demand_limits(self) -> tuple[float, ...]:
        return tuple(inf if self.unlimited else demand for demand in self.demands)

    @property
    def tasks(self) -> int:
        """Of all pipelines."""
        return sum(len(part.pipeline.tasks) for part in self.parts)

    @property
    def networks(self) -> tuple[Network, ...]:
        """Where a floor is the best accuracy there is, only the best paths; a row would leave it to tolerances."""
        return tuple(
            setting.best_network if part.request.min_accuracy >= part.pipeline.best_accuracy - TIE else setting.network
            for part, setting in zip(self.parts, self.settings, strict=True)
        )

    @property
    def floors(self) -> tuple[Floor, ...]:
        """The accuracy floors as a kept problem of `networks` takes them."""
        floors = [self.floor(part, network) for part, network in enumerate(self.networks)]
        return tuple((floor, 0.0) if floor > 0 else NO_FLOOR for floor in floors)

    def start(self, networks: tuple[Network, ...]) -> list[int] | None:
        """The servers of the known plans per configuration, as far as the networks have them."""
        if not self.known:
            return None
        counts = []
        for part, network, plan in zip(self.parts, networks, self.known, strict=True):
            held = {(place.task, place.variant, place.batch, place.server_type): place.replicas for place in plan.placements}
            counts += [held.get(name, 0) for name in names(part.pipeline, self.types, network)]
        return counts

    def weighed(self, values: Sequence[float]) -> float:
        """The mean of what the parts reach, by weight."""
        return sum(weight * value for weight, value in zip(self.weights, values, strict=True))

    @property
    def left_s(self) -> float:
        return self._end - perf_counter()

    def has_time(self) -> bool:
        """Whether there is time for one more question; if not, the plan says so."""
        if self.left_s <= 0:
            self.doubt = self.doubt or "Time limit"
        return self.left_s > 0

    @contextmanager
    def building(self) -> Iterator[None]:
        began = perf_counter()
        yield
        self.build_s += perf_counter() - began

    def kept(self, networks: tuple[Network, ...]) -> Problem:
        with self.building():
            return problem_of(networks, self._prices, self.solver)

    @property
    def _prices(self) -> tuple[float, ...]:
        return tuple(kind.price for kind in self.types)

    def ask(self, kept: Problem, goal: Goal, demands: tuple[float, ...], **limits: Any) -> Solved:
        """Ask a kept problem, about the whole cluster and in the time that is left unless the limits say otherwise."""
        began = perf_counter()
        limits = {"servers": self.servers, "weights": self.weights, "time_limit_s": self.left_s, **limits}
        solved = kept.ask(goal, demands, **limits)
        self.build_s += perf_counter() - began - solved.seconds
        return self.noted(solved)

    def noted(self, solved: Solved) -> Solved:
        """The answer to a question, on record."""
        self.solve_s += solved.seconds
        self.provers.add(solved.solver)
        if solved.outcome in ("feasible", "unknown"):
            self.doubt = self.doubt or solved.status
        return solved

    def holdings(self, found: Found) -> list[Holding]:
        """Of an answer."""
        return holdings(found.networks, self._prices, self.solver, found.counts, found.flows)

    def floor(self, part: int, network: Network) -> float:
        """The accuracy that a part must reach; a network of the best ways needs no floor."""
        asked, best = self.parts[part].request.min_accuracy, self.parts[part].pipeline.best_accuracy
        return 0.0 if network is self.settings[part].best_network else min(asked, best - TIE)
