"""The switch-aware policy: loads are begun for good reasons, and ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from loki_rl.control.allocator.allocate import allocate
from loki_rl.control.formulation.request import Request
from loki_rl.control.policies.named import make_policy
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Plan, Server, Snapshot
from loki_rl.files.config import load_pipeline

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def traffic() -> Pipeline:
    return load_pipeline(ROOT / "pipelines" / "traffic.yaml").pipeline


def running(plan: Plan, servers: int) -> tuple[Server, ...]:
    """The servers as they are once a plan has been carried out."""
    serving = [(place.task, place.variant, place.batch) for place in plan.placements for _ in range(place.replicas)]
    held = [Server(number, stage, (stage[:2],)) for number, stage in enumerate(serving)]
    return (*held, *(Server(number) for number in range(len(held), servers)))


def loads(plan: Plan, before: Plan) -> int:
    """Servers that must take another model."""
    old = {(place.task, place.variant): 0 for place in (*before.placements, *plan.placements)}
    new = dict(old)
    for place in before.placements:
        old[place.task, place.variant] += place.replicas
    for place in plan.placements:
        new[place.task, place.variant] += place.replicas
    return sum(max(0, new[model] - old[model]) for model in new)


def test_fewer_loads_than_a_plain_optimum(traffic: Pipeline) -> None:
    """A little more demand is met by a few servers, where the plain optimum turns the cluster over."""
    before = allocate(traffic, Request(350.0, 20))
    plain = allocate(traffic, Request(380.0, 20))
    aware = allocate(traffic, Request(380.0, 20, current=running(before, 20), horizon_s=10.0))
    assert aware.served_fraction > 0.99
    assert loads(aware, before) < loads(plain, before)


def test_what_runs_is_kept_while_it_suffices(traffic: Pipeline) -> None:
    plan = allocate(traffic, Request(300.0, 20))
    again = allocate(traffic, Request(300.0, 20, current=running(plan, 20), horizon_s=10.0))
    assert loads(again, plan) == 0


@pytest.mark.parametrize("name", ["static", "hardware", "loki", "exact"])
def test_every_policy_answers_before_anything_was_counted(traffic: Pipeline, name: str) -> None:
    policy = make_policy(name, traffic, PolicyOptions(servers=20, initial_rps=40.0))
    snapshot = Snapshot(0.0, 10.0, (), 0.0, tuple(Server(number) for number in range(20)))
    plan = policy.decide(snapshot)
    assert plan.accuracy > 0.97
    assert plan.capacity_rps >= 40 * (1 - 1e-6)


def test_a_plan_holds_what_serves_while_its_models_load(traffic: Pipeline) -> None:
    """Regression: servers that only the time of loading needs were left out, so that a task had no server until its new
    models were warm."""
    cluster = {
        ("object_detection", "yolov5s"): 6,
        ("object_detection", "yolov5m"): 4,
        ("car_classification", "efficientnet-b0"): 2,
        ("car_classification", "efficientnet-b3"): 7,
        ("facial_recognition", "genderNet_19"): 1,
    }
    models = [model for model, count in cluster.items() for _ in range(count)]
    current = tuple(Server(number, (*model, 1), (model,)) for number, model in enumerate(models))
    plan = allocate(traffic, Request(187.0, 20, expected_rps=159.0, current=current, horizon_s=20.0))
    assert {place.task for place in plan.placements if (place.task, place.variant) in cluster} == set(traffic.index)
