"""What is kept of hours and days of demand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loki_rl.control.demand.history import BINS, BORDERS, LONGEST_S, MINUTE_S, History
from loki_rl.control.demand.seasonality import HALF_LIFE_S

DAY_S = 86_400
RNG = np.random.default_rng(3)


def fit(counts: list[int] | np.ndarray, start_s: int = 0) -> History:
    found = History()
    found.extend([int(one) for one in counts], start_s)
    return found


def crowds(every_s: int, height: float, seconds: int, rate: float = 50.0) -> np.ndarray:
    rates = np.full(seconds, rate)
    for start in range(every_s, seconds, every_s):
        rates[start : start + 20] *= height
    return RNG.poisson(rates)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 400), min_size=1, max_size=500), st.data())
def test_what_comes_in_parts_is_as_good_as_the_whole(start_s: int, counts: list[int], data: st.DataObject) -> None:
    """To the last bit, wherever it is cut, and however often."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(counts)), max_size=4)))
    found = History()
    for begin, end in zip([0, *cuts], [*cuts, len(counts)], strict=True):
        found.extend(counts[begin:end], start_s + begin)
    assert found == fit(counts, start_s)


def test_hours_in_parts_make_the_same_calendar() -> None:
    counts = RNG.poisson(20, 5 * 3600)
    found = fit(counts[:7000])
    found.extend(counts[7000:].tolist(), 7000)
    assert found == fit(counts)


def test_jumps_are_counted_by_how_high_they_go() -> None:
    found = fit(crowds(300, 4.0, 6 * 3600))
    assert sum(found.jumps) == pytest.approx(71, abs=3)
    assert float(found.heights @ found.jumps) / sum(found.jumps) == pytest.approx(4.0 * 300 / 360, rel=0.15)
    assert sum(fit(RNG.poisson(50, 6 * 3600)).jumps) == 0


def test_a_blip_of_a_second_is_no_jump() -> None:
    counts = RNG.poisson(50, 3600)
    counts[600::600] = 95
    assert sum(fit(counts).jumps) == 0


def test_demand_stays_as_long_as_it_does() -> None:
    assert fit(RNG.poisson(100, 3600)).stay_s > 200
    assert 10 < fit(crowds(60, 3.0, 3600)).stay_s < 50
    assert History().stay_s == 0


def test_a_gap_is_no_jump_and_loses_nothing_else() -> None:
    found = fit(RNG.poisson(10, 600))
    found.extend(RNG.poisson(500, 600).tolist(), 5000)
    assert sum(found.jumps) == 0
    assert found.seconds == pytest.approx(1200 - 2 * MINUTE_S, abs=MINUTE_S)


def test_old_habits_fade() -> None:
    """Half of what is 60 days old is left."""
    found = fit(crowds(300, 4.0, 2 * 3600))
    jumps, seconds = sum(found.jumps), found.seconds
    for day in range(60):
        found.extend(np.full(DAY_S // 24, 50).tolist(), 10**6 + day * DAY_S)  # an hour a day: so much was seen
    seen_s = 60 * DAY_S // 24
    assert sum(found.jumps) == pytest.approx(jumps * 0.5 ** (seen_s / HALF_LIFE_S), rel=0.01)
    assert found.seconds == pytest.approx(seconds + seen_s, rel=0.05)


@given(st.lists(st.integers(0, 10**9), max_size=400), st.integers(-(10**6), 10**9))
@settings(max_examples=60, deadline=None)
def test_whatever_comes_it_stays_small_and_legal(counts: list[int], start_s: int) -> None:
    found = fit(counts, start_s)
    found.__post_init__()
    assert len(found.recent) <= LONGEST_S
    assert found.pending < MINUTE_S
    assert 0 <= found.stay_s <= LONGEST_S
    assert len(found.jumps) == BINS == len(BORDERS) - 1
