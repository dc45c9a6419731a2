"""Calls that are due later come in the order of their times, and what they return is delivered."""

from __future__ import annotations

import time

import zmq

from loki_rl.core.messages import GATEWAY, Abandoned
from loki_rl.serving.transport.driver import Delivery
from loki_rl.serving.transport.timers import Timers
from loki_rl.serving.transport.wire import Letter


def test_calls_are_made_when_they_are_due_and_in_that_order() -> None:
    timers = Timers()
    poller = zmq.Poller()
    poller.register(timers.handle, zmq.POLLIN)
    assert not poller.poll(0)

    def deliver(key: int) -> list[Delivery]:
        return [(Letter(GATEWAY, Abandoned([key]), ()), ())]

    begin = time.monotonic()
    timers.after(0.06, lambda _: deliver(3))
    timers.after(0.03, lambda _: deliver(1))
    timers.after(0.03, lambda _: deliver(2))
    found: list[object] = []
    while len(found) < 3:
        assert poller.poll(5000)
        found += [letter.message for letter, _ in timers.collect(time.monotonic())]
    assert found == [Abandoned([1]), Abandoned([2]), Abandoned([3])]
    assert time.monotonic() - begin >= 0.06
    assert not poller.poll(0)
    timers.close()
