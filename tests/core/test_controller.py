"""The controller: when it asks for a plan, and what it knows then."""

from __future__ import annotations

from math import inf, nan

import pytest
from msgspec.structs import replace

from loki_rl.core.controller import COUNTED_S
from loki_rl.core.effects import Send
from loki_rl.core.messages import (
    GATEWAY,
    Backlog,
    Begin,
    Counted,
    PlanChanged,
    Planned,
    Sample,
    Submit,
    Tick,
    WorkerGone,
)
from loki_rl.core.plan import Drift, Server
from loki_rl.core.requests import seconds
from tests.core.controlled import Cluster, asked, orders, plan, samples, snapshots


def test_the_age_of_the_counts_is_that_of_the_last_one_told() -> None:
    cluster = Cluster(1, interval_s=10.0)
    cluster.serve(plan(r1=1), "r1")
    for second in range(7):  # those of three seconds are late
        cluster.tell(Counted(second, 5), second + 1.0)
    late = asked(cluster.tell(Tick(), 10.0 + COUNTED_S))
    assert len(late.arrivals) == 7
    assert late.age_s == pytest.approx(3.0 + COUNTED_S)
    cluster.tell(Planned(plan(r1=1)))
    for second in range(7, 20):
        cluster.tell(Counted(second, 5), max(cluster.now, second + 1.0))
    assert asked(cluster.tell(Tick(), 20.0 + COUNTED_S)).age_s == pytest.approx(COUNTED_S)


def test_the_first_plan_waits_for_all_servers_and_goes_to_everybody() -> None:
    cluster = Cluster(2)
    assert cluster.report(0) == []
    effects = cluster.report(1)
    assert snapshots(effects)[0].servers == (Server(0), Server(1))
    effects = cluster.tell(Planned(plan(f0=1, r1=1)))
    told = [effect.to for effect in effects if isinstance(effect, Send) and isinstance(effect.message, PlanChanged)]
    assert told == [GATEWAY, "router:0", "router:1"]
    assert orders(effects) == {0: "f0", 1: "r1"}
    assert not cluster.controller.converged


def test_a_plan_knows_the_second_that_has_just_ended() -> None:
    """The gateway sends the count of a second when it is over; on the stroke itself it would come too late."""
    cluster = Cluster(1, interval_s=2.0)
    cluster.serve(plan(f0=1), "f0")
    for second in range(4):
        end = second + 1.0
        assert snapshots(cluster.tell(Tick(), end)) == []
        cluster.tell(Counted(second, 10 * second), end + 0.001)
        if second % 2:
            wake = cluster.controller.wake_at()
            assert wake == pytest.approx(end + COUNTED_S)
            made = snapshots(cluster.tell(Tick(), wake))
            assert made[0].arrivals == tuple(10 * n for n in range(second + 1))
            cluster.tell(Planned(plan(f0=1)))


def test_a_run_that_began_long_ago_is_sampled_for_its_latest_seconds_only() -> None:
    cluster = Cluster(1)
    cluster.serve(plan(f0=1), "f0")
    cluster.tell(Begin(-1e9), 0.5)
    made = samples(cluster.tell(Tick(), 1.0))
    assert len(made) <= seconds.MOST + 1
    assert made[-1].second == 10**9
    for origin in (nan, inf, -inf, -1e300):
        with pytest.raises(ValueError, match="no seconds can be counted from"):
            cluster.controller.handle(Begin(origin), 1.0)
    assert cluster.controller.seconds.origin == -1e9


def test_counts_of_before_the_origin_are_of_another_run() -> None:
    cluster = Cluster(1)
    cluster.serve(plan(f0=1), "f0")
    cluster.tell(Begin(100.0), 100.0)
    for stale in (-1, 99, 5):
        cluster.tell(Counted(stale, 7), 100.001)
    for second in (0, 0, 1):
        cluster.tell(Counted(second, 3 + second), 102.0)
    assert cluster.controller.history.arrivals == [3, 4]


