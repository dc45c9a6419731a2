"""Virtual time: events in total order, none in the past."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from loki_rl.env.kernel import Kernel

HOP = 3


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.lists(st.one_of(st.integers(0, 5), st.none()), max_size=20))
def test_events_come_by_time_then_in_order_of_scheduling(times: list[int | None]) -> None:
    """None: one that takes a hop, like all of its kind."""
    kernel: Kernel[str, int] = Kernel(0.0)
    for number, time in enumerate(times):
        if time is None:
            kernel.follow(HOP, "to", number)
        else:
            kernel.push(time, "to", number)
    at = [HOP if time is None else time for time in times]
    due = [(at[n], n + 1, "to", n) for n in sorted(range(len(at)), key=lambda n: (at[n], n))]
    assert list(kernel.until(HOP + 5)) == due
    assert kernel.next_time is None


def test_an_event_in_the_past_happens_now() -> None:
    kernel: Kernel[str, str] = Kernel(5.0)
    kernel.push(1.0, "to", "past")
    assert kernel.next_time == 5.0
    assert list(kernel.until(9.0)) == [(5.0, 1, "to", "past")]
    assert kernel.now == 5.0


def test_the_next_time_is_that_of_the_first_of_all() -> None:
    kernel: Kernel[str, str] = Kernel(0.0)
    kernel.follow(2.0, "to", "steady")
    assert kernel.next_time == 2.0
    kernel.push(1.0, "to", "sooner")
    assert kernel.next_time == 1.0


def test_nothing_comes_before_its_time() -> None:
    kernel: Kernel[str, str] = Kernel(0.0)
    kernel.follow(2.0, "to", "steady")
    kernel.push(1.5, "to", "sooner")
    assert list(kernel.until(1.0)) == []
    assert kernel.now == 0.0
    assert list(kernel.until(1.5)) == [(1.5, 2, "to", "sooner")]
    assert list(kernel.until(2.0)) == [(2.0, 1, "to", "steady")]


def test_what_is_scheduled_meanwhile_comes_in_its_turn() -> None:
    kernel: Kernel[str, str] = Kernel(0.0)
    kernel.push(1.0, "to", "first")
    seen = []
    for now, _, _, event in kernel.until(3.0):
        seen.append(event)
        if event == "first":
            kernel.push(4.0, "to", "too late")
            kernel.follow(now + 1.0, "to", "second")
    assert seen == ["first", "second"]
