"""Accounts of the plane: complete when all nodes have told, and given without those that do not."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import zmq

from loki_rl.serving.gateway.state_query import LIMIT_S, StateQuery
from loki_rl.serving.state import Control, Part, Stage
from loki_rl.serving.transport.timers import Timers
from loki_rl.serving.transport.wire import ControlWord as Word
from loki_rl.serving.transport.wire import PartsRead, ReadParts

CONTROL, STAGE = Control(None, 0.0, [], []), Stage("read", 0, 0.0, {}, {}, {})


@pytest.fixture
def timers() -> Iterator[Timers]:
    timers = Timers()
    yield timers
    timers.close()


def ring(timers: Timers) -> None:
    """Wait for the next timer as a driver does."""
    poller = zmq.Poller()
    poller.register(timers.handle, zmq.POLLIN)
    assert poller.poll(5000)
    assert list(timers.collect(time.monotonic())) == []


def test_an_account_is_complete_when_every_node_has_told_its_part_once(timers: Timers) -> None:
    said: list[tuple[str, Word]] = []
    state_query = StateQuery(lambda node, word: said.append((node, word)), "gateway", timers)
    answers: list[list[Part]] = []
    state_query.ask(["a", "b"], answers.append)
    assert said == [("a", ReadParts(1, "gateway")), ("b", ReadParts(1, "gateway"))]
    state_query.record(PartsRead(1, "b", [CONTROL]))
    state_query.record(PartsRead(1, "b", [CONTROL]))
    state_query.record(PartsRead(7, "a", [STAGE]))
    assert not answers
    state_query.record(PartsRead(1, "a", [STAGE]))
    state_query.record(PartsRead(1, "a", [STAGE]))
    assert answers == [[CONTROL, STAGE]]
    ring(timers)
    assert len(answers) == 1


def test_nodes_that_do_not_answer_in_time_are_left_out(timers: Timers) -> None:
    state_query = StateQuery(lambda *_: None, "gateway", timers)
    answers: list[list[Part]] = []
    begin = time.monotonic()
    state_query.ask(["a", "b"], answers.append)
    state_query.record(PartsRead(1, "a", [STAGE]))
    assert not answers
    ring(timers)
    assert answers == [[STAGE]]
    assert time.monotonic() - begin >= LIMIT_S
    state_query.record(PartsRead(1, "b", [CONTROL]))
    assert answers == [[STAGE]]
