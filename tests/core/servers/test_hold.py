"""Where plans are made each second, a server leaves what it serves only when the wish has stood: what is taken back costs no
load, and what stands is carried out."""

from __future__ import annotations

from math import inf

import pytest
from msgspec.structs import replace

from loki_rl.core.controller import ADOPT_S, COUNTED_S, RETRY_S, Controller
from loki_rl.core.messages import Planned, Resume, Tick, WorkerGone
from loki_rl.core.options import ClusterOptions
from loki_rl.core.plan import Plan
from loki_rl.core.servers.rollout import HOLD_S
from tests.core.controlled import PIPELINE, Cluster, orders, plan, snapshots

CALM, CROWD = plan(f0=1, r1=3), plan(f0=1, r1=1, r0=2)


def calm(servers: int = 4, interval_s: float = 1.0) -> Cluster:
    cluster = Cluster(servers, interval_s=interval_s)
    cluster.serve(CALM, "f0", "r1", "r1", "r1")
    return cluster


def unasked(cluster: Cluster) -> Cluster:
    """No plan falls due: what happens, happens by itself."""
    cluster.controller.next_solve = inf
    return cluster


def wishes(cluster: Cluster, wish: Plan, now: float) -> dict[int, str]:
    """What a plan that is made at a time has servers told, then and until the next one."""
    told = orders(cluster.tell(Planned(wish), now))
    wake = cluster.controller.wake_at()
    while wake is not None and wake < now + 1.0:
        told |= orders(cluster.tell(Tick(), max(wake, cluster.now)))
        if cluster.controller.solving:
            break
        wake = cluster.controller.wake_at()
    return told


def test_a_wish_that_is_taken_back_in_time_causes_no_load() -> None:
    cluster = calm()
    for second in range(1, 21):
        wish = CROWD if second % 2 else CALM
        told = wishes(cluster, wish, second + COUNTED_S)
        assert set(told.values()) <= {"r1"}, "at most to go on with what they serve"
        assert not any(machine.swapping for machine in cluster.controller.machines.values())


def test_a_wish_that_stands_leads_to_the_load_on_the_minute_without_another_plan() -> None:
    cluster = unasked(calm())
    assert orders(cluster.tell(Planned(CROWD), 1.0)) == {}
    assert orders(cluster.tell(Planned(CROWD), 2.0)) == {}
    assert cluster.controller.retry_at == 1.0 + HOLD_S
    assert orders(cluster.tell(Tick(), 0.99 + HOLD_S)) == {}
    wake = cluster.controller.wake_at()
    assert wake is not None
    assert wake <= 1.0 + HOLD_S
    assert orders(cluster.tell(Tick(), 1.0 + HOLD_S)) == {2: "r0", 3: "r0"}


def test_a_wish_that_changes_each_second_is_one_wish_to_leave() -> None:
    cluster, others = unasked(calm()), plan(f0=3, r1=1)
    for now, wish in ((1.0, CROWD), (1.6, others), (2.4, CROWD)):
        assert orders(cluster.tell(Planned(wish), now)) == {}
    assert orders(cluster.tell(Tick(), 1.0 + HOLD_S)) == {2: "r0", 3: "r0"}


def test_who_serves_nothing_loads_at_once() -> None:
    cluster = calm(6)
    assert orders(cluster.tell(Planned(plan(f0=1, r1=1, r0=4)), 1.0)) == {4: "r0", 5: "r0"}
    cluster.begins(4, "r0")
    assert orders(cluster.tell(Planned(plan(f0=4, r1=2)), 2.0))[4] == "f0", "nor does one that loads"


def test_another_batch_size_of_what_it_serves_is_told_at_once() -> None:
    cluster = calm()
    wider = replace(CALM, placements=tuple(replace(place, batch=2) for place in CALM.placements))
    assert orders(cluster.tell(Planned(wider), 1.0)) == {0: "f0", 1: "r1", 2: "r1", 3: "r1"}


def test_a_server_that_has_lost_its_model_or_comes_back_is_not_held() -> None:
    cluster = calm()
    cluster.tell(Planned(CROWD), 1.0)
    assert orders(cluster.report(3, life=1, now=1.5)) == {3: "r0"}, "a new process serves nothing"
    cluster.tell(WorkerGone(2, "killed"), 1.6)
    assert orders(cluster.tell(Planned(CROWD), 1.7)) == {}, "one fewer that leaves"
    cluster.loads[2] = 0
    cluster.report(2, life=1, now=1.8)
    assert orders(cluster.tell(Planned(CROWD), 1.9)) == {2: "r0"}


