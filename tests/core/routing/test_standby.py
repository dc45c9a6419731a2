"""Variants that the plan has and means for nothing stand by: they take what would be late without them, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from loki_rl.core.effects import Effect
from loki_rl.core.messages import Event, Execute, Leaving, Outcome, PlanChanged, Result, Submit, Tick, WorkerGone
from loki_rl.core.options import DROPS, ClusterOptions, DropPolicy
from loki_rl.core.plan import Placement, Plan, Route
from loki_rl.core.routing.pull_router import PullRouter
from loki_rl.core.routing.table_router import TableRouter
from tests.core.fork import FIND, FINE, MS, PIPELINE, READ, ROUGH, SLO, batches, items, plan, ready, result, roots, settled

# One item takes 20 ms in the fine variant and 5 in the rough one; four take 50 and 8.
NAMES = {ROUGH: "rough", FINE: "fine"}


def meaning(*meant: int, placed: tuple[int, ...] = (ROUGH, FINE), rps: float = 20.0) -> Plan:
    """These variants share what comes to the task to be read; the placed ones are there."""
    flows = {"find": {"fine": 1.0}, "read": {NAMES[variant]: 1 / len(meant) for variant in meant}, "sort": {"fine": 1.0}}
    places = (Placement("find", "fine", 4, 1), *(Placement("read", NAMES[variant], 4, 1) for variant in placed))
    routes = tuple(Route("read", (("fine", 1, ""), (NAMES[variant], 4, "")), 1 / len(meant)) for variant in meant)
    split = {"find": 0.5, "read": 1.0, "sort": 1.0}
    return Plan("accuracy", places, 2, 0.9, 1.0, rps, rps, split, flows, routes=routes)


class Task:
    """A router that is valid after every word, and whose wakes come as it asked for them."""

    def __init__(self, plan: Plan | None = None, task: int = READ, **options: Any) -> None:
        self.router = PullRouter(ClusterOptions(PIPELINE, 6, lead_s=0.0, **options), task)
        self.now = 0.0
        self.tell(PlanChanged(meaning(FINE) if plan is None else plan))

    def tell(self, event: Event, now: float | None = None) -> list[Effect]:
        self.now = self.now if now is None else now
        effects = self.router.handle(event, self.now)
        self.router.validate()
        return effects

    def given(self, event: Event, now: float | None = None) -> dict[str, list[int]]:
        return {to: roots(batch) for to, batch in batches(self.tell(event, now)).items()}

    def wakes(self, until: float) -> dict[float, dict[str, list[int]]]:
        """When the router wakes by itself, and what it gives out then."""
        found: dict[float, dict[str, list[int]]] = {}
        for _ in range(100):
            wake = self.router.wake_at()
            if wake is None or wake > until:
                return found
            found[wake] = self.given(Tick(), max(self.now, wake))
        raise AssertionError("the router asks for Ticks without end")


def pulling(*variants: int, plan: Plan | None = None, **options: Any) -> Task:
    """Workers 0, 1, ... pull for these variants."""
    task = Task(plan, **options)
    for number, variant in enumerate(variants):
        assert task.given(ready(number, variant)) == {}
    return task


def test_it_stands_by_while_one_that_is_meant_is_free() -> None:
    task = pulling(ROUGH, FINE)
    assert task.given(items(1)) == {"worker:1": [1]}
    assert task.router.wake_at() is not None
    assert task.router.due_at == float("inf"), "nothing waits"


def test_it_stands_by_while_those_that_are_meant_are_in_time() -> None:
    task = pulling(ROUGH, FINE)
    task.given(items(1))
    batch = next(iter(task.router.leases.all))
    assert task.given(items(2), 0.01) == {}
    done = Result(1, 0, batch, FINE, [], 0.02, "")
    assert task.given(done, 0.02) == {}
    assert task.given(ready(1, FINE, serial=2), 0.02) == {"worker:1": [2]}
    assert list(task.router.pullers.idle) == [0]


def test_it_takes_what_would_be_late_and_the_router_wakes_for_that_by_itself() -> None:
    task = pulling(ROUGH, FINE, lease=30.0)
    task.given(items(1))
    assert task.given(items(2), 0.01) == {}
    (wake, given), *more = task.wakes(0.01 + SLO).items()
    assert given == {"worker:0": [2]}
    assert more == []
    assert wake < 0.01 + SLO - 5 * MS, "in time to end by the deadline"
    assert wake > 0.01 + SLO - 5 * MS - 20 * MS, "not much sooner"


def test_a_burst_that_those_that_are_meant_cannot_serve_is_begun_before_its_tail_is_late() -> None:
    """24 at once: the first may wait for long, the last not. Nothing is lost, though the task is never told to hurry."""
    task = pulling(FINE, ROUGH, soft_deadlines=False)
    ends: list[Outcome] = []
    queue: list[tuple[float, int, Execute]] = []
    serials = {0: 1, 1: 1}

    def take(effects: list[Effect]) -> None:
        ends.extend(verdict.outcome for verdict in settled(effects) for _ in verdict.families)
        for to, batch in batches(effects).items():
            number = int(to.split(":")[1])
            seconds = task.router.times.of[0][batch.variant][len(batch.families)]
            queue.append((task.now + seconds, number, batch))

    take(task.tell(items(*range(24)), 0.0))
    while queue or task.router.queue.waiting:
        wake = task.router.wake_at()
        queue.sort(key=lambda one: one[0])
        if not queue or (wake is not None and wake < queue[0][0]):
            assert wake is not None
            take(task.tell(Tick(), max(wake, task.now)))
            continue
        at, number, batch = queue.pop(0)
        serials[number] += 1
        take(task.tell(result(batch, number), at))
        take(task.tell(ready(number, batch.variant, serial=serials[number])))
    assert ends == [Outcome.OK] * 24


def test_under_overload_it_takes_all() -> None:
    task = pulling(ROUGH)
    task.given(ready(1, FINE))
    given = task.given(items(*range(100)))
    assert set(given) == {"worker:0", "worker:1"}


def test_it_takes_over_when_no_variant_that_is_meant_pulls() -> None:
    task = pulling(ROUGH, FINE, drop="none", lease=30.0)
    task.given(items(1))
    assert task.given(items(2)) == {}
    assert task.given(Leaving(1, 0)) == {"worker:0": [2]}
    task = pulling(ROUGH, FINE, drop="none", lease=30.0)
    task.given(items(1))
    task.given(items(2))
    assert task.given(WorkerGone(1, "killed")) == {"worker:0": [1]}, "and what was lost first"


def test_one_that_a_new_plan_means_begins_at_once() -> None:
    task = pulling(ROUGH, FINE, lease=30.0)
    task.given(items(1))
    task.given(items(2))
    assert task.given(PlanChanged(meaning(ROUGH, FINE))) == {"worker:0": [2]}


def test_one_that_stands_by_goes_on_doing_so_while_the_plan_sends_it_away() -> None:
    """A server that is held, or ends what it does: not the moment to serve what the accurate ones could."""
    task = pulling(ROUGH, FINE, lease=30.0)
    task.given(items(1))
    assert task.given(PlanChanged(meaning(FINE, placed=(FINE,)))) == {}
    assert task.given(items(2)) == {}
    assert task.given(PlanChanged(meaning(ROUGH, placed=(ROUGH,)))) == {"worker:0": [2]}, "until a plan means it again"


@pytest.mark.parametrize("other", [meaning(FINE, placed=(FINE,)), meaning(ROUGH, FINE), plan(0.5)])
def test_plans_that_give_all_they_place_a_share_know_nobody_who_stands_by(other: Plan) -> None:
    """Also of a former plan: what had a share in it takes what there is until it leaves."""
    task = pulling(ROUGH, FINE, plan=meaning(ROUGH, FINE), lease=30.0)
    task.given(PlanChanged(other))
    task.given(items(1))
    assert task.given(items(2)) == {"worker:0": [2]}
    assert task.router.standby.among(task.router.pullers) == frozenset()


def test_without_a_plan_nobody_stands_by() -> None:
    router = PullRouter(ClusterOptions(PIPELINE, 2, lead_s=0.0), READ)
    for number, variant in enumerate((ROUGH, FINE)):
        router.handle(ready(number, variant), 0.0)
    given = [batches(router.handle(items(number), 0.0)) for number in (1, 2)]
    assert [list(one) for one in given] == [["worker:1"], ["worker:0"]]


def test_an_accurate_variant_that_stands_by_comes_after_the_ones_that_are_meant() -> None:
    """It is left from demand that was lower, and slower: what is urgent for it the meant one still serves in time."""
    task = pulling(FINE, ROUGH, plan=meaning(ROUGH))
    assert task.given(items(1, t0=-0.085)) == {"worker:1": [1]}
    assert task.given(items(2, t0=-0.079)) == {"worker:0": [2]}


def test_a_lane_without_items_wakes_nobody() -> None:
    task = pulling(ROUGH, FINE, plan=meaning(FINE), task=FIND)
    assert task.given(Submit([])) == {}
    assert task.router.due_at == float("inf")


# -- by table -------------------------------------------------------------------------------------------------------------


def dealt(plan: Plan, numbers: range, drop: DropPolicy) -> tuple[dict[str, list[int]], dict[int, int]]:
    """What workers 0 (fine) and 1 (rough) get of items that come at once, and how many wait for each then."""
    router = TableRouter(ClusterOptions(PIPELINE, 2, lead_s=0.0, routing="table", drop=drop), READ)
    for event in (PlanChanged(plan), ready(0, FINE), ready(1, ROUGH)):
        router.handle(event, 0.0)
        router.validate()
    found = [replace(family, prefix=PIPELINE.extend(0, FINE)) for family in items(*numbers).families]
    given = {to: roots(batch) for to, batch in batches(router.handle(Submit(found), 0.0)).items()}
    router.validate()
    return given, {number: queue.waiting for number, queue in router.dealt.items()}


@pytest.mark.parametrize("drop", DROPS)
def test_a_table_deals_to_those_that_stand_by_what_its_worker_would_end_too_late(drop: DropPolicy) -> None:
    """100 ms are enough for eight in the fine variant; the table knows of 20 a second and gives it all."""
    given, waiting = dealt(meaning(FINE), range(6), drop)
    assert given == {"worker:0": [0, 1, 2, 3]}
    assert waiting == {0: 2, 1: 0}
    given, waiting = dealt(meaning(FINE), range(20), drop)
    assert given == {"worker:0": [0, 1, 2, 3], "worker:1": [8, 9, 10, 11]}
    assert waiting == {0: 4, 1: 8}


def test_where_nobody_stands_by_an_item_waits_for_the_worker_it_was_dealt_to_however_long() -> None:
    given, waiting = dealt(meaning(FINE, placed=(FINE,)), range(20), "none")
    assert given == {"worker:0": [0, 1, 2, 3]}
    assert waiting == {0: 16, 1: 0}
