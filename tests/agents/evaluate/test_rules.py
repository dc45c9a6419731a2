"""Rules as agents."""

from __future__ import annotations

import numpy as np

from loki_rl.agents.evaluate.rules import constant, split
from loki_rl.control.learned.agent import act, open_card, outside
from loki_rl.control.learned.observation import ACTIONS, NO_ADJUSTMENT, OBSERVATION

CARD = open_card("small", 1.0)
LOW, HIGH = (action for action in range(ACTIONS) if action != NO_ADJUSTMENT and action in (0, ACTIONS - 1))


def chosen(agent: object, value: float, *illegal: int) -> int:
    seen, legal = np.zeros(OBSERVATION, np.float32), np.ones(ACTIONS, np.bool_)
    seen[2], legal[list(illegal)] = value, False
    return act(agent, seen, legal)  # type: ignore[arg-type]


def test_a_constant_is_played_wherever_it_is_legal() -> None:
    for action in range(ACTIONS):
        assert chosen(constant(action, CARD), 0.0) == action
        if action != NO_ADJUSTMENT:
            assert chosen(constant(action, CARD), 0.0, action) == NO_ADJUSTMENT


def test_a_threshold_switches_where_it_lies() -> None:
    for low, high in ((LOW, HIGH), (HIGH, LOW), (NO_ADJUSTMENT, HIGH), (LOW, NO_ADJUSTMENT)):
        rule = split(2, 0.25, low, high, CARD)
        assert [chosen(rule, value) for value in (-1.0, 0.249, 0.251, 1.0)] == [low, low, high, high]
        if low != NO_ADJUSTMENT:
            assert chosen(rule, -1.0, low) == NO_ADJUSTMENT
        if high != NO_ADJUSTMENT:
            assert chosen(rule, 1.0, high) == NO_ADJUSTMENT


def test_a_threshold_between_equal_actions_is_a_constant() -> None:
    assert {chosen(split(2, 0.0, LOW, LOW, CARD), value) for value in (-1.0, 1.0)} == {LOW}


def test_a_rule_is_believed_everywhere() -> None:
    assert not outside(CARD, np.full((1, OBSERVATION), 1e6, np.float32)).any()
