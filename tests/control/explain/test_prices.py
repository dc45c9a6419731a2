"""What a plan is told about its limits is what the allocator does when they are moved."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from loki_rl.control.allocator.allocate import allocate, allocate_jointly
from loki_rl.control.explain.prices import explain, fewest_servers
from loki_rl.control.formulation.request import Part, Queueing, Request, with_count
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.servers.server_type import ServerType, TypeProfile
from loki_rl.files.config import load_pipeline
from loki_rl.options import MOST_SERVERS

PIPELINES = Path(__file__).parents[3] / "pipelines"


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


def test_nobody_is_told_of_more_servers_than_there_may_be(traffic: Pipeline) -> None:
    said = told(traffic, Request(1e7, 100))
    assert "100 servers bind: to serve all needs more servers than anyone has" in said
    assert "one more server" not in told(traffic, Request(1e6, MOST_SERVERS))


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


POOL = (ServerType("large", 6, 3.0), ServerType("small", 6, 1.0, speed=0.5))


def test_each_type_has_its_own_price(traffic: Pipeline) -> None:
    request = Request(200.0, 12, pool=POOL)
    plan, said = allocate(traffic, request), told(traffic, request)
    for kind in POOL:
        richer = allocate(traffic, with_count(request, kind, kind.count + 1))
        assert f"one more server of type '{kind.name}': accuracy rises by {richer.accuracy - plan.accuracy:.4f}" in said


def test_a_pool_that_suffices_says_what_it_costs(traffic: Pipeline) -> None:
    request = Request(30.0, 12, pool=POOL)
    plan = allocate(traffic, request)
    assert f"{plan.servers} of 12 servers at a price of {plan.price:g} do" in told(traffic, request)


def grown(pipeline: Pipeline, memory_mb: float) -> Pipeline:
    """Variants that need more and more memory."""
    tasks = [
        replace(task, variants=tuple(replace(v, memory_mb=memory_mb * (k + 1)) for k, v in enumerate(task.variants)))
        for task in pipeline.tasks
    ]
    return replace(pipeline, tasks=tuple(tasks))


def test_no_type_has_the_memory(traffic: Pipeline) -> None:
    pool = (ServerType("a", 5, memory_mb=900.0), ServerType("b", 5, memory_mb=400.0))
    plan = allocate(grown(traffic, 1000.0), Request(10.0, 10, pool=pool))
    assert plan.reasons == (
        "no server type has the memory for 'object_detection' of 'traffic': its smallest variant yolov5n needs 1000 MB, the "
        "largest type 'a' has 900 MB",
    )


def test_a_floor_that_no_memory_allows(traffic: Pipeline) -> None:
    """The first two variants of every task fit."""
    pool = (ServerType("a", 10, memory_mb=2.0),)
    plan = allocate(grown(traffic, 1.0), Request(10.0, 10, min_accuracy=0.9, pool=pool))
    (reason,) = plan.reasons
    assert "accuracy floor 0.9000 of 'traffic' is above 0.6" in reason
    assert reason.endswith("fits an SLO of 250.0 ms and the servers' memory")


def test_no_type_was_measured(traffic: Pipeline) -> None:
    pool = (ServerType("a", 5, speed=None), ServerType("b", 5, profiles={"traffic": TypeProfile({})}))
    (reason,) = allocate(traffic, Request(10.0, 10, pool=pool)).reasons
    assert "no server type runs 'object_detection' of 'traffic'" in reason


def test_no_type_for_every_task(traffic: Pipeline) -> None:
    """Two tasks fit one server only, and it runs one at a time."""
    large = grown(traffic, 1.0)
    head = replace(large.tasks[0], variants=tuple(replace(v, memory_mb=900.0) for v in large.tasks[0].variants))
    tail = replace(large.tasks[1], variants=tuple(replace(v, memory_mb=900.0) for v in large.tasks[1].variants))
    pipeline = replace(large, tasks=(head, tail, large.tasks[2]))
    pool = (ServerType("a", 1, memory_mb=1000.0), ServerType("b", 9, memory_mb=500.0))
    (reason,) = allocate(pipeline, Request(10.0, 10, pool=pool)).reasons
    assert "'object_detection' on a; 'car_classification' on a; 'facial_recognition' on a or b" in reason
    assert reason.endswith("there are 1 a, 9 b")


def test_several_pipelines_are_told_which_of_them_gain(traffic: Pipeline) -> None:
    social = load_pipeline(PIPELINES / "social.yaml").pipeline
    parts = [Part(traffic, Request(150.0, 24)), Part(social, Request(40.0, 24, min_accuracy=0.5), 2.0)]
    joint = allocate_jointly(parts)
    said = "; ".join(explain(parts, joint))
    richer = allocate_jointly([replace(part, request=replace(part.request, servers=25)) for part in parts])
    gain = richer.plans[0].accuracy - joint.plans[0].accuracy
    assert f"one more server: accuracy {'rises' if gain > 0 else 'falls'} by {abs(gain):.4f} ('traffic')" in said
    assert "10 ms more SLO of 'social':" in said


def test_one_impossible_pipeline_is_named(traffic: Pipeline) -> None:
    social = load_pipeline(PIPELINES / "social.yaml").pipeline
    joint = allocate_jointly([Part(traffic, Request(10.0, 30)), Part(social, Request(10.0, 30, slo_s=0.01))])
    assert joint.mode == "infeasible"
    assert len(joint.reasons) == 1
    assert "SLO 10.0 ms of 'social' is too short" in joint.reasons[0]
