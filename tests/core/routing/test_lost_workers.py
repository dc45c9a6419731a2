"""What becomes of items whose worker is lost or hangs, of items at fault, and of peers that begin anew."""

from __future__ import annotations

from math import inf

import pytest

from loki_rl.core.effects import Drop, Effect, Kill, Send
from loki_rl.core.messages import (
    CONTROLLER,
    GATEWAY,
    Cause,
    Fault,
    Outcome,
    Pressure,
    Restarted,
    Result,
    Settled,
    Tick,
    WorkerGone,
    router,
)
from loki_rl.core.router import LOST_TWICE
from loki_rl.core.routing.leases import AGAIN_S, GIVE_UP_S
from loki_rl.core.routing.pull_router import PullRouter
from tests.core.fork import FIND, FINE, PIPELINE, batches, items, make, ready, result, roots, settled


def ids(verdict: Settled) -> list[int]:
    return [family.id for family in verdict.families]


def roots_of(verdict: Settled) -> list[int]:
    return [id >> 31 for id in ids(verdict)]


def kills(effects: list[Effect]) -> list[Kill]:
    return [effect for effect in effects if isinstance(effect, Kill)]


def test_an_item_that_is_lost_with_two_workers_has_failed_and_no_other_has() -> None:
    actor = make()
    actor.handle(items(1, 2, 3), 0.0)
    actor.handle(ready(0, FINE), 0.0)
    actor.handle(WorkerGone(0, "killed"), 0.001)
    given = {number: batches(actor.handle(ready(number, FINE), 0.001))[f"worker:{number}"] for number in (1, 2, 3)}
    assert [roots(batch) for batch in given.values()] == [[1], [2], [3]]
    (verdict,) = settled(actor.handle(WorkerGone(2, "killed"), 0.002))
    assert (verdict.outcome, ids(verdict)) == (Outcome.FAILED, [PIPELINE.entry_id(2, 0)])
    assert verdict.cause == Cause(actor.task, said=LOST_TWICE)
    for number in (1, 3):
        (ended,) = settled(actor.handle(result(given[number], number), 0.03))
        assert ended.outcome is Outcome.OK
    actor.validate()
    assert not actor.queue.known


def test_only_the_batch_that_ran_is_suspected_not_what_waited_behind_it() -> None:
    actor = make(drop="none")
    actor.handle(items(1, 2, 3), 0.0)
    actor.handle(ready(0, FINE, batch=2), 0.0)
    actor.handle(ready(0, FINE, batch=2, serial=2), 0.0)
    actor.handle(WorkerGone(0, "killed"), 0.001)
    assert (actor.again.waiting, actor.queue.waiting) == (2, 1)
    actor.handle(ready(1, FINE), 0.001)
    actor.handle(ready(1, FINE, serial=2), 0.001)
    (verdict,) = settled(actor.handle(WorkerGone(1, "killed"), 0.002))
    assert roots_of(verdict) == [1]
    actor.validate()
    assert (actor.again.waiting, actor.queue.waiting) == (1, 1)


def test_a_second_hang_of_an_item_waits_for_the_end_of_its_worker_and_is_given_to_nobody_else() -> None:
    actor = make(drop="none")
    actor.handle(items(1), 0.0)
    actor.handle(ready(0, FINE), 0.0)
    first = actor.leases.next_expiry
    actor.handle(Tick(), first)
    actor.handle(ready(1, FINE), first)
    second = actor.leases.next_expiry
    assert list(batches(actor.handle(Tick(), second))) == []
    actor.handle(ready(2, FINE), second)
    actor.validate()
    assert len(actor.leases.all) == 1
    (verdict,) = settled(actor.handle(WorkerGone(1, "killed"), second + 1.0))
    assert verdict.outcome is Outcome.FAILED


def test_what_waits_behind_a_batch_that_stays_with_its_worker_has_its_time_and_is_not_suspected() -> None:
    """The worker gives a credit all the same: what it gets for that has not run when it is found to hang."""
    actor = make(drop="none")
    actor.handle(items(1), 0.0)
    actor.handle(ready(0, FINE), 0.0)
    first = actor.leases.next_expiry
    actor.handle(Tick(), first)
    stays = batches(actor.handle(ready(1, FINE), first))["worker:1"]
    actor.handle(Tick(), actor.leases.next_expiry)
    actor.handle(items(2), 1.0)
    waits = batches(actor.handle(ready(1, FINE, serial=2), 1.0))["worker:1"]
    expiry = actor.leases.all[waits.batch].expiry
    assert expiry > 1.0
    actor.handle(Tick(), expiry)
    assert list(actor.leases.all) == [stays.batch]
    assert (actor.again.waiting, actor.queue.waiting) == (0, 1)
    (verdict,) = settled(actor.handle(WorkerGone(1, "killed"), expiry))
    assert roots_of(verdict) == [1]
    actor.validate()


