"""Virtual time: events in total order, none in the past."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loki_rl.env.kernel import Kernel


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 5), max_size=20))
def test_events_come_by_time_then_in_order_of_scheduling(times: list[int]) -> None:
    kernel: Kernel[int] = Kernel(0.0)
    for number, time in enumerate(times):
        kernel.push(time, number)
    assert [kernel.pop() for _ in times] == sorted(range(len(times)), key=lambda number: (times[number], number))
    assert kernel.next_time is None
    with pytest.raises(IndexError):
        kernel.pop()


def test_an_event_in_the_past_happens_now() -> None:
    kernel: Kernel[str] = Kernel(5.0)
    kernel.push(1.0, "past")
    assert kernel.next_time == 5.0
    assert kernel.pop() == "past"
    assert kernel.now == 5.0