def test_a_lost_server_is_planned_around_at_once_and_who_has_to_leave_for_it_goes_when_the_wish_has_stood() -> None:
    cluster = unasked(calm())
    cluster.tell(WorkerGone(0, "killed"), 1.0)
    assert len(snapshots(cluster.tell(Tick(), 1.0))) == 1
    assert orders(cluster.tell(Planned(plan(f0=1, r1=2)), 1.0)) == {}
    assert orders(cluster.tell(Tick(), 1.0 + HOLD_S)) == {3: "f0"}


def test_a_hold_does_not_shorten_the_pause_after_a_failed_load() -> None:
    """It fails again as late as the hold ends, and is told a pause later; a plan in between changes nothing."""
    cluster = Cluster(2, interval_s=1.0)
    cluster.up(plan(f0=2))
    for number in (0, 1):
        cluster.begins(number, "f0")
    cluster.report(0, serves="f0")
    cluster.report(1, ends="f0", error="out of memory", now=0.5)
    for now in (0.6, 0.9, 0.4 + RETRY_S):
        assert orders(cluster.tell(Planned(plan(f0=2)), now)) == {}
    assert orders(cluster.tell(Tick(), 0.5 + RETRY_S)) == {1: "f0"}


def test_a_restarted_controller_counts_from_when_it_took_over() -> None:
    cluster = calm()
    cluster.controller = Controller(ClusterOptions(PIPELINE, 4, interval_s=1.0), 1)
    cluster.tell(Tick(), 9.0)
    cluster.tell(Resume(0.0, 9, [5] * 9, replace(plan(f0=1, r1=2, r0=1), epoch=3)), 9.0)
    for number, name in enumerate(("f0", "r1", "r1", "r1")):
        told = orders(cluster.report(number, serves=name, now=9.0 + ADOPT_S / 2))
        assert told == {}
    unasked(cluster)
    assert orders(cluster.tell(Tick(), 8.9 + ADOPT_S / 2 + HOLD_S)) == {}
    assert orders(cluster.tell(Tick(), 9.0 + ADOPT_S / 2 + HOLD_S)) == {3: "r0"}


@pytest.mark.parametrize(("interval_s", "load_s"), [(HOLD_S, 5.0), (10.0, 5.0), (1.0, 1.0), (1.0, 0.0)])
def test_where_plans_are_rare_or_loads_short_nobody_is_held(interval_s: float, load_s: float) -> None:
    tasks = tuple(
        replace(task, variants=tuple(replace(variant, load_s=load_s) for variant in task.variants))
        for task in PIPELINE.tasks
    )
    cluster = calm()
    cluster.controller = Controller(ClusterOptions(replace(PIPELINE, tasks=tasks), 4, interval_s=interval_s))
    cluster.loads = [0] * 4
    cluster.serve(CALM, "f0", "r1", "r1", "r1")
    assert orders(cluster.tell(Planned(CROWD), 1.0)) == {2: "r0", 3: "r0"}


def test_no_wish_waits_for_longer_than_a_load_takes() -> None:
    tasks = tuple(
        replace(task, variants=tuple(replace(variant, load_s=1.2) for variant in task.variants)) for task in PIPELINE.tasks
    )
    assert Controller(ClusterOptions(replace(PIPELINE, tasks=tasks), 4, interval_s=1.0)).rollout.hold_s == 1.2


def test_no_decision_that_was_due_is_skipped_while_a_solver_is_busy() -> None:
    """Each plan takes longer than the time between plans: the next question comes with the answer, and what came due in that
    time is in it."""
    cluster, asked = calm(), 0
    for round_number in range(6):
        began = max(cluster.now, 1.0 + COUNTED_S)
        asked += len(snapshots(cluster.tell(Tick(), began)))
        assert cluster.controller.solving
        busy_until = began + 1.3
        wake = cluster.controller.wake_at()
        while wake is not None and wake < busy_until:
            assert snapshots(cluster.tell(Tick(), max(wake, cluster.now))) == [], "one question at a time"
            wake = cluster.controller.wake_at()
        cluster.tell(Planned(CALM), busy_until)
        wake = cluster.controller.wake_at()
        assert wake is not None
        assert wake <= busy_until, "it is due at once"
        assert asked == round_number + 1