def test_a_worker_whose_batch_is_overdue_beyond_a_bound_is_ended_once_in_a_while_until_it_is_heard_of() -> None:
    actor = make(drop="none")
    actor.handle(items(1), 0.0)
    batch = batches(actor.handle(ready(0, FINE), 0.0))["worker:0"]
    expiry = actor.leases.next_expiry
    assert kills(actor.handle(Tick(), expiry)) == []
    end = actor.leases.next_expiry
    assert end == pytest.approx(expiry + GIVE_UP_S)
    assert kills(actor.handle(Tick(), end)) == [Kill(0, 0, "its batch is overdue")]
    assert kills(actor.handle(Tick(), end)) == []
    assert len(kills(actor.handle(Tick(), end + AGAIN_S))) == 1, "the word may have been lost"
    actor.handle(result(batch, 0), end + AGAIN_S)
    assert actor.leases.next_expiry == inf


def test_a_payload_at_fault_fails_its_item_and_spares_its_batch() -> None:
    actor = make(FIND)
    actor.handle(items(1, 2, 3, 4), 0.0)
    batch = batches(actor.handle(ready(0, FINE), 0.0))["worker:0"]
    fanouts: list[tuple[int, ...]] = [(1, 0), (), (2, 0), ()]
    told = Result(0, 0, batch.batch, FINE, fanouts, 0.05, "", {1: Fault("no picture"), 3: Fault("it broke", False)})
    good, *bad = settled(actor.handle(told, 0.05))
    assert (good.outcome, roots_of(good), good.fanouts) == (Outcome.OK, [1, 3], [(1, 0), (2, 0)])
    assert [(one.outcome, roots_of(one), one.cause) for one in bad] == [
        (Outcome.FAILED, [2], Cause(FIND, said="no picture", client_fault=True)),
        (Outcome.FAILED, [4], Cause(FIND, said="it broke")),
    ]
    actor.validate()
    assert not actor.queue.known


# -- lives ----------------------------------------------------------------------------------------------------------------


def test_a_router_that_begins_anew_says_so_first_and_takes_no_result_of_its_former_life() -> None:
    former = make()
    former.handle(items(1), 0.0)
    old = batches(former.handle(ready(0, FINE), 0.0))["worker:0"]
    actor = PullRouter(former.options, former.task, 1)
    assert actor.wake_at() == -inf
    told = [effect.to for effect in actor.handle(Tick(), 0.0) if isinstance(effect, Send)]
    assert told == [GATEWAY, CONTROLLER, router(FIND), *(f"worker:{number}" for number in range(actor.options.servers))]
    assert actor.wake_at() is None
    actor.handle(items(2), 0.0)
    new = batches(actor.handle(ready(0, FINE), 0.0))["worker:0"]
    assert actor.handle(result(old, 0), 0.01) == []
    assert len(settled(actor.handle(result(new, 0), 0.02))) == 1


def test_a_new_gateway_waits_for_nothing_that_the_former_one_sent() -> None:
    actor = make()
    actor.handle(items(1, 2), 0.0)
    batch = batches(actor.handle(ready(0, FINE, batch=1), 0.0))["worker:0"]
    (dropped,) = actor.handle(Restarted(GATEWAY), 0.0)
    assert isinstance(dropped, Drop)
    assert [PIPELINE.entry_id(2, 0)] == [family.id for family in dropped.families]
    actor.validate()
    actor.handle(result(batch, 0), 0.01)
    assert not actor.queue.known


def test_pressure_is_told_again_to_a_parent_that_begins_anew_and_forgotten_with_a_child_that_does() -> None:
    child = make(rank := 1)
    assert child.task == rank
    child.handle(items(*range(100)), 0.0)
    child.handle(Tick(), 0.0)
    assert child.pressing
    assert child.handle(Restarted(router(FIND)), 0.0) == [Send(router(FIND), Pressure(child.task, True))]
    parent = make(FIND)
    parent.handle(Pressure(child.task, True), 0.0)
    parent.handle(Restarted(router(child.task)), 0.0)
    assert not parent.flow.pressed
