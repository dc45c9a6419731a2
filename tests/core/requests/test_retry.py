"""When clients that were refused are told to come back: after the next plan, and not all at once."""

from __future__ import annotations

import pytest

from loki_rl.core.messages import Drain, Outcome
from tests.core.gateway_events import arrive, entry, lost, make, replies

INTERVAL_S = 10.0


def told_to_wait(outcome: Outcome, now: float, requests: int = 200) -> list[float]:
    """What each of these requests is told that loses its entry item at this time."""
    gateway = make(interval_s=INTERVAL_S)
    arrive(gateway, *range(requests), now=now)
    effects = [effect for root in range(requests) for effect in gateway.handle(lost(0, [entry(root)], outcome), now)]
    return [reply.retry_s for reply in replies(effects)]


@pytest.mark.parametrize(("now", "earliest"), [(0.0, 10.0), (3.0, 7.0), (29.0, 1.0)])
def test_dropped_requests_come_back_spread_over_the_interval_after_the_next_plan(now: float, earliest: float) -> None:
    waits = told_to_wait(Outcome.DROPPED, now)
    assert min(waits) >= earliest
    assert max(waits) < earliest + INTERVAL_S
    tenths = [int((wait - earliest) / INTERVAL_S * 10) for wait in waits]
    assert max(tenths.count(tenth) for tenth in range(10)) < len(waits) / 4
    assert waits == told_to_wait(Outcome.DROPPED, now)


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
