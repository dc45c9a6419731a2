"""Certificates tell the truth, however little time there was."""

from __future__ import annotations

from math import nan
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from loki_rl.control.allocator.allocate import allocate, capacity
from loki_rl.control.allocator.implicit_model import ImplicitModel
from loki_rl.control.branch_and_price.search import Answer, BranchAndPrice
from loki_rl.control.formulation.problem import Goal
from loki_rl.control.formulation.request import Request
from loki_rl.control.solver.solve import Solved
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Plan, Server
from loki_rl.files.config import load_pipeline
from tests.control.verify import verify

PIPELINES = Path(__file__).parents[3] / "pipelines"
ROOM = 2e-6
RANKS = ("infeasible", "shed", "accuracy", "hardware")


@pytest.fixture(scope="module", params=["traffic", "social"])
def pipeline(request: pytest.FixtureRequest) -> Pipeline:
    return load_pipeline(PIPELINES / f"{request.param}.yaml").pipeline


def reached(plan: Plan, mode: str) -> float:
    """A plan's worth in the unit of a mode."""
    return {"hardware": float(plan.servers), "accuracy": plan.accuracy, "shed": plan.served_fraction}[mode]


def check_truth(plan: Plan, best: Plan) -> None:
    certificate = plan.certificate
    assert certificate.objective == pytest.approx(reached(plan, plan.mode), abs=ROOM)
    assert RANKS.index(plan.mode) <= RANKS.index(best.mode)
    possible = {"hardware": best.servers, "accuracy": best.accuracy, "shed": best.served_fraction}[plan.mode]
    sign = -1 if plan.mode == "hardware" else 1
    assert sign * certificate.objective <= sign * possible + ROOM
    assert sign * possible <= sign * certificate.bound + ROOM
    if certificate.status == "Optimal":
        assert (plan.mode, plan.servers) == (best.mode, best.servers)
        assert certificate.gap <= 1e-6


@pytest.mark.parametrize("share", [0.2, 0.5, 0.85, 0.99, 1.2])
@pytest.mark.parametrize("floor", [0.0, 0.8])
@pytest.mark.parametrize("limit_s", [1e-9, 1e-3, 5e-3])
def test_whatever_the_time(pipeline: Pipeline, share: float, floor: float, limit_s: float) -> None:
    most = capacity(pipeline, pipeline.servers, floor).capacity_rps
    request = Request(share * most, pipeline.servers, min_accuracy=floor, time_limit_s=60.0)
    best = allocate(pipeline, request)
    assert best.certificate.status == "Optimal"
    assert best.certificate.gap <= 1e-6
    # Another demand of the same answers: remembered ones would be proven.
    hurried = allocate(pipeline, replace(request, demand_rps=request.demand_rps * (1 - 1e-9), time_limit_s=limit_s))
    assert hurried.mode != "infeasible"
    assert verify(pipeline, hurried, request) == []
    check_truth(hurried, best)


def test_without_time_for_a_fleet_the_relaxation_bounds_it(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """What large problems meet: no answer but that of the relaxations."""
    ask = ImplicitModel.ask

    def late(self: ImplicitModel, goal: Goal, demands: tuple[float, ...], servers: tuple[int, ...], **limits: Any) -> Solved:
        settled = not limits.get("integer", True) or limits.get("counts") is not None
        return ask(self, goal, demands, servers, **limits) if settled else Solved("unknown", "Late", nan, nan, 0.0, {})

    most = capacity(pipeline, pipeline.servers).capacity_rps
    for share in (0.2, 0.6, 0.9, 1.1):
        request = Request(share * most, pipeline.servers)
        best = allocate(pipeline, request)
        with monkeypatch.context() as patch:
            patch.setattr(ImplicitModel, "ask", late)
            hurried = allocate(pipeline, request)
        assert verify(pipeline, hurried, request) == []
        assert hurried.certificate.status == "Late"
        check_truth(hurried, best)


def test_without_time_a_plan_serves_most_of_what_can_be_served(pipeline: Pipeline) -> None:
    most = capacity(pipeline, pipeline.servers).capacity_rps
    for share in (0.31, 0.62, 0.93):
        plan = allocate(pipeline, Request(share * most, pipeline.servers, time_limit_s=1e-9))
        assert plan.certificate.status != "Optimal"
        assert plan.served_fraction > 0.8


def test_few_nodes_are_a_limit_as_well(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    most = capacity(pipeline, pipeline.servers).capacity_rps
    request = Request(0.777 * most, pipeline.servers)
    best = allocate(pipeline, replace(request, demand_rps=request.demand_rps * (1 + 1e-9)))
    run = BranchAndPrice.run

    def few(self: BranchAndPrice, most_nodes: int | None = None) -> Answer:  # noqa: ARG001  (that is what is changed)
        return run(self, 2)

    monkeypatch.setattr(BranchAndPrice, "run", few)
    check_truth(allocate(pipeline, request), best)


def test_a_moving_cluster_without_time(pipeline: Pipeline) -> None:
    most = capacity(pipeline, pipeline.servers).capacity_rps
    current = tuple(Server(number) for number in range(pipeline.servers + 3))
    request = Request(0.5 * most, pipeline.servers, current=current, horizon_s=20.0, load_s=5.0, time_limit_s=60.0)
    hurried = allocate(pipeline, replace(request, time_limit_s=1e-9))
    assert hurried.mode != "infeasible"
    assert verify(pipeline, hurried, request) == []
    assert hurried.certificate.bound >= hurried.certificate.objective - ROOM
    assert hurried.certificate.gap <= 2e-5 or hurried.certificate.status != "Optimal"


def test_equal_questions_get_equal_plans(pipeline: Pipeline) -> None:
    request = Request(0.66 * capacity(pipeline, pipeline.servers).capacity_rps, pipeline.servers)
    first, second = allocate(pipeline, request), allocate(pipeline, request)
    assert first.placements == second.placements
    assert first.routes == second.routes
    assert first.certificate.bound == second.certificate.bound
