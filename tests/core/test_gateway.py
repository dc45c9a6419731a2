"""The gateway: parts of a request may report in any order and more than once, and each request is answered exactly once."""

from __future__ import annotations

from collections import Counter
from math import inf, nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loki_rl.core import draws
from loki_rl.core.effects import Reply, Send
from loki_rl.core.gateway import FORGET_S
from loki_rl.core.messages import (
    CONTROLLER,
    Abandoned,
    Arrived,
    Begin,
    Counted,
    Drain,
    Ended,
    Event,
    Outcome,
    PlanChanged,
    Ready,
    Sample,
    Submit,
    Tick,
)
from loki_rl.core.pipeline import Pipeline, Task, root_of
from loki_rl.core.plan import Plan
from loki_rl.core.requests import seconds
from loki_rl.core.requests.accuracy import Accuracy
from loki_rl.core.requests.items import Family, size
from tests.core.gateway_events import DEEP, OTHERS, SLO, arrive, child, entry, first, leaf, lost, make, pair, replies, served

# -- the join -------------------------------------------------------------------------------------------------------------


class Story:
    """All that the routers will say of one request, drawn from below the entry items down."""

    def __init__(self, data: st.DataObject, submits: list[Submit]) -> None:
        self.data = data
        self.parts: list[Ended] = []
        self.leaf_paths: dict[int, list[float]] = {leaf: [] for leaf in DEEP.leaves}
        self.dead_paths: dict[int, list[float]] = {leaf: [] for leaf in DEEP.leaves}
        self.leaves: list[int] = []
        self.accuracy = Accuracy(DEEP)
        for submit in submits:
            for family in submit.families:
                self.tell(6 if family.id >> 27 & 15 == 2 else 0, family.id, 1, 0)

    def tell(self, task: int, first: int, count: int, prefix: int) -> None:
        """Siblings end together or in two parts."""
        cut = self.data.draw(st.integers(1, count))
        items = DEEP.members(task, first, count)
        for part in (items[:cut], items[cut:]):
            if part:
                self.end(task, Family(part[0], 0.0, SLO, prefix, None, len(part)))

    def end(self, task: int, family: Family) -> None:
        outcome = self.data.draw(st.sampled_from([Outcome.OK] * 9 + OTHERS))
        if outcome is not Outcome.OK:
            self.parts.append(Ended(task, outcome, [family], -1, []))
            return
        variant = self.data.draw(st.integers(0, 1))
        path, items = DEEP.extend(family.prefix, variant), DEEP.members(task, family.id, family.count)
        if not DEEP.children[task]:
            self.leaves += items
            self.leaf_paths[task] += [self.accuracy.path(task, path)] * family.count
            self.parts.append(Ended(task, outcome, [family], variant, []))
            return
        fanouts = [tuple(self.data.draw(st.integers(0, 2)) for _ in DEEP.children[task]) for _ in items]
        self.parts.append(Ended(task, outcome, [family], variant, fanouts))
        for item, counts in zip(items, fanouts, strict=True):
            self.spread(task, item, counts, path)

    def spread(self, task: int, parent: int, counts: tuple[int, ...], path: int) -> None:
        number = 0
        for below, count in zip(DEEP.children[task], counts, strict=True):
            for leaf_task in DEEP.leaves if not count else ():
                if below in DEEP.lines[leaf_task]:
                    self.dead_paths[leaf_task].append(DEEP.best_completion(leaf_task, DEEP.unpack(path)))
            if count:
                self.tell(below, DEEP.child_id(parent, below, number), count, path)
            number += count

    @property
    def whole(self) -> bool:
        return all(part.outcome is Outcome.OK for part in self.parts)

    @property
    def expected_accuracy(self) -> float:
        """The definition of docs/glossary.md, word for word."""
        total = 0.0
        for task in DEEP.leaves:
            served, dead = self.leaf_paths[task], self.dead_paths[task]
            best = DEEP.best_completion(task, ())
            mean = sum(served) / len(served) if served else sum(dead) / len(dead) if dead else best
            total += DEEP.leaf_weights[DEEP.tasks[task].name] * mean
        return total


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.data())
def test_any_order_and_any_repeats_give_the_same_single_answer(data: st.DataObject) -> None:
    """Three levels, four leaf tasks, a second entry task in half of the requests."""
    gateway = make(DEEP)
    count = data.draw(st.integers(1, 3))
    effects = arrive(gateway, *range(10, 10 + count))
    submits = [effect.message for effect in effects if isinstance(effect, Send) and isinstance(effect.message, Submit)]
    mine = {
        root: [Submit([family for family in submit.families if root_of(family.id) == root]) for submit in submits]
        for root in range(count)
    }
    stories = [Story(data, mine[root]) for root in range(count)]
    parts = [part for story in stories for part in story.parts]
    repeats = data.draw(st.lists(st.sampled_from(parts), max_size=len(parts)))
    told: list[Ended] = data.draw(st.permutations([*parts, *repeats]))
    answers: dict[int, Reply] = {}
    left = [len(story.parts) for story in stories]
    seen: set[int] = set()
    causes: dict[int, Outcome] = {}
    for part in told:
        first_item = part.families[0].id
        root = root_of(first_item)
        if first_item not in seen:
            seen.add(first_item)
            left[root] -= 1
            if part.outcome is not Outcome.OK:
                causes.setdefault(root, part.outcome)
        for reply in replies(gateway.handle(part, 0.1)):
            assert reply.root not in answers, "answered twice"
            answers[reply.root] = reply
        gateway.validate()
        assert answers.keys() == {number for number in range(count) if not left[number]}, "when the last part has ended"
    assert not gateway.roots
    for root, story in enumerate(stories):
        answer = answers[root]
        assert (answer.key, answer.outcome) == (10 + root, causes.get(root, Outcome.OK)), "the first cause wins"
        assert sorted(served(answer, DEEP)) == sorted(story.leaves)
        assert answer.accuracy == (pytest.approx(story.expected_accuracy) if story.whole else 0.0)
        assert answer.missing == sum(size(part.families) for part in story.parts if part.outcome is not Outcome.OK)
    assert Counter(answer.outcome for answer in answers.values()) == {
        outcome: gateway.tally.outcome(outcome) for outcome in Outcome if gateway.tally.outcome(outcome)
    }


