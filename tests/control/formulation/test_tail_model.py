"""The tail model's promise: a plan at the capacity that it states keeps the SLO, as the event twin sees it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loki_rl.control.allocator.allocate import allocate
from loki_rl.control.formulation.latency import with_idle
from loki_rl.control.formulation.request import Request
from loki_rl.core.options import ClusterOptions
from loki_rl.env.simulate import simulate
from loki_rl.files.config import load_pipeline

PIPELINES = Path(__file__).parents[3] / "pipelines"


@pytest.mark.parametrize(
    ("name", "servers", "rps"),
    [("traffic", 20, 20.0), ("traffic", 20, 180.0), ("traffic", 20, 600.0), ("traffic", 10, 50.0), ("social", 6, 40.0)],
)
def test_a_plan_keeps_the_slo_at_its_stated_capacity(name: str, servers: int, rps: float) -> None:
    pipeline = load_pipeline(PIPELINES / f"{name}.yaml").pipeline
    plan = allocate(pipeline, Request(rps, servers))
    assert plan.served_fraction == 1
    seconds = 3000 / plan.capacity_rps
    rng = np.random.default_rng(1)
    times = np.sort(rng.random(rng.poisson(3000)) * seconds)
    cluster = ClusterOptions(pipeline, servers, seed=1, interval_s=10 * seconds)
    found = simulate(cluster, lambda _: plan, times, seconds).summary
    assert found.slo_violation_ratio <= 0.01
    assert found.p99_ms <= 1000 * pipeline.slo_s
    assert found.accuracy == pytest.approx(plan.accuracy, abs=0.003)


def test_idle_servers_of_a_pool_hardly_grow_with_it() -> None:
    """idle = reserve x utilisation, whatever the size."""
    for busy in (0.0, 0.1, 1.0, 10.0, 1000.0):
        idle = with_idle(busy, 2.0) - busy
        assert idle * (busy + idle) == pytest.approx(2.0 * busy)
    assert 1.9 < with_idle(1000.0, 2.0) - 1000.0 < 2.0
