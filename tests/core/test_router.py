"""The router's rules one by one: who is served first, what is dropped or left to a faster variant, and what is lost with a
worker."""

from __future__ import annotations

from math import inf

import pytest

from loki_rl.core.effects import Send
from loki_rl.core.messages import (
    CONTROLLER,
    GATEWAY,
    Arrived,
    Backlog,
    Begin,
    Cancelled,
    Ended,
    Leaving,
    Outcome,
    PlanChanged,
    Result,
    Submit,
    Tick,
    WorkerGone,
    router,
)
from loki_rl.core.requests.items import Family
from loki_rl.core.router import HUNG_S, RETURNED
from tests.core.fork import (
    FIND,
    FINE,
    MS,
    PIPELINE,
    READ,
    ROUGH,
    SLO,
    batches,
    items,
    make,
    plan,
    ready,
    result,
    roots,
    settled,
)


def ids(verdict: Ended) -> list[int]:
    return [family.id for family in verdict.families]


# -- who is served ------------------------------------------------------------------------------------------------------


def test_the_most_accurate_free_variant_pulls_first_then_who_has_waited_longest() -> None:
    actor = make()
    for number, variant in ((0, ROUGH), (3, FINE), (1, FINE), (2, ROUGH)):
        assert actor.handle(ready(number, variant, batch=1), 0.0) == []
    order = [next(iter(batches(actor.handle(items(number), 0.0)))) for number in range(4)]
    assert order == ["worker:3", "worker:1", "worker:0", "worker:2"]


def test_a_batch_is_formed_when_a_worker_pulls_not_before() -> None:
    actor = make()
    assert batches(actor.handle(items(1, 2), 0.0)) == {}
    actor.handle(items(3, t0=-0.01), 0.01)
    batch = batches(actor.handle(ready(0, FINE), 0.01))["worker:0"]
    assert roots(batch) == [3, 1, 2]


def test_a_credit_is_used_once_and_the_newest_word_counts() -> None:
    actor = make()
    actor.handle(ready(0, FINE, batch=1), 0.0)
    actor.handle(ready(0, FINE, batch=2), 0.0)  # the same credit, with the batch of a new plan
    assert roots(batches(actor.handle(items(1, 2, 3), 0.0))["worker:0"]) == [1, 2]
    assert batches(actor.handle(ready(0, FINE, batch=1), 0.0)) == {}, "a repeat of a used credit"
    assert roots(batches(actor.handle(ready(0, FINE, batch=1, serial=2), 0.0))["worker:0"]) == [3]


def test_a_worker_that_has_left_gets_nothing() -> None:
    actor = make()
    actor.handle(ready(0, FINE), 0.0)
    actor.handle(Leaving(0, 0), 0.0)
    assert batches(actor.handle(items(1), 0.0)) == {}


# -- what is dropped ----------------------------------------------------------------------------------------------------


def test_an_item_too_late_for_the_accurate_variant_goes_to_a_faster_one() -> None:
    actor = make()
    actor.handle(ready(0, FINE), 0.0)
    actor.handle(ready(1, ROUGH), 0.0)
    assert list(batches(actor.handle(items(1, t0=-0.085), 0.0))) == ["worker:1"]


def test_without_rerouting_it_is_dropped() -> None:
    actor = make(drop="per-task")
    actor.handle(ready(0, FINE), 0.0)
    actor.handle(ready(1, ROUGH), 0.0)
    effects = actor.handle(items(1, t0=-0.085), 0.0)
    assert batches(effects) == {}
    assert [(verdict.outcome, ids(verdict)) for verdict in settled(effects)] == [
        (Outcome.DROPPED, [PIPELINE.entry_id(1, 0)])
    ]


def test_it_waits_for_a_faster_variant_that_is_busy_and_is_dropped_when_that_one_leaves() -> None:
    actor = make()
    actor.handle(ready(1, ROUGH, batch=1), 0.0)
    actor.handle(items(9), 0.0)
    effects = actor.handle(ready(0, FINE), 0.0) + actor.handle(items(1, t0=-0.085), 0.0)
    assert effects == [], "too late for the free worker, not for the busy one"
    assert [verdict.outcome for verdict in settled(actor.handle(Leaving(1, 0), 0.0))] == [Outcome.DROPPED]


def test_under_overload_it_does_not_wait_for_a_variant_that_is_busy() -> None:
    """The busy one will be late for it too, or hand it on without slack."""
    actor = make()
    actor.handle(ready(1, ROUGH, batch=1), 0.0)
    actor.handle(items(9), 0.0)
    actor.handle(items(1, t0=-0.085), 0.0)
    actor.handle(items(*range(100, 200)), 0.0)
    verdicts = settled(actor.handle(ready(0, FINE, batch=1), 0.0))
    assert [ids(verdict) for verdict in verdicts] == [[PIPELINE.entry_id(1, 0)]]


