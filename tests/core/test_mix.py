"""What a plan means for the items of one task."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from loki_rl.core.mix import ELSE, mix_of
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.core.plan import Placement, Plan, Route

FAST = {1: Latency(0.01, 0.01, 0.01), 4: Latency(0.02, 0.02, 0.02)}


def variants(rough: dict[str, float], fine: dict[str, float]) -> tuple[Variant, ...]:
    return Variant("rough", 0.5, FAST, rough), Variant("fine", 0.9, FAST, fine)


PIPELINE = Pipeline(
    name="tree",
    slo_s=0.5,
    tasks=(
        Task("find", variants({"read": 2.0, "sort": 1.0}, {"read": 6.0, "sort": 1.0}), entry=0.5),
        Task("read", variants({}, {}), parent="find"),
        Task("sort", variants({}, {}), parent="find"),
    ),
    leaf_weights={"read": 0.5, "sort": 0.5},
)
FIND, READ, SORT = 0, 1, 2
ROUGH, FINE = 0, 1
PLAN = Plan(
    "accuracy",
    (Placement("read", "fine", 1, 1), Placement("read", "fine", 4, 1), Placement("read", "rough", 1, 2)),
    servers=4, accuracy=0.5, served_fraction=1.0, demand_rps=90.0, capacity_rps=100.0, split={},
    flows={"find": {"rough": 0.4, "fine": 0.6}, "sort": {"fine": 1.0}},
    routes=(
        Route("read", (("rough", 1, ""), ("fine", 4, "")), 0.3),
        Route("read", (("rough", 1, ""), ("fine", 1, "")), 0.1),
        Route("read", (("fine", 1, ""), ("rough", 1, "")), 0.45),
        Route("read", (("fine", 1, ""), ("fine", 4, "")), 0.15),
        Route("sort", (("rough", 1, ""), ("fine", 1, "")), 0.4),
        Route("sort", (("fine", 1, ""), ("fine", 1, "")), 0.6),
    ),
)  # fmt: skip


def test_an_entry_task_has_one_lane() -> None:
    mix = mix_of(PIPELINE, FIND, PLAN)
    assert (mix.lane_of, len(mix.shares), mix.single) == ({}, 1, False)
    assert mix.shares[ELSE] == pytest.approx({ROUGH: 0.4, FINE: 0.6})
    assert mix.rates[ELSE] == pytest.approx({ROUGH: 20.0, FINE: 30.0})


def test_below_it_there_is_a_lane_for_each_variant_path() -> None:
    mix = mix_of(PIPELINE, READ, PLAN)
    from_rough, from_fine = (mix.lane_of[PIPELINE.extend(0, variant)] for variant in (ROUGH, FINE))
    assert mix.shares[from_rough] == {FINE: 1.0}
    assert mix.shares[from_fine] == pytest.approx({ROUGH: 0.75, FINE: 0.25})
    assert mix.rates[from_rough] == pytest.approx({FINE: 50 * 0.4 * 2})
    assert mix.rates[from_fine] == pytest.approx({ROUGH: 50 * 0.45 * 6, FINE: 50 * 0.15 * 6})
    assert mix.rate == pytest.approx(50 * (0.4 * 2 + 0.6 * 6))
    assert mix.bursts == {FINE: 8.0, ROUGH: 2.0}


def test_items_of_other_paths_are_served_as_all_are_on_average() -> None:
    mix = mix_of(PIPELINE, READ, PLAN)
    fine = (0.4 * 2 + 0.15 * 6) / (0.4 * 2 + 0.6 * 6)
    assert mix.shares[ELSE] == pytest.approx({ROUGH: 1 - fine, FINE: fine})
    assert mix.rates[ELSE] == {}


def test_where_one_variant_serves_all_there_is_nothing_to_keep_apart() -> None:
    mix = mix_of(PIPELINE, SORT, PLAN)
    assert (mix.single, mix.lane_of, mix.shares) == (True, {}, ({FINE: 1.0},))


def test_a_plan_without_routes_says_shares_of_entry_tasks() -> None:
    plan = replace(PLAN, routes=())
    assert mix_of(PIPELINE, FIND, plan) == mix_of(PIPELINE, FIND, PLAN)
    assert mix_of(PIPELINE, READ, plan).single
