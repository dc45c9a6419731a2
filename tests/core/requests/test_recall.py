"""Requests that nobody waits for any more, or that are lost: their parts are recalled, and they still end once."""

from __future__ import annotations

import pytest

from loki_rl.core.effects import Send
from loki_rl.core.messages import Abandoned, Cancelled, Outcome
from tests.core.gateway_events import DEEP, arrive, child, ended, entry, first, leaf, lost, make, replies, served


def test_a_cancelled_request_is_answered_at_once_and_its_parts_do_not_answer_again() -> None:
    gateway = make()
    arrive(gateway, 1, 2)
    gateway.handle(first(0, 2), 0.1)
    effects = gateway.handle(Abandoned([1, 77]), 0.1)
    assert [(reply.key, reply.outcome, reply.missing) for reply in replies(effects)] == [(1, Outcome.CANCELLED, 2)]
    assert [effect for effect in effects if isinstance(effect, Send)] == [
        Send("router:0", Cancelled([0])),
        Send("router:1", Cancelled([0])),
    ]
    assert gateway.handle(Abandoned([1]), 0.1) == [], "it is gone already"
    gateway.validate()
    assert replies(gateway.handle(leaf(0, 0, Outcome.CANCELLED), 0.1) + gateway.handle(leaf(0, 1), 0.1)) == []
    assert list(gateway.roots) == [1]
    assert gateway.tally.outcome(Outcome.CANCELLED) == 1


def test_what_was_dropped_before_the_client_left_stays_dropped() -> None:
    gateway = make()
    arrive(gateway, 1)
    gateway.handle(first(0, 2), 0.1)
    gateway.handle(leaf(0, 0, Outcome.DROPPED), 0.1)
    assert [reply.outcome for reply in replies(gateway.handle(Abandoned([1]), 0.1))] == [Outcome.DROPPED]


@pytest.mark.parametrize("outcome", [Outcome.DROPPED, Outcome.FAILED])
def test_what_waits_for_a_lost_request_is_recalled_once(outcome: Outcome) -> None:
    """Its other parts would run for nothing; those that run already still report and are counted."""
    gateway = make()
    arrive(gateway, 1, 2)
    gateway.handle(first(0, 3), 0.1)
    effects = gateway.handle(leaf(0, 0, outcome), 0.1)
    assert effects == [Send("router:0", Cancelled([0])), Send("router:1", Cancelled([0]))]
    assert gateway.handle(leaf(0, 1, Outcome.CANCELLED), 0.1) == []
    (reply,) = replies(gateway.handle(leaf(0, 2), 0.12))
    assert (reply.outcome, served(reply), reply.missing) == (outcome, [child(0, 2)], 2)
    gateway.validate()


def test_children_made_after_the_loss_are_recalled_too() -> None:
    """Their parent was in a worker's hands when a sibling was dropped."""
    gateway = make(DEEP)
    arrive(gateway, 1)
    root = entry(0)
    path = DEEP.extend(0, 1)
    gateway.handle(ended(0, [root], 0, fanouts=[(2, 0)]), 0.05)
    siblings = [DEEP.child_id(root, 1, number) for number in range(2)]
    gateway.handle(lost(1, siblings[:1]), 0.06)
    effects = gateway.handle(ended(1, siblings[1:], path, fanouts=[(1, 1)]), 0.07)
    assert [effect.to for effect in effects if isinstance(effect, Send)] == [f"router:{task}" for task in range(7)]
    assert all(effect.message == Cancelled([0]) for effect in effects if isinstance(effect, Send))


def test_nothing_is_recalled_for_a_request_whose_last_part_was_lost() -> None:
    gateway = make()
    arrive(gateway, 1)
    gateway.handle(first(0, 1), 0.1)
    assert [effect for effect in gateway.handle(leaf(0, 0, Outcome.DROPPED), 0.1) if isinstance(effect, Send)] == []
