"""The own search against the model written down in PuLP and solved by HiGHS."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from loki_rl.control.allocator.allocate import allocate, allocate_jointly, capacity
from loki_rl.control.allocator.switching import SWITCH_GAP
from loki_rl.control.formulation.request import Part, Request, RequestError
from loki_rl.files.config import load_pipeline
from tests.control.instances import questions
from tests.control.verify import verify_jointly

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
