"""What holds a router's variants to the plan: tokens while a child falls behind, and accounts while all goes well."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from loki_rl.core.messages import Cancelled, PlanChanged, Pressure, Submit, Tick
from loki_rl.core.mix import mix_of
from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Pipeline, Task
from loki_rl.core.plan import Placement, Plan, Route
from loki_rl.core.requests.items import Family
from loki_rl.core.routing.deficit_round_robin import MEMORY_S
from loki_rl.core.routing.pull_router import PullRouter
from loki_rl.core.routing.token_buckets import FRESH_S
from tests.core.fork import FIND, FINE, PIPELINE, READ, ROUGH, batches, items, make, plan, pressures, ready, roots, variants

# -- tokens ---------------------------------------------------------------------------------------------------------------


def pulled(actor: PullRouter, number: int, serial: int, variant: int, now: float) -> bool:
    return f"worker:{number}" in batches(actor.handle(ready(number, variant, 1, serial), now))


def test_an_empty_bucket_bars_a_variant_only_while_a_child_is_pressed() -> None:
    """Planned for 10 items/s of the accurate variant: a burst of two, then 11 a second; plans that come each second fill no
    bucket again."""
    actor = make(FIND, drop="none", lease=3000.0)
    actor.handle(PlanChanged(plan(0.5)), 0.0)
    actor.handle(items(*range(20)), 0.0)
    assert all(pulled(actor, 0, serial, FINE, 0.0) for serial in range(1, 6)), "pulling conserves work"
    soon = FRESH_S / 2
    actor.handle(PlanChanged(plan(0.5)), soon)
    actor.handle(Pressure(READ, True), soon)
    assert [pulled(actor, 0, serial, FINE, soon) for serial in (7, 8, 9)] == [True, True, False], "what came since, no burst"
    now = soon + FRESH_S
    actor.handle(Pressure(READ, False), now)
    actor.handle(PlanChanged(plan(0.5)), now)
    actor.handle(Pressure(READ, True), now)
    assert [pulled(actor, 0, serial, FINE, now) for serial in (11, 12, 13)] == [True, True, False]
    assert pulled(actor, 1, 1, ROUGH, now), "the other variant has tokens of its own"
    wake = actor.wake_at()
    assert wake is not None
    assert wake == pytest.approx(now + 1 / 11, abs=1e-5)
    assert list(batches(actor.handle(Tick(), wake))) == ["worker:0"], "a token is there when the router said so"
    assert not pulled(actor, 0, 14, FINE, wake)
    assert list(batches(actor.handle(Pressure(READ, False), wake))) == ["worker:0"]


def test_a_task_tells_its_parent_when_it_falls_behind_and_when_it_has_caught_up() -> None:
    actor = make(READ)
    actor.handle(ready(0, FINE, batch=1), 0.0)
    assert pressures(actor.handle(items(*range(5)), 0.0)) == []
    assert pressures(actor.handle(items(*range(5, 9)), 0.0)) == [("router:0", True)]
    assert pressures(actor.handle(items(9), 0.0)) == [], "only changes"
    assert pressures(actor.handle(Cancelled(list(range(10))), 0.0)) == [("router:0", False)]


def test_a_task_without_workers_falls_behind() -> None:
    assert pressures(make(READ).handle(items(1), 0.0)) == [("router:0", True)]


DEEP = Pipeline(
    name="deep",
    slo_s=0.5,
    tasks=(
        Task("a", variants({"b": 1.0}), entry=1.0),
        Task("b", variants({"c": 1.0}), parent="a"),
        Task("c", variants({}), parent="b"),
    ),
    leaf_weights={"c": 1.0},
    hop_s=0.0,
)
FROM_ROUGH, FROM_FINE = DEEP.extend(0, ROUGH), DEEP.extend(0, FINE)


def deep_plan(rps: float) -> Plan:
    """What fine made goes on to fine, what rough made to rough."""
    paths = (("rough", "rough"), ("fine", "fine"))
    routes = tuple(Route("c", ((a, 1, ""), (b, 1, ""), ("fine", 1, "")), 0.5) for a, b in paths)
    flows = {name: {"rough": 0.5, "fine": 0.5} for name in "ab"} | {"c": {"fine": 1.0}}
    placements = tuple(Placement(name, variant, 1, 1) for name in "ab" for variant in ("rough", "fine"))
    return Plan("accuracy", placements, 4, 0.5, 1.0, rps, rps, {"a": 0.3, "b": 0.6, "c": 1.0}, flows, routes=routes)


def deep_router(task: int = 1, rps: float = 20.0) -> PullRouter:
    actor = PullRouter(ClusterOptions(DEEP, 4, drop="none", lead_s=0.0, lease=30.0), task)
    actor.handle(PlanChanged(deep_plan(rps)), 0.0)
    return actor


def made_by(prefix: int, *numbers: int) -> Submit:
    return Submit([Family(DEEP.child_id(DEEP.entry_id(number, 0), 1, 0), 0.0, 0.5, prefix) for number in numbers])


def test_below_the_entry_tokens_are_for_a_variant_path_and_a_variant() -> None:
    """fine has tokens for what fine made: two, then 11 a second. For what rough made the plan gives it none, nor bars it."""
    actor = deep_router()
    actor.handle(Pressure(2, True), 0.0)
    actor.handle(made_by(FROM_FINE, *range(10)), 0.0)
    assert [pulled(actor, 0, serial, FINE, 0.0) for serial in (1, 2, 3)] == [True, True, False]
    actor.handle(made_by(FROM_ROUGH, 20), 0.0)
    assert not actor.queue.lanes[actor.shares.mix.lane_of[FROM_ROUGH]], "the barred worker took what it may take"
    wake = actor.wake_at()
    assert wake == pytest.approx(1 / 11, abs=1e-5)


# -- shares ---------------------------------------------------------------------------------------------------------------


def test_a_variant_gets_the_items_that_the_plan_means_for_it() -> None:
    actor = deep_router()
    actor.handle(made_by(FROM_FINE, 1, 2), 0.0)
    actor.handle(made_by(FROM_ROUGH, 3, 4), 0.0)
    assert roots(batches(actor.handle(ready(0, ROUGH, 2), 0.0))["worker:0"]) == [3, 4]
    assert roots(batches(actor.handle(ready(1, FINE, 2), 0.0))["worker:1"]) == [1, 2]


def test_who_has_nothing_of_its_own_takes_what_there_is() -> None:
    actor = deep_router()
    actor.handle(made_by(FROM_FINE, 1, 2), 0.0)
    assert roots(batches(actor.handle(ready(0, ROUGH, 2), 0.0))["worker:0"]) == [1, 2]


def test_what_is_urgent_goes_to_whoever_pulls() -> None:
    actor = deep_router()
    actor.handle(made_by(FROM_FINE, 1), 0.0)
    actor.handle(made_by(FROM_ROUGH, 2), 0.0)
    urgent = Submit([Family(DEEP.child_id(DEEP.entry_id(9, 0), 1, 0), -0.295, 0.205, FROM_FINE)])
    actor.handle(urgent, 0.0)
    assert roots(batches(actor.handle(ready(0, ROUGH, 1), 0.0))["worker:0"]) == [9]


def test_items_of_a_path_that_the_plan_does_not_have_are_served_too() -> None:
    """A worker of the former plan made them, or rerouting did."""
    actor = deep_router()
    actor.handle(made_by(0, 1), 0.0)
    assert roots(batches(actor.handle(ready(0, ROUGH, 1), 0.0))["worker:0"]) == [1]


def test_items_that_wait_when_a_plan_comes_are_kept_in_its_lanes() -> None:
    actor = PullRouter(ClusterOptions(DEEP, 4, drop="none", lead_s=0.0, lease=30.0), 1)
    actor.handle(made_by(FROM_FINE, 1), 0.0)
    actor.handle(made_by(FROM_ROUGH, 2), 0.0)
    actor.handle(PlanChanged(deep_plan(20.0)), 0.0)
    actor.validate()
    assert [len(lane) for lane in actor.queue.lanes] == [0, 1, 1]


@pytest.mark.parametrize(("rps", "share"), [(20.0, 0.5), (100.0, 1.0)])
def test_idle_variants_serve_their_shares_and_spare_time_goes_to_the_accurate_one(rps: float, share: float) -> None:
    """20 items a second come, one at a time; all workers are idle. Planned for as many: half to each. Planned for 100: all
    to the more accurate one."""
    actor = make(READ, drop="none")
    both = {"find": {"fine": 1.0}, "read": {"rough": 0.5, "fine": 0.5}, "sort": {"fine": 1.0}}
    routes = tuple(Route("read", (("fine", 1, ""), (name, 1, "")), 0.5) for name in ("rough", "fine"))
    # Two children an item: rps of the task, not of the requests.
    actor.handle(PlanChanged(Plan("accuracy", (), 2, 0.5, 1.0, rps / 2, rps / 2, {}, both, routes=routes)), 0.0)
    served = {ROUGH: 0, FINE: 0}
    for number in range(400):
        now = number / 20
        for variant in (ROUGH, FINE):
            actor.handle(ready(variant, variant, 1, number + 1), now)
        (batch,) = batches(
            actor.handle(Submit([Family(number << 31, now, now + 9, PIPELINE.extend(0, FINE))]), now)
        ).values()
        served[batch.variant] += number >= 200
    assert served[FINE] / 200 == pytest.approx(share, abs=0.02)


def test_plans_that_come_each_second_do_not_make_the_shares_begin_anew() -> None:
    """What a variant is owed, and how fast items come, was counted under a plan that is younger than that memory."""
    shares = deep_router(rps=200.0).shares
    shares.adopt(shares.mix, 10.0)
    families = [family for number in range(10) for family in made_by(FROM_FINE, number).families]
    shares.arrive(families, 10.1)
    owed, rate = [dict(account) for account in shares.accounts], shares.rate
    assert any(amount > 0 for account in owed for amount in account.values())
    shares.adopt(mix_of(DEEP, 1, deep_plan(100.0)), 11.0)
    assert (shares.accounts, shares.rate) == (owed, rate)
    shares.adopt(shares.mix, 11.0 + MEMORY_S)
    assert not any(amount for account in shares.accounts for amount in account.values())
    assert shares.rate == shares.mix.rate


def test_a_variant_that_a_new_plan_brings_is_owed_nothing_and_one_that_it_drops_is_forgotten() -> None:
    shares = deep_router().shares
    shares.arrive(made_by(FROM_ROUGH, *range(4)).families, 0.1)
    owed = shares.accounts[shares.mix.lane_of[FROM_ROUGH]]
    assert owed[ROUGH] > 0
    crossed = replace(
        deep_plan(20.0),
        routes=(Route("c", (("rough", 1, ""), ("fine", 1, ""), ("fine", 1, "")), 0.5), *deep_plan(20.0).routes),
    )
    shares.adopt(mix_of(DEEP, 1, crossed), 0.5)
    assert shares.accounts[shares.mix.lane_of[FROM_ROUGH]] == {FINE: 0.0, ROUGH: owed[ROUGH]}
    shares.adopt(mix_of(DEEP, 1, replace(deep_plan(20.0), routes=crossed.routes[:1])), 1.0)
    assert shares.accounts == [{FINE: 0.0}]
