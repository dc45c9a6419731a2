"""Pipelines as service has shown them to be, and what policies make of that."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from loki_rl.config import load_pipeline
from loki_rl.control.measured import as_measured
from loki_rl.control.policies import PolicyOptions, make_policy
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Drift, Server, Snapshot
from loki_rl.core.server_type import ServerType, as_run_by

SERVERS = 20


@pytest.fixture(scope="module")
def traffic() -> Pipeline:
    return load_pipeline(Path(__file__).parents[2] / "pipelines" / "traffic.yaml").pipeline


def drift_of(pipeline: Pipeline, slowdown: float, more: float = 1.0, server_type: str = "") -> tuple[Drift, ...]:
    """All variants alike."""
    return tuple(
        Drift(task.name, one.name, server_type, slowdown, {child: more * mean for child, mean in one.fanout.items()})
        for task in pipeline.tasks
        for one in task.variants
    )


def test_without_drift_nothing_is_made_anew(traffic: Pipeline) -> None:
    assert as_measured(traffic, (), ())[0] is traffic


def test_servers_that_are_alike_share_measured_times_and_fanouts(traffic: Pipeline) -> None:
    task = traffic.tasks[0]
    variant = task.variants[-1]
    fanout = dict.fromkeys(variant.fanout, 3.0)
    found, pool = as_measured(traffic, (), [Drift(task.name, variant.name, "", 1.5, fanout)])
    changed = found.tasks[0].variants[-1]
    assert pool == ()
    assert changed.latency[1].p99 == pytest.approx(1.5 * variant.latency[1].p99)
    assert changed.fanout == fanout
    assert found.tasks[0].variants[:-1] == task.variants[:-1]
    assert found.tasks[1:] == traffic.tasks[1:]


def test_times_are_those_of_the_type_they_were_measured_on(traffic: Pipeline) -> None:
    pool = (ServerType("a", 2), ServerType("b", 3, speed=0.5, memory_mb=1e6))
    task, variant = traffic.tasks[1].name, traffic.tasks[1].variants[0]
    found, types = as_measured(traffic, pool, [Drift(task, variant.name, "b", 2.0, {})])
    assert types[0] is pool[0]
    assert as_run_by(found, types[0]).variant(task, variant.name).latency == variant.latency
    slow = as_run_by(found, types[1])
    assert slow.variant(task, variant.name).latency[1].p50 == pytest.approx(4 * variant.latency[1].p50)
    assert slow.tasks[0].variants[0].latency[1].p50 == pytest.approx(2 * traffic.tasks[0].variants[0].latency[1].p50)


@pytest.mark.parametrize("name", ["hardware", "loki", "exact", "forecast", "ppo"])
def test_policies_plan_with_what_was_measured_and_forget_it_when_it_is_over(traffic: Pipeline, name: str) -> None:
    policy = make_policy(name, traffic, PolicyOptions(servers=SERVERS))
    usual = Snapshot(60.0, 10.0, (100,) * 60, 0.0, tuple(Server(number) for number in range(SERVERS)))
    before = policy.decide(usual)
    slow = policy.decide(replace(usual, drift=drift_of(traffic, 1.3)))
    more = policy.decide(replace(usual, drift=drift_of(traffic, 1.0, more=1.5)))
    for plan in (slow, more):
        quality = (plan.served_fraction, round(plan.accuracy, 6), -plan.servers)
        assert quality < (before.served_fraction, round(before.accuracy, 6), -before.servers)
    after = policy.decide(usual)
    assert (after.placements, after.accuracy) == (before.placements, before.accuracy)


def test_where_tasks_are_planned_for_alone_measured_times_count_too(traffic: Pipeline) -> None:
    policy = make_policy("proteus", traffic, PolicyOptions(servers=SERVERS))
    servers = tuple(Server(number) for number in range(SERVERS))
    counts = {"object_detection": 500, "car_classification": 3000, "facial_recognition": 500}
    items: dict[str, tuple[int, ...]] = {task: (count,) * 60 for task, count in counts.items()}
    usual = Snapshot(60.0, 10.0, (500,) * 60, 0.0, servers, items=items)
    before, slow, after = (policy.decide(replace(usual, drift=drift)) for drift in ((), drift_of(traffic, 1.3), ()))
    assert (slow.served_fraction, slow.accuracy) < (before.served_fraction, before.accuracy)
    assert after.placements == before.placements
