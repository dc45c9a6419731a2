"""When clients that were refused are told to come back: when the next plan can be loaded, and not all at once."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from loki_rl.core.messages import Drain, Outcome
from loki_rl.core.pipeline import Task
from tests.core.gateway_events import CHAIN, arrive, entry, lost, make, replies

LOAD_S = 5.0  # of the slowest model


def loading(task: Task) -> Task:
    rough, fine = task.variants
    return replace(task, variants=(replace(rough, load_s=1.0), replace(fine, load_s=LOAD_S)))


PIPELINE = replace(CHAIN, tasks=tuple(map(loading, CHAIN.tasks)))


def told_to_wait(outcome: Outcome, now: float, requests: int = 200, interval_s: float = 10.0) -> list[float]:
    """What each of these requests is told that loses its entry item at this time."""
    gateway = make(PIPELINE, interval_s=interval_s)
    arrive(gateway, *range(requests), now=now)
    effects = [effect for root in range(requests) for effect in gateway.handle(lost(0, [entry(root)], outcome), now)]
    return [reply.retry_s for reply in replies(effects)]


@pytest.mark.parametrize(
    ("interval_s", "now", "planned"),
    [(10.0, 0.0, 10.0), (10.0, 3.0, 7.0), (10.0, 29.0, 1.0), (1.0, 0.0, 1.0), (1.0, 7.25, 0.75)],
)
def test_dropped_requests_come_back_once_the_next_plan_is_loaded_and_not_all_at_once(
    interval_s: float, now: float, planned: float
) -> None:
    """Capacity can have changed then, not when a plan is made; later by as much as plans and loads may take."""
    waits, change_s = told_to_wait(Outcome.DROPPED, now, interval_s=interval_s), interval_s + LOAD_S
    assert min(waits) >= planned + LOAD_S
    assert max(waits) < planned + LOAD_S + change_s
    tenths = [int((wait - planned - LOAD_S) / change_s * 10) for wait in waits]
    assert max(tenths.count(tenth) for tenth in range(10)) < len(waits) / 4
    assert waits == told_to_wait(Outcome.DROPPED, now, interval_s=interval_s)


def test_a_full_gateway_has_room_within_one_to_three_seconds() -> None:
    gateway = make(max_inflight=0)
    waits = [reply.retry_s for reply in replies(arrive(gateway, *range(200)))]
    assert len(waits) == 200
    assert min(waits) >= 1.0
    assert max(waits) < 3.0
    assert len({int(4 * wait) for wait in waits}) == 8


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.CANCELLED])
def test_asking_again_is_no_use_where_nothing_was_full(outcome: Outcome) -> None:
    assert set(told_to_wait(outcome, 0.0, 5)) == {0.0}


def test_a_gateway_that_drains_asks_nobody_back() -> None:
    gateway = make()
    gateway.handle(Drain(), 0.0)
    assert [reply.retry_s for reply in replies(arrive(gateway, 1, 2))] == [0.0, 0.0]