def test_it_asks_once_at_a_time_and_keeps_its_rhythm() -> None:
    cluster = Cluster(1, interval_s=2.0)
    cluster.serve(plan(f0=1), "f0")
    assert len(snapshots(cluster.tell(Tick(), 2.0 + COUNTED_S))) == 1
    assert snapshots(cluster.tell(Tick(), 4.0 + COUNTED_S)) == [], "the policy is still thinking"
    cluster.tell(Planned(None, "no idea"), 4.5)
    assert cluster.controller.plan == replace(plan(f0=1), epoch=1), "the old plan stays"
    assert cluster.controller.failures == ["no idea"]
    assert cluster.controller.wake_at() == 4.0 + COUNTED_S, "what fell due meanwhile comes next"
    assert len(snapshots(cluster.tell(Tick(), 4.5))) == 1
    cluster.tell(Planned(plan(f0=1)), 4.6)
    assert snapshots(cluster.tell(Tick(), 4.7)) == []
    assert len(snapshots(cluster.tell(Tick(), 9.7))) == 1, "two intervals late is one plan"
    cluster.tell(Planned(plan(f0=1)), 9.8)
    assert snapshots(cluster.tell(Tick(), 10.0 + COUNTED_S)) != []


def test_a_lost_server_is_planned_around_at_once_without_losing_the_rhythm() -> None:
    cluster = Cluster(2, interval_s=10.0)
    cluster.serve(plan(f0=1, r1=1), "f0", "r1")
    cluster.tell(WorkerGone(1, "killed"), 3.5)
    assert cluster.controller.wake_at() == pytest.approx(1.0), "seconds it has missed come first"
    made = snapshots(cluster.tell(Tick(), 3.5))
    assert [server.id for server in made[0].servers] == [0]
    assert orders(cluster.tell(Planned(plan(f0=1, r1=1)))) == {}, "one server, it serves f0"
    assert cluster.controller.next_solve == pytest.approx(10.0 + COUNTED_S)


def test_a_server_lost_while_the_policy_thinks_is_planned_around_when_it_has_answered() -> None:
    cluster = Cluster(2)
    cluster.serve(plan(f0=1, r1=1), "f0", "r1")
    cluster.tell(Tick(), 10.0 + COUNTED_S)
    cluster.tell(WorkerGone(1, "killed"), 10.1)
    wake = cluster.controller.wake_at()
    assert wake is not None
    assert wake > 10.1, "no use to ask now"
    cluster.tell(Planned(plan(f0=1, r1=1)), 10.2)
    assert cluster.controller.wake_at() == pytest.approx(10.1)
    assert len(snapshots(cluster.tell(Tick(), 10.2))) == 1


def test_a_plan_for_more_servers_than_there_are_loses_replicas_where_there_are_most() -> None:
    """A policy that holds its plan makes no other one; cut at its end, the last task would be left with nobody."""
    cluster = Cluster(5)
    held = plan(f0=1, r1=3, r0=1)
    cluster.serve(held, "f0", "r0", "r1", "r1", "r1")
    cluster.tell(WorkerGone(2, "killed"), 1.0)
    assert orders(cluster.tell(Planned(held), 1.0)) == {}, "two r1 are left, and nobody has to load"
    cluster.tell(WorkerGone(1, "killed"), 2.0)
    assert orders(cluster.tell(Planned(held), 2.0)) == {4: "r0"}


def test_a_server_that_comes_back_gets_work_at_once() -> None:
    cluster = Cluster(2)
    cluster.serve(plan(f0=1, r1=1), "f0", "r1")
    cluster.tell(WorkerGone(1, "killed"), 1.0)
    cluster.tell(Tick(), 1.0)
    cluster.tell(Planned(plan(f0=1)))
    cluster.loads[1] = 0
    cluster.report(1, life=1, now=2.5)
    assert [server.id for server in snapshots(cluster.tell(Tick(), 2.5))[0].servers] == [0, 1]
    assert orders(cluster.tell(Planned(plan(f0=1, r1=1)))) == {1: "r1"}


def test_a_server_that_was_restarted_before_it_was_missed_gets_its_target_again() -> None:
    cluster = Cluster(2)
    cluster.serve(plan(f0=1, r1=1), "f0", "r1")
    assert orders(cluster.report(1, life=1)) == {1: "r1"}
    assert cluster.report(1, serves="r1", life=0) == [], "words of its former life"
    assert not cluster.controller.converged


