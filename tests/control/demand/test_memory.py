"""A history that goes on with what is counted."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from loki_rl.control.demand.history import History
from loki_rl.control.demand.memory import Memory
from loki_rl.core.servers.history import HISTORY_S

RNG = np.random.default_rng(5)


def fit(counts: list[int], start_s: int) -> History:
    found = History()
    found.extend(counts, start_s)
    return found


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=40), st.integers(0, 10**6))
def test_every_second_counts_once(steps: list[int], start_s: int) -> None:
    """However often it is shown, and over any restart from what was written down."""
    counts = RNG.poisson(30, sum(steps)).tolist()
    memory, seen = Memory(History()), 0
    for number, step in enumerate(steps):
        seen += step
        memory.see(tuple(counts[max(0, seen - HISTORY_S) : seen]), start_s + seen + 0.3)
        memory.see(tuple(counts[max(0, seen - HISTORY_S) : seen]), start_s + seen + 0.3)
        if number % 3 == 2:
            memory = Memory(memory.history)
    assert memory.history == fit(counts, start_s)


def test_another_run_is_another_run() -> None:
    """The trace that a history was made of may be played again, from its first second on."""
    counts = RNG.poisson(30, 1000).tolist()
    memory = Memory(fit(counts, 0))
    memory.see(tuple(counts[:100]), 100.0)
    again = fit(counts, 0)
    again.extend(counts[:100], 0)
    assert memory.history == again


def test_what_is_fresh_is_not_in_the_figures() -> None:
    memory = Memory(fit(RNG.poisson(30, 1234).tolist(), 0))
    past = memory.past(300, 1234.0, 10.0)
    assert past.fresh == 1234 % 60
    assert past.seconds == memory.history.seconds
    assert (past.lifted == 1).all()
    assert (past.ahead == 1).all()
    assert len(past.lifted) == 300


def test_the_clock_lifts_what_was_and_what_comes() -> None:
    rates = np.full(8 * 3600, 50.0)
    for hour in range(8):
        rates[3600 * hour : 3600 * hour + 120] = 150
    memory = Memory(fit(RNG.poisson(rates).tolist(), 0))
    before = memory.past(60, 8 * 3600 - 4.0, 10.0)
    assert before.lifted.max() < 1.1
    assert before.ahead[:4].max() < 1.1
    assert before.ahead[4:].min() > 2.6
    after = memory.past(60, 8 * 3600 + 4.0, 10.0)
    assert after.lifted[:56].min() > 2.6
    assert after.lifted[56:].max() < 1.1
