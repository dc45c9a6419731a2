"""One allocation in progress: its deadline, the time it took, and how its answer becomes a plan. Knows no order of modes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from time import perf_counter
from typing import Any

from msgspec import Struct

from loki_rl.control.kept import Goal, KeptProblem, kept_problem
from loki_rl.control.network import Network
from loki_rl.control.realise import Realised, placements, realise, routes, shares, split
from loki_rl.control.request import Request
from loki_rl.control.setting import prepare
from loki_rl.control.solver import GAP, Solved, solve, warm
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Certificate, Mode, Plan


class Found(Struct):
    """An answer before it is a plan. objective, bound: in the unit of the mode. demand_rps: what it was found for."""

    mode: Mode
    network: Network
    counts: list[int]
    objective: float
    bound: float
    status: str
    demand_rps: float


class Search:
    """Shared by all modes of one request. unlimited: the question is how much can be served, whatever the demand."""

    def __init__(self, pipeline: Pipeline, request: Request, unlimited: bool = False) -> None:
        self.pipeline, self.request, self.unlimited = pipeline, request, unlimited
        self.setting = prepare(pipeline, request)
        self.build_s = 0.0
        self.solve_s = 0.0
        warm()
        self._end = perf_counter() + request.time_limit_s

    @property
    def left_s(self) -> float:
        return self._end - perf_counter()

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
        """Ask a kept problem about the whole cluster, in the time that is left."""
        began = perf_counter()
        solved = kept.ask(goal, demand_rps, self.request.servers, time_limit_s=self.left_s, **limits)
        self.solve_s += solved.seconds
        self.build_s += perf_counter() - began - solved.seconds
        return solved

    def solve(self, problem: Any, start: dict[str, float] | None = None, gap: float = GAP) -> Solved:
        solved = solve(problem, self.left_s, gap, start)
        self.solve_s += solved.seconds
        return solved

    def plan(self, found: Found) -> Plan | None:
        """The plan for these counts, its flows solved anew for whole servers; None if they can serve nothing."""
        began = perf_counter()
        real = realise(self.pipeline, found.network, found.counts, found.demand_rps)
        self.solve_s += perf_counter() - began
        return None if real is None else self._write(found, real)

    def _write(self, found: Found, real: Realised) -> Plan:
        pipeline, network = self.pipeline, found.network
        served_rps = real.served * found.demand_rps
        demand = served_rps if self.unlimited else self.request.demand_rps
        # What the flow after the loads has no use for may be what serves during them: its price was in the objective.
        counts = real.counts if self.request.horizon_s is None else found.counts
        return Plan(
            mode=found.mode,
            placements=placements(pipeline, network, counts),
            servers=sum(counts),
            accuracy=min(1.0, real.accuracy),
            served_fraction=_whole(served_rps / demand),
            demand_rps=demand,
            capacity_rps=real.capacity_rps,
            split=split(pipeline, network, real.chains),
            flows=shares(pipeline, network, real.flow),
            certificate=self.certificate(found),
            routes=routes(pipeline, network, real.chains),
        )

    def certificate(self, found: Found) -> Certificate:
        gap = abs(found.bound - found.objective) / max(abs(found.objective), 1e-9)
        return Certificate(found.objective, found.bound, gap, found.status, 1000 * self.build_s, 1000 * self.solve_s)


def _whole(served: float) -> float:
    """1 where only the solver's tolerance is missing."""
    return 1.0 if served > 1 - 1e-6 else served