def test_under_overload_it_still_goes_to_a_variant_that_is_free() -> None:
    actor = make()
    actor.handle(ready(0, FINE, batch=1), 0.0)
    actor.handle(ready(1, ROUGH, batch=1), 0.0)
    given = batches(actor.handle(Submit([*items(1, t0=-0.085).families, *items(*range(100, 200)).families]), 0.0))
    assert {to: roots(batch) for to, batch in given.items()} == {"worker:0": [100], "worker:1": [1]}


def test_only_the_last_task_drops_if_told_so() -> None:
    late = items(1, t0=-0.099)
    for task, outcomes in ((FIND, []), (READ, [Outcome.DROPPED])):
        actor = make(task, drop="last-task")
        actor.handle(ready(0, FINE), 0.0)
        assert [verdict.outcome for verdict in settled(actor.handle(late, 0.0))] == outcomes


def test_nothing_is_ever_dropped_if_told_so() -> None:
    actor = make(drop="none")
    actor.handle(items(1, t0=-5.0), 0.0)
    assert actor.wake_at() is None
    assert settled(actor.handle(Tick(), 9.0)) == []
    assert roots(batches(actor.handle(ready(0, FINE), 9.0))["worker:0"]) == [1]


def test_an_item_nobody_pulls_for_is_dropped_at_its_hard_deadline() -> None:
    actor = make()
    actor.handle(items(1), 0.0)
    assert actor.wake_at() == SLO
    assert [verdict.outcome for verdict in settled(actor.handle(Tick(), SLO))] == [Outcome.DROPPED]
    assert actor.wake_at() is None


def test_at_a_task_with_children_the_hard_deadline_leaves_time_for_the_rest() -> None:
    actor = make(FIND)
    actor.handle(items(1), 0.0)
    assert actor.wake_at() == pytest.approx(SLO - 5 * MS)


def test_the_soft_deadline_counts_only_while_the_task_is_overloaded() -> None:
    """split 0.5: an item of age 45 ms would end at 65 ms, after its soft deadline, before its hard one."""
    for others, outcomes in ((1, []), (40, [Outcome.DROPPED])):
        actor = make(FIND)
        actor.handle(items(1, t0=-0.045), 0.0)
        actor.handle(items(*range(100, 100 + others), t0=0.0), 0.0)
        verdicts = settled(actor.handle(ready(0, FINE, batch=1), 0.0))
        assert [verdict.outcome for verdict in verdicts] == outcomes


def test_one_patient_client_does_not_switch_the_soft_deadline_off() -> None:
    actor = make(FIND)
    actor.handle(items(1, t0=-0.045), 0.0)
    actor.handle(items(2, timeout=3600.0), 0.0)
    actor.handle(items(*range(100, 140)), 0.0)
    assert settled(actor.handle(ready(0, FINE, batch=1), 0.0))


def test_a_new_plan_moves_no_deadline_not_even_of_items_that_come_back() -> None:
    actor = make(FIND)
    actor.handle(items(1), 0.0)
    actor.handle(ready(0, FINE, batch=1), 0.0)
    actor.handle(items(2, t0=-0.02), 0.0)
    before = [*actor.queue.lanes[0], *next(iter(actor.leases.all.values())).entries]
    actor.handle(PlanChanged(plan(0.9)), 0.0)
    actor.handle(WorkerGone(0, "killed"), 0.0)
    assert sorted([*actor.queue.lanes[0], *actor.again.lanes[0]]) == sorted(before)
    assert len(before) == 2


# -- results --------------------------------------------------------------------------------------------------------------


def test_children_go_on_with_names_deadlines_and_the_path_of_their_parent() -> None:
    actor = make(FIND)
    actor.handle(items(7), 0.0)
    batch = batches(actor.handle(ready(0, FINE), 0.0))["worker:0"]
    effects = actor.handle(result(batch, 0, [(2, 1)]), 0.05)
    parent, prefix = PIPELINE.entry_id(7, 0), PIPELINE.extend(0, FINE)
    pair = Family(PIPELINE.child_id(parent, READ, 0), 0.0, SLO, prefix, None, 2)
    single = Family(PIPELINE.child_id(parent, READ, 2), 0.0, SLO, prefix)
    assert effects[:3] == [
        Send(router(1), Submit([pair])),
        Send(router(2), Submit([single])),
        Send(GATEWAY, Ended(FIND, Outcome.OK, batch.families, FINE, [(2, 1)])),
    ]