def test_a_request_without_children_ends_well() -> None:
    gateway = make()
    arrive(gateway, 1)
    assert [reply.outcome for reply in replies(gateway.handle(first(0, 0), 0.1))] == [Outcome.OK]


def test_a_request_may_start_with_nothing_at_all() -> None:
    """An entry of one half: every other request has no item of its only entry task."""
    pipeline = Pipeline("half", SLO, (Task("a", pair(), entry=0.5),), {"a": 1.0})
    gateway = make(pipeline)
    effects = arrive(gateway, *range(20))
    empty = replies(effects)
    assert 0 < len(empty) < 20
    assert {(reply.outcome, reply.accuracy, reply.latency_s) for reply in empty} == {(Outcome.OK, 0.9, 0.0)}
    gateway.validate()


# -- time -----------------------------------------------------------------------------------------------------------------


def test_late_is_what_ends_after_the_deadline() -> None:
    for now, outcome in ((SLO, Outcome.OK), (SLO + 1e-6, Outcome.LATE)):
        gateway = make()
        arrive(gateway, 1)
        gateway.handle(first(0, 1), 0.1)
        reply = replies(gateway.handle(leaf(0), now))[0]
        assert (reply.outcome, reply.latency_s, reply.accuracy > 0) == (outcome, now, outcome is Outcome.OK)
        assert gateway.tally.leaves_bad == (outcome is Outcome.LATE)


def test_the_timer_answers_after_the_grace_and_late_parts_are_still_counted() -> None:
    gateway = make(grace_s=0.5)
    arrive(gateway, 1)
    gateway.handle(first(0, 2), 0.1)
    gateway.handle(leaf(0, 0), 0.15)
    assert gateway.wake_at() == pytest.approx(SLO + 0.5)
    reply = replies(gateway.handle(Tick(), SLO + 0.5))[0]
    assert (reply.outcome, served(reply), reply.missing, reply.latency_s) == (Outcome.LATE, [child(0)], 1, SLO + 0.5)
    assert replies(gateway.handle(leaf(0, 1), 3.0)) == []
    assert not gateway.roots
    assert (gateway.tally.leaves, gateway.tally.leaves_bad) == (2, 1)


def test_a_part_that_ends_after_the_answer_is_told_to_nobody() -> None:
    gateway = make()
    arrive(gateway, 1)
    gateway.handle(first(0, 1), 0.1)
    gateway.handle(Tick(), 9.0)
    assert gateway.handle(leaf(0), 9.0) == []
    assert not gateway.roots


def test_the_first_cause_wins_over_the_timer() -> None:
    gateway = make()
    arrive(gateway, 1)
    gateway.handle(first(0, 2), 0.1)
    gateway.handle(leaf(0, 0, Outcome.DROPPED), 0.15)
    assert [reply.outcome for reply in replies(gateway.handle(Tick(), 2 * SLO))] == [Outcome.DROPPED]


def test_a_request_may_bring_its_own_deadline() -> None:
    gateway = make()
    arrive(gateway, 1, timeout=1.0)
    gateway.handle(first(0, 1), 0.1)
    assert [reply.outcome for reply in replies(gateway.handle(leaf(0), 0.9))] == [Outcome.OK]


