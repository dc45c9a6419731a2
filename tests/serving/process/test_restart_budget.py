"""A process that keeps ending is started ever more rarely, and never more often than the budget of a window allows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loki_rl.serving.process.restart_budget import LONGEST_DELAY_S, RESTARTS, WINDOW_S, RestartBudget, told

LIVES = st.lists(st.floats(0.0, 2 * WINDOW_S), min_size=1, max_size=40)


def starts(lives: list[float]) -> list[tuple[float, float]]:
    """When a process of these lives ends, and when it is started again."""
    budget, now, found = RestartBudget(), 0.0, []
    for lived_s in lives:
        now += lived_s
        at = budget.next_start(lived_s, now)
        found.append((now, at))
        now = at
        budget.restarted(now)
    return found


@given(LIVES)
def test_no_window_has_more_restarts_than_the_budget(lives: list[float]) -> None:
    times = [at for _, at in starts(lives)]
    # A life beyond the window begins anew, so no window holds restarts of before and after it.
    assert all(later - first >= WINDOW_S - 1e-6 for first, later in zip(times, times[RESTARTS:], strict=False))


@given(LIVES)
def test_a_restart_is_never_early_and_never_later_than_delay_or_window_ask(lives: list[float]) -> None:
    for ended, at in starts(lives):
        assert 0.0 <= at - ended <= max(LONGEST_DELAY_S, WINDOW_S)


@given(LIVES)
def test_who_lived_longer_than_the_window_starts_afresh(lives: list[float]) -> None:
    ended, at = starts([*lives, WINDOW_S + 1.0])[-1]
    assert at == ended


def test_the_first_comes_at_once_then_delays_double_and_then_it_stays_away() -> None:
    waits = [at - ended for ended, at in starts([0.0] * 20)]
    assert waits[:RESTARTS] == [0.0, 0.5, 1.0, 2.0, 4.0]
    assert waits[RESTARTS] == WINDOW_S - sum(waits[:RESTARTS])
    assert set(waits[2 * RESTARTS :]) == {LONGEST_DELAY_S}


def test_a_start_that_fails_is_tried_again_ever_more_rarely() -> None:
    budget = RestartBudget()
    waits = [budget.next_start(0.0, 100.0) - 100.0 for _ in range(1000)]
    assert waits[:8] == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0]
    assert set(waits[8:]) == {30.0}


def test_what_is_told_of_a_wait() -> None:
    assert told(0.0) == "it is started again"
    assert told(0.5) == "it is started again in 0.5 s"
    assert told(52.5) == "it was started again 5 times within 60 s and stays away for 52 s"