def test_siblings_that_one_batch_cannot_hold_end_in_several_and_every_one_once() -> None:
    actor = make()
    first = PIPELINE.child_id(PIPELINE.entry_id(1, 0), READ, 0)
    actor.handle(Submit([Family(first, 0.0, SLO, PIPELINE.extend(0, FINE), None, 5)]), 0.0)
    seen: list[int] = []
    for number, variant in ((0, ROUGH), (1, ROUGH), (2, FINE), (3, FINE)):
        batch = batches(actor.handle(ready(number, variant, batch=2), 0.0))[f"worker:{number}"]
        actor.validate()
        if number == 1:
            actor.handle(WorkerGone(1, "killed"), 0.0)
            actor.validate()
            continue
        (verdict,) = settled(actor.handle(result(batch, number), 0.01))
        actor.validate()
        seen += [item for one in verdict.families for item in PIPELINE.members(READ, one.id, one.count)]
    (rest,) = settled(actor.handle(Tick(), SLO))
    seen += [item for one in rest.families for item in PIPELINE.members(READ, one.id, one.count)]
    assert sorted(seen) == list(PIPELINE.members(READ, first, 5))
    assert not actor.queue.known


def test_an_engine_error_fails_the_batch_and_a_returned_one_waits_again() -> None:
    actor = make()
    actor.handle(items(1, 2), 0.0)
    batch = batches(actor.handle(ready(0, FINE), 0.0))["worker:0"]
    assert settled(actor.handle(result(batch, 0, error=RETURNED), 0.0)) == []
    again = batches(actor.handle(ready(1, FINE), 0.0))["worker:1"]
    assert roots(again) == [1, 2]
    verdicts = settled(actor.handle(result(again, 1, error="out of memory"), 0.0))
    assert [(verdict.outcome, len(verdict.families)) for verdict in verdicts] == [(Outcome.FAILED, 2)]


def test_a_result_of_another_worker_or_another_life_of_it_is_not_taken() -> None:
    actor = make()
    actor.handle(items(1), 0.0)
    batch = batches(actor.handle(ready(0, FINE), 0.0))["worker:0"]
    assert actor.handle(result(batch, 1), 0.0) == []
    assert actor.handle(Result(0, 1, batch.batch, FINE, [], 0.01, ""), 0.0) == []
    assert len(settled(actor.handle(result(batch, 0), 0.0))) == 1


# -- lost workers ---------------------------------------------------------------------------------------------------------


def test_the_batch_of_a_killed_worker_goes_to_another_at_once_and_counts_once() -> None:
    actor = make()
    actor.handle(items(1, 2), 0.0)
    lost = batches(actor.handle(ready(0, FINE), 0.0))["worker:0"]
    actor.handle(ready(1, FINE), 0.0)
    actor.handle(ready(2, FINE), 0.0)
    again = batches(actor.handle(WorkerGone(0, "killed"), 0.001))
    assert sorted(roots(again["worker:1"]) + roots(again["worker:2"])) == roots(lost), "each alone"
    assert settled(actor.handle(result(lost, 0), 0.002)) == [], "the dead worker's answer was on its way"
    for number in (1, 2):
        assert len(settled(actor.handle(result(again[f"worker:{number}"], number), 0.03))) == 1
        assert settled(actor.handle(result(again[f"worker:{number}"], number), 0.03)) == []


def test_a_batch_that_does_not_come_back_is_given_to_another_worker() -> None:
    actor = make(drop="none")
    actor.handle(items(1), 0.0)
    actor.handle(ready(0, FINE), 0.0)
    wake = actor.wake_at()
    assert wake is not None
    assert wake == pytest.approx(actor.options.lease * 0.040 + HUNG_S)
    actor.handle(ready(1, ROUGH), 0.0)
    assert list(batches(actor.handle(Tick(), wake))) == ["worker:1"]


def test_a_slow_worker_keeps_the_credit_it_gave_before_it_was_given_up() -> None:
    """It will not give that credit again: forgotten, the worker would idle until the next swap."""
    actor = make(drop="none")
    actor.handle(items(1), 0.0)
    batch = batches(actor.handle(ready(0, FINE), 0.0))["worker:0"]
    actor.handle(ready(0, FINE, serial=2), 0.0)
    actor.handle(Tick(), 1.0)
    assert batches(actor.handle(items(2), 1.0)) == {}, "nothing more is given to a silent worker"
    effects = actor.handle(result(batch, 0), 1.5)
    assert settled(effects) == []
    assert roots(batches(effects)["worker:0"]) == [1]
    assert roots(batches(actor.handle(ready(0, FINE, serial=3), 1.5))["worker:0"]) == [2]


def test_a_silent_worker_that_died_or_left_does_not_come_back() -> None:
    for end in (WorkerGone(0, "killed"), Leaving(0, 0)):
        actor = make(drop="none")
        actor.handle(items(1), 0.0)
        batch = batches(actor.handle(ready(0, FINE), 0.0))["worker:0"]
        actor.handle(ready(0, FINE, serial=2), 0.0)
        actor.handle(Tick(), 1.0)
        actor.handle(end, 1.0)
        assert batches(actor.handle(result(batch, 0), 1.0)) == {}


