"""The own search against the model written down in PuLP and solved by HiGHS."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from msgspec.structs import replace

from loki_rl.control.allocator.allocate import allocate, allocate_jointly, capacity
from loki_rl.control.allocator.switching import SWITCH_GAP
from loki_rl.control.formulation.request import Part, Request, RequestError, Slice
from loki_rl.core.plan import Plan, Server
from loki_rl.files.config import load_pipeline
from tests.control.instances import questions
from tests.control.verify import verify, verify_jointly

PIPELINES = Path(__file__).parents[3] / "pipelines"
GAP = 2e-6


def by_pulp(parts: list[Part]) -> list[Part]:
    return [replace(part, request=replace(part.request, solver="pulp")) for part in parts]


@pytest.mark.parametrize("seed", range(120))
def test_both_solvers_agree(seed: int) -> None:
    """One and two pipelines, one and two types of servers, floors, shedding, and clusters that are moved."""
    parts = questions(np.random.default_rng(seed))
    own, known = allocate_jointly(parts), allocate_jointly(by_pulp(parts))
    moving = parts[0].request.horizon_s is not None
    close = 2 * SWITCH_GAP if moving else GAP
    assert own.certificate.objective == pytest.approx(known.certificate.objective, rel=close, abs=close)
    assert own.mode == known.mode or moving
    for plans in (own, known):
        assert verify_jointly(parts, plans) == []
        assert plans.certificate.gap <= close
    assert (own.certificate.solver, known.certificate.solver) in {("search", "HiGHS"), ("", "")}


@pytest.mark.parametrize("name", ["traffic", "social"])
def test_published_pipelines(name: str) -> None:
    pipeline = load_pipeline(PIPELINES / f"{name}.yaml").pipeline
    own, known = (capacity(pipeline, 20, 0.9, solver=solver) for solver in ("search", "pulp"))
    assert known.capacity_rps == pytest.approx(own.capacity_rps, rel=1e-5)
    for share in (0.3, 0.7, 1.1):
        asked = Request(share * own.capacity_rps, 20, time_limit_s=60.0)
        one, other = allocate(pipeline, asked), allocate(pipeline, replace(asked, solver="pulp"))
        assert other.mode == one.mode
        assert other.certificate.objective == pytest.approx(one.certificate.objective, rel=GAP)
        assert other.certificate.status == "Optimal"


@pytest.mark.parametrize("name", ["traffic", "social", "reading"])
@pytest.mark.parametrize("swap", ["break", "make"])
@pytest.mark.parametrize("share", [0.3, 0.8])
def test_published_pipelines_that_are_moved(name: str, swap: Literal["break", "make"], share: float) -> None:
    pipeline = replace(load_pipeline(PIPELINES / f"{name}.yaml").pipeline, swap=swap)
    demand = share * capacity(pipeline, 20).capacity_rps
    before = allocate(pipeline, Request(0.8 * demand, 20))
    slices = tuple(Slice(demand * end, chance) for end, chance in ((0.9, 1.0), (1.1, 0.6), (1.5, 0.1), (3.0, 0.01)))
    asked = Request(
        demand, 20, current=placed(before), horizon_s=20.0, slices=slices, mean_rps=0.7 * demand, time_limit_s=60.0
    )
    one, other = allocate(pipeline, asked), allocate(pipeline, replace(asked, solver="pulp"))
    assert other.certificate.objective == pytest.approx(one.certificate.objective, rel=2 * SWITCH_GAP)
    for plan in (one, other):
        assert verify(pipeline, plan, asked) == []
        assert plan.certificate.status == "Optimal"
    assert (one.certificate.solver, other.certificate.solver) == ("search", "HiGHS")


def placed(plan: Plan) -> tuple[Server, ...]:
    """The servers of a plan as they serve."""
    stages = [(place.task, place.variant, place.batch) for place in plan.placements for _ in range(place.replicas)]
    return tuple(Server(number, stage, (stage[:2],)) for number, stage in enumerate(stages))


def test_a_bound_holds_when_time_is_over() -> None:
    pipeline = load_pipeline(PIPELINES / "traffic.yaml").pipeline
    most = capacity(pipeline, 20).capacity_rps
    best = allocate(pipeline, Request(0.6 * most, 20, time_limit_s=60.0))
    plan = allocate(pipeline, Request(0.6 * most, 20, time_limit_s=0.02, solver="pulp"))
    assert plan.served_fraction > 0
    assert plan.mode != best.mode or plan.certificate.bound >= best.certificate.objective - GAP


def test_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """Standard output belongs to --json."""
    pipeline = load_pipeline(PIPELINES / "traffic.yaml").pipeline
    allocate(pipeline, Request(100.0, 20, solver="pulp"))
    assert capfd.readouterr().out == ""


def test_another_solver_is_refused() -> None:
    pipeline = load_pipeline(PIPELINES / "traffic.yaml").pipeline
    with pytest.raises(RequestError, match="solver must be one of search, pulp, not 'cbc'"):
        allocate(pipeline, Request(100.0, 20, solver="cbc"))  # type: ignore[arg-type]