def test_a_request_whose_parts_were_lost_is_forgotten_a_minute_after_its_time() -> None:
    """A process that died took the second child along. A client that left early waits no longer."""
    gateway = make(grace_s=0.5)
    arrive(gateway, 1, 2)
    for root in (0, 1):
        gateway.handle(first(root, 2), 0.1)
    gateway.handle(leaf(0, 0), 0.15)
    gateway.handle(Abandoned([2]), 0.2)
    over = SLO + 0.5
    assert [reply.root for reply in replies(gateway.handle(Tick(), over))] == [0]
    assert list(gateway.roots) == [0, 1]
    assert replies(gateway.handle(leaf(0, 1), over + 30.0)) == []
    assert list(gateway.roots) == [1]
    assert gateway.tally.leaves == 2
    gateway.handle(Tick(), over + FORGET_S)
    assert (gateway.roots, gateway.timers) == ({}, [])
    assert replies(gateway.handle(leaf(1), over + FORGET_S + 1.0)) == []
    assert (gateway.tally.leaves, [gateway.tally.outcome(outcome) for outcome in Outcome]) == (2, [0, 1, 0, 0, 1, 0])
    gateway.validate()


def test_where_nothing_is_dropped_every_part_ends_and_is_waited_for() -> None:
    gateway = make(drop="none", grace_s=0.5)
    arrive(gateway, 1)
    gateway.handle(Tick(), SLO + 0.5)
    gateway.handle(Tick(), 2 * FORGET_S)
    assert list(gateway.roots) == [0]


def test_an_answered_request_asks_for_no_tick() -> None:
    gateway = make()
    arrive(gateway, 1)
    gateway.handle(first(0, 0), 0.1)
    assert gateway.wake_at() == 1.0, "the next second"


def test_every_second_is_counted_also_the_quiet_ones() -> None:
    gateway = make()
    arrive(gateway, 1, 2, now=0.5)
    told = arrive(gateway, 3, now=3.0)
    counted = [effect.message for effect in told if isinstance(effect, Send) and effect.to == CONTROLLER]
    assert counted == [Counted(0, 2), Counted(1, 0), Counted(2, 0)]
    assert sorted(gateway.tally.seconds) == [0, 3]


# -- refused, begun again ---------------------------------------------------------------------------------------------------


def test_a_full_cluster_refuses_and_counts_what_it_refused() -> None:
    gateway = make(max_inflight=2)
    refused = replies(arrive(gateway, 1, 2, 3))
    assert [(reply.key, reply.root, reply.outcome) for reply in refused] == [(3, -1, Outcome.REJECTED)]
    assert refused[0].reason
    gateway.handle(first(0, 0), 0.1)
    assert replies(arrive(gateway, 4, now=0.1)) == []
    gateway.validate()
    assert (gateway.tally.arrivals, gateway.tally.outcome(Outcome.REJECTED)) == (4, 1)


def test_large_payloads_fill_a_cluster_too() -> None:
    gateway = make(max_inflight_bytes=100)
    refused = replies(gateway.handle(Arrived([1, 2, 3, 4], [0.0] * 4, {}, {1: 60, 2: 50, 3: 40}), 0.0))
    assert [(reply.key, reply.outcome) for reply in refused] == [(2, Outcome.REJECTED)]
    gateway.handle(first(0, 0), 0.1)
    assert [reply.key for reply in replies(gateway.handle(Arrived([5, 6], [0.0] * 2, {}, {5: 60, 6: 1}), 0.1))] == [6]
    gateway.handle(Abandoned([3, 5]), 0.1)
    assert replies(gateway.handle(Arrived([7], [0.0], {}, {7: 100}), 0.1)) == []
    gateway.validate()


def test_leaves_of_a_refused_request_count_as_violated() -> None:
    gateway = make(DEEP, max_inflight=0)
    arrive(gateway, *range(30))
    expected = sum(draws.root_leaves(0, DEEP, root) for root in range(30))
    assert gateway.tally.leaves == gateway.tally.leaves_bad == expected > 0


def test_a_refused_request_does_not_shift_the_draws_of_the_next() -> None:
    """Two policies, one of which refuses more, must meet the same fan-outs."""
    gateway = make(max_inflight=1)
    arrive(gateway, 1, 2)
    gateway.handle(first(0, 0), 0.1)
    submits = [effect.message for effect in arrive(gateway, 3, now=0.1) if isinstance(effect, Send)]
    assert [[one.id for one in submit.families] for submit in submits if isinstance(submit, Submit)] == [[entry(2)]]


