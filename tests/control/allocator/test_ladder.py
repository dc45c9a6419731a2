"""Ladders: every level is as good as a plan that is asked for alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loki_rl.control.allocator.allocate import allocate, capacity
from loki_rl.control.allocator.ladder import ladder
from loki_rl.control.formulation.request import Request
from loki_rl.core.pipeline import Pipeline
from loki_rl.files.config import load_pipeline
from tests.control.instances import small_pipeline
from tests.control.verify import verify

PIPELINES = Path(__file__).parents[3] / "pipelines"
CLOSE = 2e-6


def agrees(pipeline: Pipeline, request: Request, demands: list[float]) -> None:
    done = list[float]()
    plans = ladder(pipeline, request, demands, done.append)
    assert done == sorted(done)
    assert done[-1] == 1
    assert [plan.demand_rps for plan in plans] == demands
    for demand, plan in zip(demands, plans, strict=True):
        asked = Request(demand, request.servers, min_accuracy=request.min_accuracy, queueing=request.queueing)
        alone = allocate(pipeline, asked)
        assert verify(pipeline, plan, asked) == []
        assert (plan.mode, plan.servers) == (alone.mode, alone.servers), demand
        assert plan.accuracy == pytest.approx(alone.accuracy, abs=CLOSE)
        assert plan.served_fraction == pytest.approx(alone.served_fraction, abs=CLOSE)
        assert plan.certificate.gap <= 1e-6


@pytest.mark.parametrize("floor", [0.0, 0.7])
def test_levels_are_as_good_as_plans_asked_for_alone(floor: float) -> None:
    pipeline = load_pipeline(PIPELINES / "traffic.yaml").pipeline
    most = capacity(pipeline, 20, floor).capacity_rps
    demands = [share * most for share in (0.5, 0.02, 0.05, 0.1, 1.3, 0.3, 0.72, 0.9, 0.991, 0.5)]
    agrees(pipeline, Request(1.0, 20, min_accuracy=floor), demands)


@pytest.mark.parametrize("seed", range(6))
def test_on_small_pipelines(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pipeline, servers = small_pipeline(rng), int(rng.integers(2, 9))
    most = capacity(pipeline, servers).capacity_rps or 10.0
    agrees(pipeline, Request(1.0, servers), [float(share) * most for share in rng.uniform(0.05, 1.4, 12)])


def test_no_demands_no_plans() -> None:
    pipeline = load_pipeline(PIPELINES / "traffic.yaml").pipeline
    assert ladder(pipeline, Request(1.0, 20), []) == []