def test_drift_makes_a_new_plan_at_once_and_is_in_its_snapshot() -> None:
    cluster = Cluster(4)
    cluster.up(plan(f0=1, r1=2))
    cluster.tell(Begin(0.0))
    drift = Drift("read", "r1", "", 1.4, {})
    cluster.tell(Backlog(1, 0, 0.0, 0, [drift]), 3.0)
    assert snapshots(cluster.tell(Tick(), 3.0))[0].drift == (drift,)
    cluster.tell(Planned(plan(f0=1, r1=3)))
    cluster.tell(Backlog(1, 0, 0.0, 0, [drift]), 4.0)
    assert snapshots(cluster.tell(Tick(), 4.0)) == [], "no news"
    cluster.tell(Backlog(1, 0, 0.0, 0), 5.0)
    assert snapshots(cluster.tell(Tick(), 5.0))[0].drift == (), "it is over"


def test_a_task_that_has_not_served_is_taken_to_be_as_slow_as_the_others_until_it_has() -> None:
    cluster = Cluster(4)
    cluster.up(plan(f0=1, r1=2))
    cluster.tell(Begin(0.0))
    drift = Drift("read", "r1", "", 2.0, {})
    inferred = Drift("find", "f0", "", 2.0, {})
    cluster.tell(Backlog(1, 0, 0.0, 0, [drift], {"": 2.0}), 3.0)
    assert snapshots(cluster.tell(Tick(), 3.0))[0].drift == (drift, inferred)
    cluster.tell(Planned(plan(f0=1, r1=3)))
    cluster.tell(Backlog(0, 0, 0.0, 0), 4.0)
    assert snapshots(cluster.tell(Tick(), 4.0)) == [], "it has no word in it yet"
    cluster.tell(Backlog(0, 0, 0.0, 0, [], {"": 1.0}), 5.0)
    assert snapshots(cluster.tell(Tick(), 5.0))[0].drift == (drift,), "it serves as profiled"


def test_the_snapshot_has_the_loads_in_flight_and_the_backlog() -> None:
    cluster = Cluster(4)
    cluster.up(plan(f0=1, r1=2))
    cluster.begins(0, "f0")
    cluster.report(0, serves="f0")
    cluster.begins(1, "r1", now=8.0)
    cluster.tell(Begin(5.0))
    cluster.tell(Backlog(1, 7, 0.25, 12))
    snapshot = snapshots(cluster.tell(Tick(), 15.0 + COUNTED_S))[0]
    loading = Server(1, None, (), ("read", "r1", 1), 0.0)
    assert snapshot.servers[0] == Server(0, ("find", "f0", 1), (("find", "f0"),))
    assert snapshot.servers[1] == loading
    assert snapshot.backlog_s == {"read": 0.25}
    assert snapshot.items == {"read": (12,)}
    cluster = Cluster(1)
    cluster.up(plan(f0=1))
    cluster.begins(0, "f0", now=8.0)
    cluster.tell(Begin(0.0))
    assert snapshots(cluster.tell(Tick(), 10.0 + COUNTED_S))[0].servers[0].remaining_s == pytest.approx(3.0 - COUNTED_S)


def test_servers_and_loads_of_a_second_survive_the_loss_of_a_server() -> None:
    """A server's count of loads goes with it; the sum of all second's loads must not become negative."""
    cluster = Cluster(2)
    cluster.serve(plan(f0=1, r1=1), "f0", "r1")
    assert samples(cluster.tell(Tick(), 1.0)) == [Sample(0, 2, 0)]
    cluster.tell(WorkerGone(1, "killed"), 1.5)
    cluster.tell(Tick(), 1.5)
    cluster.tell(Planned(plan(f0=1)))
    assert samples(cluster.tell(Tick(), 2.0)) == [Sample(1, 1, 0)]
    cluster.loads[1] = 0
    cluster.report(1, life=1, now=2.1)
    cluster.tell(Tick(), 2.1)
    cluster.tell(Planned(plan(f0=1, r1=1)))
    cluster.loads[1] = 1
    cluster.report(1, loads="r1", life=1, now=2.2)
    assert samples(cluster.tell(Tick(), 4.0)) == [Sample(2, 2, 1), Sample(3, 2, 0)]


def test_an_event_for_somebody_else_is_refused() -> None:
    with pytest.raises(TypeError, match="the controller cannot handle Submit"):
        Cluster(1).tell(Submit([]))