def test_a_draining_gateway_refuses_and_ends_what_it_has() -> None:
    gateway = make()
    arrive(gateway, 1)
    gateway.handle(Drain(), 0.0)
    assert [reply.outcome for reply in replies(arrive(gateway, 2))] == [Outcome.REJECTED]
    assert [reply.outcome for reply in replies(gateway.handle(first(0, 0), 0.1))] == [Outcome.OK]


def test_lost_leaves_are_those_of_the_most_accurate_variants() -> None:
    gateway = make(DEEP)
    effects = arrive(gateway, *range(20))
    for effect in effects:
        if isinstance(effect, Send) and isinstance(effect.message, Submit):
            task = int(effect.to.split(":")[1])
            gateway.handle(lost(task, [family.id for family in effect.message.families]), 0.1)
    expected = sum(draws.root_leaves(0, DEEP, root) for root in range(20))
    assert gateway.tally.leaves == gateway.tally.leaves_bad == expected
    assert not gateway.roots


def test_a_new_run_counts_from_zero_and_leaves_out_what_is_still_open() -> None:
    gateway = make()
    plan = Plan("hardware", (), 0, 1.0, 1.0, 1.0, 1.0, {}, {})
    gateway.handle(PlanChanged(plan), 0.5)
    arrive(gateway, 1, 2, now=0.5)
    gateway.handle(first(0, 0), 0.6)
    gateway.handle(Sample(0, 4, 1), 1.1)
    gateway.handle(Begin(10.0), 10.0)
    assert (gateway.tally.arrivals, gateway.tally.seconds) == (0, {})
    assert [(record.time, record.plan) for record in gateway.tally.plans] == [(0.0, plan)]
    assert [reply.outcome for reply in replies(gateway.handle(first(1, 0), 10.0))] == [Outcome.LATE]
    gateway.validate()
    assert gateway.tally.arrivals == 0
    arrive(gateway, 3, now=11.5)
    assert list(gateway.tally.seconds) == [1]


@pytest.mark.parametrize("origin", [-1e9, -1e14, 0.0])
def test_a_run_that_began_long_ago_reports_seconds_from_now_on(origin: float) -> None:
    gateway = make()
    gateway.handle(Begin(origin), 1e6)
    assert gateway.handle(Tick(), 1e6) == []
    wake = gateway.wake_at()
    assert wake is not None
    assert 1e6 < wake <= 1e6 + 1.0
    assert gateway.handle(Tick(), wake) == [Send(CONTROLLER, Counted(round(wake - origin) - 1, 0))]


def test_after_a_very_long_pause_the_latest_seconds_are_reported() -> None:
    gateway = make()
    gateway.handle(Begin(0.0), 0.0)
    counted = [effect.message for effect in gateway.handle(Tick(), 1e6) if isinstance(effect, Send)]
    assert len(counted) <= seconds.MOST + 1
    assert counted[-1] == Counted(10**6 - 1, 0)
    assert gateway.wake_at() == 1e6 + 1.0


@pytest.mark.parametrize("origin", [nan, inf, -inf, 1e300, -1e300])
def test_a_run_without_a_beginning_leaves_the_one_in_force(origin: float) -> None:
    gateway = make()
    gateway.handle(Begin(10.0), 10.0)
    arrive(gateway, 1, now=10.5)
    with pytest.raises(ValueError, match="no seconds can be counted from"):
        gateway.handle(Begin(origin), 10.7)
    assert gateway.tally.arrivals == 1
    assert gateway.seconds.origin == 10.0


def test_an_idle_gateway_numbers_every_run_alike() -> None:
    gateway = make(DEEP)
    runs = []
    for origin in (10.0, 20.0):
        gateway.handle(Begin(origin), origin)
        effects = arrive(gateway, *range(5), now=origin)
        submits = [effect.message for effect in effects if isinstance(effect, Send) and isinstance(effect.message, Submit)]
        runs.append([[family.id for family in submit.families] for submit in submits])
        for task in (0, 6):
            ids = [item for items in runs[-1] for item in items if (6 if item >> 27 & 15 == 2 else 0) == task]
            gateway.handle(lost(task, ids), origin)
        assert not gateway.roots
    assert runs[0] == runs[1]


def test_an_idle_gateway_waits_for_no_request() -> None:
    """Numbers begin again with the next run: no timer of a former one may be left for them."""
    gateway = make()
    arrive(gateway, 1, timeout=5.0)
    arrive(gateway, 2)
    for root in (0, 1):
        gateway.handle(first(root, 0), 0.1)
    assert gateway.timers == []


def test_an_event_for_somebody_else_is_refused() -> None:
    event: Event = Ready(0, 0, 1, 0, 1)
    with pytest.raises(TypeError, match="the gateway cannot handle Ready"):
        make().handle(event, 0.0)
