"""What single requests ask beyond the usual, and what they are told when they are dropped: floors, boosts and causes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loki_rl.core.effects import Effect, Reply, Send
from loki_rl.core.gateway import Gateway
from loki_rl.core.messages import Arrived, Begin, Cause, Counted, Execute, Outcome, Ready, Result, Settled, Submit, Tick
from loki_rl.core.options import ClusterOptions, DropPolicy
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.core.requests.items import Family, QoS, Terms
from loki_rl.core.routing.pull_router import PullRouter

SLO = 0.1
CHILDREN = {"read": 1.0}


def latency(seconds: float) -> dict[int, Latency]:
    return {n: Latency(seconds, seconds, seconds) for n in (1, 2)}


def variants(children: dict[str, float]) -> tuple[Variant, ...]:
    return (Variant("rough", 0.5, latency(0.005), children), Variant("fine", 0.8, latency(0.020), children))


PIPELINE = Pipeline(
    name="chain",
    slo_s=SLO,
    tasks=(Task("find", variants(CHILDREN), entry=1.0), Task("read", variants({}), parent="find")),
    leaf_weights={"read": 1.0},
    hop_s=0.0,
)
FIND, READ = 0, 1
ROUGH, FINE = 0, 1


def make(task: int = READ, drop: DropPolicy = "reroute") -> PullRouter:
    return PullRouter(ClusterOptions(PIPELINE, 4, drop=drop, lead_s=0.0), task)


def item(number: int, terms: Terms | None = None, t0: float = 0.0, timeout: float = SLO, prefix: int = 0) -> Family:
    return Family(PIPELINE.entry_id(number, 0), t0, t0 + timeout, prefix, terms)


def messages(effects: list[Effect], kind: type[Any]) -> list[Any]:
    return [effect.message for effect in effects if isinstance(effect, Send) and isinstance(effect.message, kind)]


def pull(router: PullRouter, variant: int, now: float = 0.0, number: int = 0, serial: int = 1, batch: int = 1) -> list[int]:
    """A worker gives a credit; the requests that it gets."""
    given = messages(router.handle(Ready(number, 0, serial, variant, batch), now), Execute)
    return [one.id >> 31 for execute in given for one in execute.families]


# -- floors ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drop", ["reroute", "none"])
def test_an_item_waits_for_a_variant_that_is_accurate_enough_and_lets_others_pass(drop: DropPolicy) -> None:
    router = make(FIND, drop)
    router.handle(Submit([item(1, Terms(floor=0.6)), item(2)]), 0.0)
    assert pull(router, ROUGH, number=0) == [2]
    assert pull(router, ROUGH, number=1) == []
    assert pull(router, FINE, number=2) == [1]


@pytest.mark.parametrize(("first", "served"), [(ROUGH, []), (FINE, [1])])
def test_a_floor_is_for_the_whole_path(first: int, served: list[int]) -> None:
    """rough then fine is 0.4, fine then rough too: only fine twice is above 0.5."""
    router = make()
    router.handle(Submit([item(1, Terms(floor=0.5), prefix=PIPELINE.extend(0, first))]), 0.0)
    assert pull(router, ROUGH, number=0) == []
    assert pull(router, FINE, number=1) == served


def test_children_keep_the_terms_of_their_request() -> None:
    router = make(FIND)
    terms = Terms(floor=0.6, boost=0.02)
    router.handle(Submit([item(1, terms)]), 0.0)
    (batch,) = messages(router.handle(Ready(0, 0, 1, FINE, 1), 0.0), Execute)
    (children,) = messages(router.handle(Result(0, 0, batch.batch, FINE, [(2,)], 0.02, ""), 0.02), Submit)
    assert [(child.terms, child.count) for child in children.families] == [(terms, 2)]


def test_an_item_that_no_ready_variant_may_serve_is_dropped_at_its_deadline() -> None:
    router = make()
    router.handle(Submit([item(1, Terms(floor=0.6))]), 0.0)
    assert pull(router, ROUGH) == []
    wake = router.wake_at()
    assert wake is not None
    (lost,) = messages(router.handle(Tick(), wake), Settled)
    assert (lost.outcome, lost.cause.task, lost.cause.fitting) == (Outcome.DROPPED, READ, -1)
    assert lost.cause.late_s == pytest.approx(0.005)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.3, 0.5, 0.6]), st.floats(0, 0.1)), max_size=12), st.data())
def test_no_variant_ever_serves_below_a_floor_and_no_item_is_forgotten(
    asked: list[tuple[float, float]], data: st.DataObject
) -> None:
    router = make(FIND)
    router.handle(Submit([item(n, Terms(floor, boost)) for n, (floor, boost) in enumerate(asked)]), 0.0)
    ended: list[int] = []
    for serial in range(1, 30):
        variant = data.draw(st.sampled_from([ROUGH, FINE]))
        effects = router.handle(Ready(variant, 0, serial, variant, 2), 0.001 * serial)
        ended += [one.id >> 31 for lost in messages(effects, Settled) for one in lost.families]
        for execute in messages(effects, Execute):
            for one in execute.families:
                assert asked[one.id >> 31][0] <= PIPELINE.best_completion(READ, (variant,))
            ended += [one.id >> 31 for one in execute.families]
            fanouts: list[tuple[int, ...]] = [(0,)] * len(execute.families)
            router.handle(Result(variant, 0, execute.batch, variant, fanouts, 0.0, ""), 0.001 * serial)
        router.validate()
    ended += [one.id >> 31 for lost in messages(router.handle(Tick(), 9.0), Settled) for one in lost.families]
    assert sorted(ended) == list(range(len(asked)))


# -- boosts ----------------------------------------------------------------------------------------------------------------


def test_a_boosted_item_goes_before_those_that_came_a_little_earlier() -> None:
    router = make()
    router.handle(Submit([item(1, t0=-0.03), item(2), item(3, Terms(boost=0.02))]), 0.0)
    assert [pull(router, ROUGH, number=n) for n in range(3)] == [[1], [3], [2]]


def test_a_boost_brings_forward_but_shortens_no_deadline() -> None:
    """The overloaded queue drops by soft deadlines: that of the boosted item is where it was."""
    router = make()
    router.handle(Submit([item(n, Terms(boost=0.09)) for n in range(30)]), 0.0)
    effects = router.handle(Ready(0, 0, 1, FINE, 2), 0.0)
    assert len(messages(effects, Execute)[0].families) == 2
    assert messages(effects, Settled) == []


# -- causes ----------------------------------------------------------------------------------------------------------------


def test_a_drop_tells_how_late_it_would_have_been_and_what_would_have_fitted() -> None:
    router = make()
    router.handle(Submit([item(1, timeout=0.012)]), 0.0)
    (lost,) = messages(router.handle(Ready(0, 0, 1, FINE, 1), 0.002), Settled)
    assert (lost.cause.task, lost.cause.fitting) == (READ, ROUGH)
    assert lost.cause.late_s == pytest.approx(0.010)


def test_what_would_have_fitted_respects_the_floor() -> None:
    router = make()
    router.handle(Submit([item(1, Terms(floor=0.6), timeout=0.012)]), 0.0)
    (lost,) = messages(router.handle(Ready(1, 0, 1, FINE, 1), 0.002), Settled)
    assert lost.cause.fitting == -1, "rough is quick enough, but not accurate enough"


def test_a_gateway_turns_priorities_into_boosts() -> None:
    gateway = Gateway(ClusterOptions(PIPELINE, 4))
    asked = {1: QoS(priority=1), 2: QoS(priority=2), 3: QoS(0.5, 4)}
    (submit,) = messages(gateway.handle(Arrived([1, 2, 3, 4], [0.0] * 4, asked), 0.0), Submit)
    assert [one.terms for one in submit.families] == [Terms(boost=SLO), Terms(boost=SLO / 2), Terms(0.5, SLO / 4), None]


def test_a_request_that_asks_for_more_accuracy_than_there_is_is_rejected_at_once_and_is_no_demand() -> None:
    gateway = Gateway(ClusterOptions(PIPELINE, 4))
    gateway.handle(Begin(0.0), 0.0)
    most = 0.8 * 0.8
    effects = gateway.handle(Arrived([1, 2], [0.0] * 2, {1: QoS(most + 0.01), 2: QoS(most)}), 0.5)
    (reply,) = [effect for effect in effects if isinstance(effect, Reply)]
    assert (reply.key, reply.outcome, reply.retry_s, reply.cause) == (1, Outcome.REJECTED, 0.0, Cause(-1, client_fault=True))
    assert reply.reason == "min_accuracy 0.65 is above 0.64, the most that this pipeline reaches on every path"
    assert len(messages(effects, Submit)[0].families) == 1
    (counted,) = messages(gateway.handle(Tick(), 1.0), Counted)
    assert (counted.arrivals, gateway.tally.arrivals, gateway.tally.outcome(Outcome.REJECTED)) == (1, 2, 1)
    gateway.validate()


def test_the_answer_carries_the_first_cause_only() -> None:
    gateway = Gateway(ClusterOptions(PIPELINE, 4))
    (submit,) = messages(gateway.handle(Arrived([5], [0.0], {5: QoS(min_accuracy=0.5)}), 0.0), Submit)
    (entry,) = submit.families
    assert entry.terms == Terms(floor=0.5)
    gateway.handle(Settled(FIND, Outcome.OK, [entry], FINE, [(2,)]), 0.01)
    path = PIPELINE.extend(0, FINE)
    children = [Family(PIPELINE.child_id(entry.id, READ, number), 0.0, SLO, path) for number in range(2)]
    first, second = Cause(READ, 0.01, ROUGH), Cause(READ, 0.02, -1)
    gateway.handle(Settled(READ, Outcome.DROPPED, children[:1], -1, [], first), 0.02)
    effects = gateway.handle(Settled(READ, Outcome.DROPPED, children[1:], -1, [], second), 0.03)
    (reply,) = [effect for effect in effects if isinstance(effect, Reply)]
    assert (reply.outcome, reply.cause) == (Outcome.DROPPED, first)
