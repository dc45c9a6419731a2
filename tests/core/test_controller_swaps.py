"""How servers get from one plan to the next, and what becomes of loads that fail."""

from __future__ import annotations

from loki_rl.core.controller import FAILURES, RETRY_S
from loki_rl.core.messages import (
    Planned,
    Tick,
)
from tests.core.controlled import Cluster, orders, plan


def test_only_servers_that_must_change_are_told() -> None:
    cluster = Cluster(3)
    cluster.serve(plan(f0=1, r0=2), "f0", "r0", "r0")
    assert orders(cluster.tell(Planned(plan(f0=1, r0=1, r1=1)))) == {2: "r1"}


def test_a_server_without_a_target_is_parked() -> None:
    cluster = Cluster(2)
    cluster.serve(plan(f0=1, r0=1), "f0", "r0")
    assert orders(cluster.tell(Planned(plan(f0=1)))) == {1: ""}


def test_no_more_servers_swap_at_once_than_allowed() -> None:
    """A server that was told but has not begun counts too: it may say something else first."""
    cluster = Cluster(4, parallel_loads=2)
    cluster.serve(plan(f0=1, r0=3), "f0", "r0", "r0", "r0")
    assert orders(cluster.tell(Planned(plan(f0=1, r1=3)))) == {1: "r1", 2: "r1"}
    assert orders(cluster.report(1)) == {}, "it ends its batch first"
    assert orders(cluster.begins(1, "r1")) == {}
    assert orders(cluster.begins(2, "r1")) == {}
    assert orders(cluster.report(1, serves="r1")) == {3: "r1"}


def test_a_parked_server_loads_at_any_time() -> None:
    cluster = Cluster(4, parallel_loads=1)
    cluster.serve(plan(f0=1, r0=2), "f0", "r0", "r0")
    assert orders(cluster.tell(Planned(plan(f0=1, r1=3)))) == {1: "r1", 3: "r1"}


def test_a_failed_load_of_the_only_variant_is_tried_again_after_a_while_and_does_not_hold_up_others() -> None:
    cluster = Cluster(3)
    cluster.up(plan(f0=2, r1=1))
    cluster.begins(0, "f0")
    cluster.begins(1, "f0")
    assert orders(cluster.report(0, ends="f0", error="out of memory")) == {}
    assert cluster.controller.failures == ["worker 0: out of memory"]
    assert orders(cluster.report(2, serves="r1", now=0.2)) == {}, "a word of another server is no reason to hurry"
    assert orders(cluster.report(1, ends="f0", error="out of memory", now=0.5)) == {}
    wake = cluster.controller.wake_at()
    assert wake == RETRY_S, "no other plan could do without it"
    assert orders(cluster.tell(Tick(), wake)) == {0: "f0"}
    assert cluster.controller.wake_at() == 0.5 + RETRY_S
    assert orders(cluster.tell(Tick(), 0.5 + RETRY_S)) == {1: "f0"}


def test_a_new_target_does_not_wait_for_the_failure_of_the_old_one() -> None:
    cluster = Cluster(2)
    cluster.up(plan(f0=1, r1=1))
    cluster.begins(1, "r1")
    cluster.report(1, ends="r1", error="out of memory")
    assert orders(cluster.tell(Planned(plan(f0=1, r0=1)))) == {1: "r0"}


def test_the_list_of_failures_does_not_grow_for_ever() -> None:
    cluster = Cluster(1)
    cluster.up(plan(f0=1))
    for _ in range(2 * FAILURES):
        cluster.report(0, ends="f0", error="out of memory")
    assert len(cluster.controller.failures) == FAILURES
