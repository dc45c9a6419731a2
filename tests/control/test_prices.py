"""What a plan is told about its limits is what the allocator does when they are moved."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from loki_rl.config import load_pipeline
from loki_rl.control.allocator import allocate, allocate_jointly
from loki_rl.control.prices import explain, fewest_servers
from loki_rl.control.request import Part, Queueing, Request
from loki_rl.core.pipeline import Pipeline

PIPELINES = Path(__file__).parents[2] / "pipelines"


@pytest.fixture(scope="module")
def traffic() -> Pipeline:
    return load_pipeline(PIPELINES / "traffic.yaml").pipeline


def told(pipeline: Pipeline, request: Request) -> str:
    parts = [Part(pipeline, request)]
    return "; ".join(explain(parts, allocate_jointly(parts)))


def test_enough_servers(traffic: Pipeline) -> None:
    said = told(traffic, Request(60.0, 20))
    assert "nothing binds" in said
    assert "one more server: changes nothing" in said


def test_accuracy_names_the_servers_that_the_best_needs(traffic: Pipeline) -> None:
    request = Request(300.0, 20)
    found = re.search(r"20 servers bind: to serve all with accuracy 0.9968 needs (\d+)", told(traffic, request))
    assert found
    assert allocate(traffic, replace(request, servers=int(found[1]))).mode == "hardware"
    assert allocate(traffic, replace(request, servers=int(found[1]) - 1)).mode == "accuracy"


def test_prices_are_differences_of_plans(traffic: Pipeline) -> None:
    request = Request(300.0, 20)
    plan, said = allocate(traffic, request), told(traffic, request)
    richer = allocate(traffic, replace(request, servers=21))
    slower = allocate(traffic, replace(request, slo_s=traffic.slo_s + 0.01))
    assert f"one more server: accuracy rises by {richer.accuracy - plan.accuracy:.4f}" in said
    assert f"10 ms more SLO: accuracy rises by {slower.accuracy - plan.accuracy:.4f}" in said
    assert re.search(r"one point of accuracy less: \d+\.\d requests/s more can be served", said)


def test_shedding_names_cluster_and_floor_that_would_do(traffic: Pipeline) -> None:
    request = Request(700.0, 20, min_accuracy=0.9)
    said, needed = told(traffic, request), fewest_servers([Part(traffic, request)])
    assert needed is not None
    assert f"20 servers bind: to serve all needs {needed}" in said
    assert allocate(traffic, replace(request, servers=needed)).served_fraction == 1
    assert allocate(traffic, replace(request, servers=needed - 1)).served_fraction < 1
    assert f"it must be {allocate(traffic, replace(request, min_accuracy=0.0)).accuracy:.4f}" in said
    assert re.search(r"one point of accuracy less: \d+\.\d requests/s more are served", said)


def test_the_slo_may_be_what_binds(traffic: Pipeline) -> None:
    said = told(traffic, Request(20.0, 20, slo_s=0.05))
    assert "the SLO of 50.0 ms binds" in said
    assert "servers bind" not in said


@pytest.mark.parametrize("queueing", ["tail", "half-slo"])
@pytest.mark.parametrize("slo_s", [0.005, 0.015])
def test_an_impossible_slo_names_the_nearest_possible(traffic: Pipeline, queueing: Queueing, slo_s: float) -> None:
    request = Request(20.0, 20, slo_s=slo_s, queueing=queueing)
    plan = allocate_jointly([Part(traffic, request)])
    assert plan.mode == "infeasible"
    assert explain([Part(traffic, request)], plan) == plan.reasons
    found = re.search(r"the SLO must be at least ([\d.]+) ms", plan.reasons[0])
    assert found
    nearest = float(found[1]) / 1000
    assert allocate(traffic, replace(request, slo_s=nearest)).mode != "infeasible"
    assert allocate(traffic, replace(request, slo_s=nearest - 0.0003)).mode == "infeasible"


def test_an_impossible_floor_names_the_nearest_possible(traffic: Pipeline) -> None:
    request = Request(20.0, 20, slo_s=0.05, min_accuracy=0.99)
    plan = allocate(traffic, request)
    found = re.search(r"is above ([\d.]+), the best that fits", plan.reasons[0])
    assert found
    assert allocate(traffic, replace(request, min_accuracy=float(found[1]) - 1e-4)).mode != "infeasible"
