"""What could not be loaded: planned without at once, for how long, and how it is tried again."""

from __future__ import annotations

from loki_rl.core.controller import RETRY_S
from loki_rl.core.messages import Planned, Tick
from loki_rl.core.plan import Exclusion
from loki_rl.core.servers.exclusions import FIRST_S, LONGEST_S
from tests.core.controlled import Cluster, orders, plan, snapshots


def excluded(cluster: Cluster) -> list[str]:
    """Variants."""
    return [one.variant for one in cluster.controller.exclusions.current]


def test_what_cannot_be_loaded_is_planned_without_at_once_and_nobody_is_told_to_load_it() -> None:
    cluster = Cluster(4)
    cluster.serve(plan(f0=1, r1=2), "f0", "r1", "r1")
    assert orders(cluster.tell(Planned(plan(f0=1, r1=3)), 2.0)) == {3: "r1"}
    cluster.begins(3, "r1")
    cluster.report(3, ends="r1", error="no such file", now=3.0)
    asked = snapshots(cluster.tell(Tick(), 3.0))
    assert [snapshot.exclusions for snapshot in asked] == [(Exclusion("read", "r1", "", "no such file"),)]
    for now in (3.0, 3.0 + RETRY_S, 2.9 + FIRST_S):
        assert orders(cluster.tell(Planned(plan(f0=1, r1=3)), now)) == {}, "a policy that insists is not obeyed"
        assert orders(cluster.tell(Tick(), now)) == {}
    assert orders(cluster.report(1, life=1)) == {}, "nor does a new process load it"
    assert orders(cluster.report(1, life=2, serves="r1")) == {1: "r1"}, "who has it may use it"
    assert orders(cluster.tell(Tick(), 3.0 + FIRST_S)) == {3: "r1"}, "time to try again"


def test_exclusions_double_and_a_load_that_succeeds_ends_them() -> None:
    cluster = Cluster(3)
    cluster.up(plan(f0=1, r1=2))
    for number in (1, 2):
        cluster.begins(number, "r1")
    cluster.report(1, ends="r1", error="no such file", now=1.0)
    cluster.report(2, ends="r1", error="no such file", now=4.0)
    found, now = cluster.controller.exclusions, 1.0
    assert found.ends(4.0) == [now + FIRST_S], "one that was under way counts no more"
    for pause_s in (2 * FIRST_S, 4 * FIRST_S):
        now = found.ends(now)[0]
        cluster.tell(Tick(), now)
        assert excluded(cluster) == []
        cluster.report(1, ends="r1", error="no such file", now=now)
        assert found.ends(now) == [now + pause_s]
    cluster.report(2, serves="r1", now=now + 1.0)
    assert excluded(cluster) == ["r1"], "it has served all the time"
    cluster.report(1, serves="r1", ends="r1", now=now + 2.0)
    assert excluded(cluster) == []
    assert found.ends(now + 2.0) == []
    for _ in range(9):
        cluster.report(1, ends="r1", error="no such file", now=now)
        now = found.ends(now)[0]
    cluster.report(1, ends="r1", error="no such file", now=now)
    assert found.ends(now) == [now + LONGEST_S]


def test_after_an_exclusion_one_server_tries_and_the_others_wait_for_what_comes_of_it() -> None:
    cluster = Cluster(4)
    cluster.serve(plan(f0=1, r0=3), "f0", "r0", "r0", "r0")
    assert orders(cluster.tell(Planned(plan(f0=1, r1=3)), 1.0)) == {1: "r1", 2: "r1", 3: "r1"}
    for number in (1, 2, 3):
        cluster.begins(number, "r1")
        cluster.report(number, ends="r1", error="no such file", now=1.0)
    cluster.tell(Tick(), 1.0)
    assert orders(cluster.tell(Planned(plan(f0=1, r0=3)), 1.0)) == {1: "r0", 2: "r0", 3: "r0"}
    for number in (1, 2, 3):
        cluster.report(number, serves="r0", now=2.0)
    cluster.tell(Tick(), 1.0 + FIRST_S)
    assert orders(cluster.tell(Planned(plan(f0=1, r1=3)), 12.0)) == {1: "r1"}
    assert orders(cluster.begins(1, "r1")) == {}
    assert orders(cluster.report(1, ends="r1", error="no such file", now=13.0)) == {}
    over = 13.0 + 2 * FIRST_S
    assert orders(cluster.tell(Tick(), over)) == {2: "r1"}, "another one tries"
    cluster.begins(2, "r1")
    assert orders(cluster.report(2, serves="r1", ends="r1", now=over + 1.0)) == {1: "r1", 3: "r1"}


def test_a_task_without_any_variant_has_no_exclusions() -> None:
    cluster = Cluster(3)
    cluster.up(plan(f0=1, r1=2))
    cluster.report(1, ends="r1", error="no such file", now=1.0)
    assert excluded(cluster) == ["r1"]
    cluster.report(1, ends="r0", error="no such file", now=2.0)
    assert excluded(cluster) == []
    cluster.tell(Tick(), 1.0 + FIRST_S)
    assert excluded(cluster) == ["r0"], "r1 may be tried again"
