"""Proteus: each task on its own, on the whole cluster."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from loki_rl.control.formulation.request import RequestError
from loki_rl.control.policies.named import make_policy
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.control.policies.proteus import expected_items
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.core.plan import Plan, Snapshot
from loki_rl.files.config import load_pipeline
from loki_rl.runs.options import RunOptions
from loki_rl.runs.run import run_twin

ROOT = Path(__file__).parents[3]


def row(ms: float) -> Latency:
    return Latency(ms / 1000, ms / 1000, ms / 1000)


def variant(name: str, accuracy: float, ms: float, children: float | None = None) -> Variant:
    """Two at once take 1.5 times as long."""
    fanout = {} if children is None else {"read": children}
    return Variant(name, accuracy, {1: row(ms), 2: row(1.5 * ms)}, fanout)


PIPELINE = Pipeline(
    "small",
    0.2,
    (
        Task("find", (variant("quick", 0.8, 10, 2.0), variant("sure", 1.0, 30, 4.0)), entry=1.0),
        Task("read", (variant("quick", 0.9, 5), variant("sure", 1.0, 20)), parent="find"),
    ),
    {"read": 1.0},
    servers=4,
)


@pytest.fixture(scope="module")
def traffic() -> Pipeline:
    return load_pipeline(ROOT / "pipelines" / "traffic.yaml").pipeline


def decide(pipeline: Pipeline, servers: int, root: int, items: dict[str, int], **options: float) -> Plan:
    policy = make_policy("proteus", pipeline, replace(PolicyOptions(servers=servers, headroom=0.0), **options))
    counts: dict[str, tuple[int, ...]] = {task: (rps,) * 20 for task, rps in items.items()}
    return policy.decide(Snapshot(20.0, 10.0, (root,) * 20, 0.0, (), items=counts))


def replicas(plan: Plan, task: str) -> dict[str, int]:
    return {place.variant: place.replicas for place in plan.placements if place.task == task}


@settings(max_examples=60, deadline=None)
@given(servers=st.integers(3, 30), root=st.integers(0, 900), cars=st.integers(0, 9000), faces=st.integers(0, 900))
def test_a_plan_uses_every_server_and_promises_no_more_than_they_can(
    traffic: Pipeline, servers: int, root: int, cars: int, faces: int
) -> None:
    items = {"object_detection": root, "car_classification": cars, "facial_recognition": faces}
    plan = decide(traffic, servers, root, items)
    assert plan.servers == servers == sum(place.replicas for place in plan.placements)
    assert 0 <= plan.served_fraction <= 1
    assert 0 < plan.accuracy <= traffic.best_accuracy + 1e-9
    for task in traffic.tasks:
        flows = plan.flows[task.name]
        assert sum(flows.values()) == pytest.approx(1)
        assert set(flows) == {place.variant for place in plan.placements if place.task == task.name}
        served = plan.served_fraction * max(items[task.name], 0.5)
        for place in (place for place in plan.placements if place.task == task.name):
            rate = place.batch / traffic.variant(task.name, place.variant).latency[place.batch].p50
            assert flows[place.variant] * served <= place.replicas * rate * (1 + 1e-4)
    assert (plan.mode == "shed") == (plan.served_fraction < 1)


@settings(max_examples=40, deadline=None)
@given(servers=st.integers(2, 5), find=st.integers(1, 250), read=st.integers(1, 1200))
def test_it_is_the_best_of_all_fleets(servers: int, find: int, read: int) -> None:
    """Against every fleet there is, its items served most accurately."""
    rates = [[2 / 0.015, 2 / 0.045], [2 / 0.0075, 2 / 0.030]]
    accuracies = [[0.8, 1.0], [0.9, 1.0]]

    def best(demand: float, fleet: tuple[int, int], task: int) -> tuple[float, float]:
        sure = min(demand, fleet[1] * rates[task][1])
        quick = min(demand - sure, fleet[0] * rates[task][0])
        return sure + quick, sure * accuracies[task][1] + quick * accuracies[task][0]

    everything, found = find + read, []
    for a, b, c, d in product(range(servers + 1), repeat=4):
        if a + b >= 1 and c + d >= 1 and a + b + c + d <= servers:
            one, two = best(find, (a, b), 0), best(read, (c, d), 1)
            found.append((round((one[0] + two[0]) / everything, 5), (one[1] + two[1]) / everything))
    plan = decide(PIPELINE, servers, find, {"find": find, "read": read})
    served = max(found)[0]
    # A fraction that is served less well may be served more accurately, within the tolerance of the first question.
    accuracy = max(value for share, value in found if share >= served - 1e-5)
    assert plan.certificate.objective == pytest.approx(accuracy, abs=1e-4)


def test_a_detectors_variant_does_not_change_what_is_planned_below() -> None:
    """A pipeline-aware planner would see fewer crops coming with a smaller detector."""
    barren = replace(
        PIPELINE,
        tasks=(
            replace(
                PIPELINE.tasks[0],
                variants=tuple(replace(one, fanout={"read": 0.1}) for one in PIPELINE.tasks[0].variants),
            ),
            PIPELINE.tasks[1],
        ),
    )
    items = {"find": 100, "read": 300}
    assert decide(PIPELINE, 4, 100, items).placements == decide(barren, 4, 100, items).placements


def test_what_a_task_counts_is_what_it_plans_for() -> None:
    few, many = (decide(PIPELINE, 4, 50, {"find": 50, "read": read}) for read in (20, 700))
    assert replicas(few, "read") == {"sure": 1}
    assert sum(replicas(many, "read").values()) > 1
    assert sum(replicas(many, "find").values()) < sum(replicas(few, "find").values())


def test_before_anything_was_counted_the_best_models_children_are_expected(traffic: Pipeline) -> None:
    assert expected_items(PIPELINE, 1) == 4.0
    assert expected_items(traffic, traffic.index["car_classification"]) == pytest.approx(17.817042)
    policy = make_policy("proteus", PIPELINE, PolicyOptions(servers=4, headroom=0.0, initial_rps=50.0))
    first = policy.decide(Snapshot(0.0, 10.0, (), 0.0, ()))
    assert first.placements == decide(PIPELINE, 4, 50, {"find": 50, "read": 200}).placements


def test_stages_have_equal_shares_of_the_slo(traffic: Pipeline) -> None:
    plan = decide(traffic, 20, 100, {"object_detection": 100, "car_classification": 1700, "facial_recognition": 100})
    assert plan.split == {"object_detection": 0.5, "car_classification": 1.0, "facial_recognition": 1.0}
    for place in plan.placements:
        assert traffic.variant(place.task, place.variant).latency[place.batch].p50 <= 0.25 / 4


def test_a_task_that_nothing_fits_still_has_its_quickest_model() -> None:
    plan = decide(PIPELINE, 4, 1, {"find": 1, "read": 1}, slo_s=0.03)
    assert replicas(plan, "find").keys() == {"quick"}


def test_a_floor_holds_on_average_over_all_items() -> None:
    plan = decide(PIPELINE, 3, 200, {"find": 200, "read": 20}, min_accuracy=0.95)
    assert plan.mode == "shed"
    assert plan.certificate.objective >= 0.95 * plan.served_fraction - 1e-6


@pytest.mark.parametrize(
    ("change", "says"), [({"queueing": "tail"}, "leave --queueing out"), ({"servers": 1}, "a server for every task: 2")]
)
def test_what_it_cannot_do_is_said(change: dict[str, object], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        make_policy("proteus", PIPELINE, replace(PolicyOptions(servers=4), **change))


def test_in_the_twin_it_keeps_the_whole_cluster_busy() -> None:
    done = run_twin(RunOptions("traffic", "flash_crowd", "proteus", mean_rps=40.0, to_s=40.0, interval_s=5.0))
    assert done.summary.servers_mean is not None
    assert done.summary.servers_mean > 19
    assert done.summary.slo_violation_ratio < 0.05
    assert (done.summary.accuracy or 0.0) > 0.97


def test_a_task_of_which_nothing_can_be_served_still_has_a_server_and_shares() -> None:
    plan = decide(PIPELINE, 2, 1000, {"find": 1000, "read": 1000}, min_accuracy=0.99)
    assert replicas(plan, "find")
    assert sum(plan.flows["find"].values()) == pytest.approx(1)
