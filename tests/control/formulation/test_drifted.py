"""Pipelines as service has shown them to be, and what policies make of that."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from msgspec.structs import replace

from loki_rl.control.formulation.drifted import as_measured
from loki_rl.control.policies.named import make_policy
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Drift, Exclusion, Plan, Server, Snapshot
from loki_rl.core.servers.server_type import ServerType, as_run_by
from loki_rl.files.config import load_pipeline
from tests.control.cards import agent_file

SERVERS = 20


@pytest.fixture(scope="module")
def traffic() -> Pipeline:
    return load_pipeline(Path(__file__).parents[3] / "pipelines" / "traffic.yaml").pipeline


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


def test_what_was_only_inferred_has_the_fanouts_of_the_profile(traffic: Pipeline) -> None:
    task = traffic.tasks[0]
    counted = replace(task.variants[0], fanout_counts=dict.fromkeys(task.variants[0].fanout, (0.5, 0.5)))
    pipeline = replace(traffic, tasks=(replace(task, variants=(counted, *task.variants[1:])), *traffic.tasks[1:]))
    found, _ = as_measured(pipeline, (), [Drift(task.name, counted.name, "", 2.0, {})])
    changed = found.tasks[0].variants[0]
    assert (changed.fanout, changed.fanout_counts) == (counted.fanout, counted.fanout_counts)
    assert changed.latency[1].p50 == pytest.approx(2.0 * counted.latency[1].p50)


def test_times_are_those_of_the_type_they_were_measured_on(traffic: Pipeline) -> None:
    pool = (ServerType("a", 2), ServerType("b", 3, speed=0.5, memory_mb=1e6))
    task, variant = traffic.tasks[1].name, traffic.tasks[1].variants[0]
    found, types = as_measured(traffic, pool, [Drift(task, variant.name, "b", 2.0, {})])
    assert types[0] is pool[0]
    assert as_run_by(found, types[0]).variant(task, variant.name).latency == variant.latency
    slow = as_run_by(found, types[1])
    assert slow.variant(task, variant.name).latency[1].p50 == pytest.approx(4 * variant.latency[1].p50)
    assert slow.tasks[0].variants[0].latency[1].p50 == pytest.approx(2 * traffic.tasks[0].variants[0].latency[1].p50)


def test_what_cannot_be_loaded_runs_on_no_server_or_on_those_of_other_types(traffic: Pipeline) -> None:
    task, variant = traffic.tasks[1].name, traffic.tasks[1].variants[0].name
    found, _ = as_measured(traffic, (), (), [Exclusion(task, variant, "", "no such file")])
    assert [one.runnable for one in found.tasks[1].variants] == [False] + [True] * (len(found.tasks[1].variants) - 1)
    assert found.tasks[0] == traffic.tasks[0]
    pool = (ServerType("a", 2), ServerType("b", 3, speed=0.5))
    found, types = as_measured(traffic, pool, (), [Exclusion(task, variant, "b", "no such file")])
    assert [as_run_by(found, kind).variant(task, variant).runnable for kind in types] == [True, False]
    times = [as_run_by(one, kind).tasks[0] for one, kind in ((traffic, pool[1]), (found, types[1]))]
    assert times[0] == times[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An agent that adjusts nothing."""
    return agent_file(tmp_path_factory.mktemp("agent"), "traffic", interval_s=10.0)


POLICIES = ["static", "hardware", "proteus", "loki", "exact", "clairvoyant", "forecast", "ppo"]


@pytest.mark.parametrize("name", POLICIES)
def test_plans_do_without_what_cannot_be_loaded_until_it_can(traffic: Pipeline, name: str, model: str) -> None:
    future = (100,) * 200 if name == "clairvoyant" else ()
    policy = make_policy(name, traffic, PolicyOptions(servers=SERVERS, demand_rps=100.0, future=future, model=model))
    usual = Snapshot(60.0, 10.0, (100,) * 60, 0.0, tuple(Server(number) for number in range(SERVERS)))
    before = policy.decide(usual)
    gone = {(place.task, place.variant) for place in before.placements}
    exclusions = tuple(Exclusion(*model, "", "no such file") for model in sorted(gone))
    without = policy.decide(replace(usual, exclusions=exclusions))
    assert {place.task for place in without.placements} == {task.name for task in traffic.tasks}
    assert not gone & {(place.task, place.variant) for place in without.placements}
    assert without.accuracy < before.accuracy
    after = policy.decide(usual)
    assert (after.placements, after.accuracy) == (before.placements, before.accuracy)


