"""What a lost router had is sent again from its beginning, as far as there is time, and every request is answered once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loki_rl.core.effects import Drop, Effect, Send
from loki_rl.core.gateway import Gateway
from loki_rl.core.messages import (
    CONTROLLER,
    Arrived,
    Begin,
    Cancelled,
    Outcome,
    PlanChanged,
    Restarted,
    Resume,
    Submit,
    router,
)
from loki_rl.core.plan import Plan
from loki_rl.core.requests.items import Family, QoS, Terms
from tests.core.gateway_events import CHAIN, SLO, arrive, ended, entry, first, lost, make, replies

PLAN = Plan("hardware", (), 1, 0.9, 1.0, 10.0, 20.0, {"a": 0.3, "b": 1.0}, {}, epoch=3)


def submitted(effects: list[Effect], task: int = 0) -> list[Family]:
    return [
        family
        for effect in effects
        if isinstance(effect, Send) and isinstance(effect.message, Submit) and effect.to == router(task)
        for family in effect.message.families
    ]


def leaf_of(root: int) -> int:
    return CHAIN.child_id(entry(root), 1, 0)


def finish(gateway: Gateway, root: int, now: float) -> list[Effect]:
    told = gateway.handle(first(root, 1), now)
    return told + gateway.handle(ended(1, [leaf_of(root)], CHAIN.extend(0, 1)), now)


def test_a_router_that_begins_anew_is_told_time_and_plan_and_gets_what_it_had_again() -> None:
    gateway = make()
    gateway.handle(PlanChanged(PLAN), 0.0)
    gateway.handle(Arrived([7, 8], [0.0, 0.0], {7: QoS(0.5, 2)}), 0.01)
    gateway.handle(first(0, 1), 0.02)  # the second task has its child; the other request is still at the first
    effects = gateway.handle(Restarted(router(1)), 0.03)
    assert effects[:2] == [Send(router(1), Begin(0.0)), Send(router(1), PlanChanged(PLAN))]
    (again,) = submitted(effects)
    assert (again.id, again.t0, again.deadline, again.terms) == (entry(2), 0.01, 0.01 + SLO, Terms(0.5, SLO / 2))
    assert [effect.families[0].id for effect in effects if isinstance(effect, Drop)] == [entry(0)]
    assert Send(router(0), Cancelled([0])) in effects
    gateway.validate()
    assert replies(gateway.handle(ended(1, [leaf_of(0)], CHAIN.extend(0, 1)), 0.04)) == [], "of the former life"
    answers = replies(finish(gateway, 1, 0.05) + finish(gateway, 2, 0.06))
    assert [(answer.key, answer.outcome) for answer in answers] == [(8, Outcome.OK), (7, Outcome.OK)]
    gateway.validate()
    assert not gateway.by_key
    assert (gateway.tally.arrivals, gateway.tally.outcome(Outcome.OK)) == (2, 2)


def test_what_has_no_time_left_is_answered_at_once() -> None:
    gateway = make()
    arrive(gateway, 7)
    effects = gateway.handle(Restarted(router(0)), SLO - 0.001)
    (answer,) = replies(effects)
    assert (answer.key, answer.outcome) == (7, Outcome.DROPPED)
    assert answer.cause is not None
    assert answer.cause.late_s > 0
    assert submitted(effects) == []
    gateway.validate()


def test_a_controller_that_begins_anew_is_told_where_time_demand_and_plan_stand() -> None:
    gateway = make()
    gateway.handle(PlanChanged(PLAN), 0.0)
    arrive(gateway, 1, 2, now=0.5)
    arrive(gateway, 3, now=2.5)
    (told,) = gateway.handle(Restarted(CONTROLLER), 3.5)[-1:]
    assert told == Send(CONTROLLER, Resume(0.0, 3, [2, 0, 1], PLAN))


@given(
    st.lists(
        st.tuples(st.sampled_from(["arrive", "first", "leaf", "lost", "restart"]), st.integers(0, 9)),
        min_size=1,
        max_size=60,
    )
)
def test_every_request_is_answered_once_whatever_restarts_when(steps: list[tuple[str, int]]) -> None:
    gateway, now, keys = make(), 0.0, 0
    answered: list[int] = []
    made: set[int] = set()  # requests whose first item has ended well
    for what, number in steps:
        now += 0.002
        root = number % max(1, gateway.next_root)
        match what:
            case "arrive":
                effects = arrive(gateway, keys, now=now)
                keys += 1
            case "first":
                made.add(root)
                effects = gateway.handle(first(root, 1), now)
            case "leaf" if root in made:
                effects = gateway.handle(ended(1, [leaf_of(root)], CHAIN.extend(0, 1)), now)
            case "lost" if root not in made:
                effects = gateway.handle(lost(0, [entry(root)]), now)
            case _:
                effects = gateway.handle(Restarted(router(number % 2)), now)
        answered += [reply.key for reply in replies(effects)]
        gateway.validate()
    for root in range(gateway.next_root):
        answered += [reply.key for reply in replies(finish(gateway, root, now))]
        gateway.validate()
    assert sorted(answered) == list(range(keys))
    assert gateway.tally.arrivals == keys == sum(map(gateway.tally.outcome, Outcome))