def test_the_time_of_a_batch_given_early_counts_from_the_end_of_the_one_before() -> None:
    """The worker may pull for a batch of one while a batch of four runs: that one's time is not this one's fault."""
    actor = make(drop="none")
    actor.handle(items(1, 2, 3, 4), 0.0)
    actor.handle(ready(0, FINE), 0.0)
    actor.handle(items(5), 0.05)
    actor.handle(ready(0, FINE, serial=2), 0.05)
    first, second = sorted(lease.expiry for lease in actor.leases.all.values())
    assert first == pytest.approx(actor.options.lease * 0.100 + HUNG_S)
    assert second == pytest.approx(first + actor.options.lease * 0.040 + HUNG_S)


def test_as_soon_as_the_one_before_has_ended_a_batch_given_early_has_its_own_time_alone() -> None:
    """A worker that then stops is found as soon as any other."""
    actor = make(drop="none")
    actor.handle(items(1, 2, 3, 4), 0.0)
    first = batches(actor.handle(ready(0, FINE), 0.0))["worker:0"]
    actor.handle(items(5), 0.05)
    actor.handle(ready(0, FINE, serial=2), 0.05)
    actor.handle(result(first, 0), 0.1)
    wake = actor.wake_at()
    assert wake is not None
    assert wake == pytest.approx(0.1 + actor.options.lease * 0.040 + actor.options.lead_s + HUNG_S)
    actor.handle(ready(1, FINE), 0.1)
    given = batches(actor.handle(Tick(), wake))
    assert roots(given["worker:1"]) == [5]


def test_a_batch_given_back_before_its_turn_makes_the_next_one_begin_no_sooner() -> None:
    actor = make(drop="none")
    actor.handle(items(1, 2, 3, 4), 0.0)
    first = batches(actor.handle(ready(0, FINE), 0.0))["worker:0"]
    actor.handle(items(5), 0.0)
    second = batches(actor.handle(ready(0, FINE, serial=2), 0.0))["worker:0"]
    actor.handle(items(6), 0.0)
    third = batches(actor.handle(ready(0, FINE, serial=3), 0.0))["worker:0"]
    before = actor.leases.all[third.batch].expiry
    actor.handle(ready(1, ROUGH), 0.0)
    actor.handle(Result(0, 0, second.batch, FINE, [], 0.0, RETURNED), 0.01)
    assert actor.leases.all[third.batch].expiry == before
    actor.handle(result(first, 0), 0.1)
    assert actor.leases.all[third.batch].expiry == pytest.approx(0.1 + actor.options.lease * 0.040 + HUNG_S, abs=0.01)


# -- the rest -------------------------------------------------------------------------------------------------------------


def test_cancelled_items_leave_the_queue_and_are_accounted_for() -> None:
    actor = make()
    actor.handle(items(1, 2), 0.0)
    verdicts = settled(actor.handle(Cancelled([2, 3]), 0.0))
    assert [(verdict.outcome, ids(verdict)) for verdict in verdicts] == [(Outcome.CANCELLED, [PIPELINE.entry_id(2, 0)])]


def test_the_backlog_is_told_every_second_and_missed_seconds_once() -> None:
    actor = make(drop="none")
    actor.handle(Begin(10.0), 10.0)
    actor.handle(items(1), 10.0)
    assert actor.handle(Tick(), 11.0) == [Send(CONTROLLER, Backlog(READ, 1, inf, 1))]
    actor.handle(items(2), 11.0)
    assert actor.handle(Tick(), 14.5) == [Send(CONTROLLER, Backlog(READ, 2, inf, 1))]
    assert actor.handle(Tick(), 15.5) == [Send(CONTROLLER, Backlog(READ, 2, inf, 0))]
    assert actor.wake_at() == 16.0


@pytest.mark.parametrize("origin", [-1e9, -1e14])
def test_the_seconds_of_a_run_that_began_long_ago_are_not_gone_through(origin: float) -> None:
    actor = make()
    actor.handle(Begin(origin), 1e6)
    assert len(actor.handle(Tick(), 1e6)) == 1
    assert actor.wake_at() == 1e6 + 1.0
    with pytest.raises(ValueError, match="no seconds can be counted from"):
        actor.handle(Begin(inf), 1e6)


def test_a_finished_batch_asks_for_no_tick() -> None:
    actor = make(drop="none")
    actor.handle(items(1), 0.0)
    batch = batches(actor.handle(ready(0, FINE), 0.0))["worker:0"]
    actor.handle(result(batch, 0), 0.02)
    assert actor.wake_at() is None


def test_an_event_for_somebody_else_is_refused() -> None:
    with pytest.raises(TypeError, match="a router cannot handle Arrived"):
        make().handle(Arrived([1], [0.0]), 0.0)