@pytest.mark.parametrize("name", ["hardware", "exact"])
def test_what_cannot_be_loaded_on_one_type_is_planned_on_others(small: Path, name: str) -> None:
    pipeline = load_pipeline(small).pipeline
    pool = (ServerType("a", 4), ServerType("b", 4))
    servers = tuple(Server(number, server_type="ab"[number // 4]) for number in range(8))
    policy = make_policy(name, pipeline, PolicyOptions(servers=8, pool=pool))
    usual = Snapshot(60.0, 10.0, (20,) * 60, 0.0, servers)
    used = {(place.task, place.variant) for place in policy.decide(usual).placements}
    exclusions = tuple(Exclusion(*model, "a", "no such file") for model in sorted(used))
    plan = policy.decide(replace(usual, exclusions=exclusions))
    assert plan.served_fraction == pytest.approx(1.0)
    assert not {(one.task, one.variant) for one in plan.placements if one.server_type == "a"} & used


@pytest.mark.parametrize("name", ["exact", "forecast", "ppo"])
def test_servers_that_have_what_cannot_be_loaded_go_on_with_it(traffic: Pipeline, name: str, model: str) -> None:
    """They need no load. Nobody else gets it, though demand has doubled."""
    policy = make_policy(name, traffic, PolicyOptions(servers=SERVERS, model=model))
    usual = Snapshot(60.0, 10.0, (8,) * 60, 0.0, tuple(Server(number) for number in range(SERVERS)))
    plan = policy.decide(usual)
    serving = [(place.task, place.variant, place.batch) for place in plan.placements for _ in range(place.replicas)]
    held = [Server(number, stage, (stage[:2],)) for number, stage in enumerate(serving)]
    servers = (*held, *(Server(number) for number in range(len(held), SERVERS)))
    broken = tuple(Exclusion(*model, "", "no such file") for model in sorted({stage[:2] for stage in serving}))
    more = replace(usual, arrivals=(16,) * 60, servers=servers, exclusions=broken)
    had, free = Counter(stage[:2] for stage in serving), policy.decide(replace(more, exclusions=()))
    now = policy.decide(more)
    assert any(_wanted(free)[model] > count for model, count in had.items()), "they would be wanted"
    assert all(_wanted(now)[model] <= count for model, count in had.items())
    assert any(_wanted(now)[model] for model in had)
    assert now.served_fraction > 0.99


def _wanted(plan: Plan) -> Counter[tuple[str, str]]:
    return Counter((place.task, place.variant) for place in plan.placements for _ in range(place.replicas))


def test_what_is_excluded_is_planned_with_where_nothing_could_be_served_without(traffic: Pipeline) -> None:
    """The controller sees to it that nobody loads it; who serves it must not be parked."""
    policy = make_policy("hardware", traffic, PolicyOptions(servers=SERVERS, min_accuracy=0.999))
    usual = Snapshot(60.0, 10.0, (100,) * 60, 0.0, tuple(Server(number) for number in range(SERVERS)))
    before = policy.decide(usual)
    one = before.placements[0]
    plan = policy.decide(replace(usual, exclusions=(Exclusion(one.task, one.variant, "", "no such file"),)))
    assert plan.placements == before.placements


@pytest.mark.parametrize("name", ["hardware", "loki", "exact", "forecast", "ppo"])
def test_policies_plan_with_what_was_measured_and_forget_it_after(traffic: Pipeline, name: str, model: str) -> None:
    policy = make_policy(name, traffic, PolicyOptions(servers=SERVERS, model=model))
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
