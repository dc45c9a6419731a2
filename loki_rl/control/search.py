"""One allocation in progress: its deadline, the time it took, and how its answer becomes a plan. Knows no order of modes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from time import perf_counter
from typing import Any, Literal

from msgspec import Struct

from loki_rl.control.accuracy import TIE
from loki_rl.control.kept import Goal, KeptProblem, kept_problem
from loki_rl.control.network import Network
from loki_rl.control.realise import Realised, placements, realise, routes, shares, split
from loki_rl.control.request import Request
from loki_rl.control.setting import prepare
from loki_rl.control.solver import Solved, solve, warm
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Certificate, Mode, Plan


class Found(Struct):
    """An answer before it is a plan. objective, bound: in the unit of the goal. demand_rps: what it was found for. flow: the
    most accurate one of all that for these counts, if it is known."""

    mode: Mode
    goal: Goal | Literal["least cost"]
    network: Network
    counts: list[int]
    objective: float
    bound: float
    status: str
    demand_rps: float
    flow: list[float] | None = None


class Search:
    """Shared by all modes of one request. unlimited: the question is how much can be served, whatever the demand."""

    def __init__(self, pipeline: Pipeline, request: Request, unlimited: bool = False) -> None:
        self.pipeline, self.request, self.unlimited = pipeline, request, unlimited
        self.setting = prepare(pipeline, request)
        self.build_s = 0.0
        self.solve_s = 0.0
        # unproven: serving all was passed over because time ran out; accuracy_bound: of all plans that would. doubt: the
        # solver's word when it first ran out.
        self.unproven = False
        self.accuracy_bound = pipeline.best_accuracy
        self.doubt = ""
        warm()
        self._end = perf_counter() + request.time_limit_s

    @property
    def left_s(self) -> float:
        return self._end - perf_counter()

    def has_time(self) -> bool:
        """Whether there is time for one more question; if not, the plan says so."""
        if self.left_s <= 0:
            self.doubt = self.doubt or "Time limit"
        return self.left_s > 0

    @property
    def demand_limit(self) -> float:
        return inf if self.unlimited else self.request.demand_rps

    @contextmanager
    def building(self) -> Iterator[None]:
        began = perf_counter()
        yield
        self.build_s += perf_counter() - began

    def kept(self, network: Network) -> KeptProblem:
        with self.building():
            return kept_problem(network)

    def ask(self, kept: KeptProblem, goal: Goal, demand_rps: float, **limits: Any) -> Solved:
        """Ask a kept problem, about the whole cluster and in the time that is left unless the limits say otherwise."""
        began = perf_counter()
        limits = {"servers": self.request.servers, "time_limit_s": self.left_s, **limits}
        solved = kept.ask(goal, demand_rps, **limits)
        self.build_s += perf_counter() - began - solved.seconds
        return self._noted(solved)

    def solve(self, problem: Any, start: dict[str, float], gap: float) -> Solved:
        return self._noted(solve(problem, self.left_s, gap, start))

    def _noted(self, solved: Solved) -> Solved:
        self.solve_s += solved.seconds
        if solved.outcome in ("feasible", "unknown"):
            self.doubt = self.doubt or solved.status
        return solved

    def plan(self, found: Found) -> Plan | None:
        """The plan for these counts, its flows solved anew for whole servers; None if they can serve nothing."""
        began = perf_counter()
        floor = 0.0 if found.network is self.setting.best_network else min(self.request.min_accuracy, self._best)
        real = realise(self.pipeline, found.network, found.counts, found.demand_rps, floor, found.flow)
        self.solve_s += perf_counter() - began
        return None if real is None else self._write(found, real)

    @property
    def _best(self) -> float:
        return self.pipeline.best_accuracy - TIE

    def _write(self, found: Found, real: Realised) -> Plan:
        pipeline, network = self.pipeline, found.network
        served_rps = real.served * found.demand_rps
        demand = served_rps if self.unlimited else self.request.demand_rps
        served = _whole(served_rps / demand)
        if found.mode == "shed" and served == 1 and self.unproven:
            # Time ran out before it was known that these servers would do.
            found.mode, found.goal, found.bound = "accuracy", "most accurate", self.accuracy_bound
        # What the flow after the loads has no use for may be what serves during them: its price was in the objective.
        counts = real.counts if self.request.horizon_s is None else found.counts
        return Plan(
            mode=found.mode,
            placements=placements(pipeline, network, counts),
            servers=sum(counts),
            accuracy=min(1.0, real.accuracy),
            served_fraction=served,
            demand_rps=demand,
            capacity_rps=real.capacity_rps,
            split=split(pipeline, network, real.chains),
            flows=shares(pipeline, network, real.flow),
            certificate=self._certificate(found, real, demand),
            routes=routes(pipeline, network, real.chains),
        )

    def _certificate(self, found: Found, real: Realised, demand_rps: float) -> Certificate:
        """What the plan reaches, however it was found, against what was proven."""
        reached, bound = found.objective, found.bound
        if found.goal == "fewest servers":
            reached = float(sum(real.counts))
        elif found.goal == "most accurate":
            reached = real.accuracy
        elif found.goal == "most served":
            share = found.demand_rps / demand_rps
            reached, bound = real.served * share, 1.0 if self.unproven else found.bound * share
        gap = abs(bound - reached) / max(abs(reached), 1e-9)
        return Certificate(reached, bound, gap, self.doubt or found.status, 1000 * self.build_s, 1000 * self.solve_s)


def _whole(served: float) -> float:
    """1 where only the solver's tolerance is missing."""
    return 1.0 if served > 1 - 1e-6 else served
