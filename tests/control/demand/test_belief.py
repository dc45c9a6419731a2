"""What demand may come, by what has come."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loki_rl.control.demand.belief import CUTS, Belief, Coming, slices
from loki_rl.control.demand.estimators import FLOOR_RPS
from loki_rl.control.demand.history import History
from loki_rl.control.demand.memory import Memory

MOST_RPS, LEAD_S = 1800.0, 10.0
BELIEF = Belief(MOST_RPS)
RNG = np.random.default_rng(2)


def after(*stretches: tuple[float, int], caution: float = 1.0) -> Coming:
    counts = np.concatenate([RNG.poisson(rate, seconds) for rate, seconds in stretches]).astype(np.float64)
    return BELIEF.from_history(counts, LEAD_S, caution)


def chance_above(coming: Coming, rps: float) -> float:
    """Of the slice in which this demand lies."""
    return next((one.chance for one in coming.slices if one.to_rps > rps), 0.0)


def test_calm_is_believed_more_the_longer_it_lasts() -> None:
    chances = [chance_above(after((100, seconds)), 300) for seconds in (5, 30, 120, 300)]
    assert chances == sorted(chances, reverse=True)
    assert chances[0] > 5 * chances[-1]


def test_caution_decides_about_crowds_never_seen() -> None:
    none, usual, more = (chance_above(after((100, 120), caution=caution), 300) for caution in (0.0, 1.0, 10.0))
    assert none == 0
    assert usual < more


def test_what_jumped_may_jump_again() -> None:
    bursts = [(100, 30), (500, 8)] * 3
    calm, seen = after((100, 144)), after(*bursts, (100, 30))
    assert chance_above(seen, 400) > 10 * chance_above(calm, 400)
    assert chance_above(after((100, 30), (160, 8), (100, 30), (160, 8), (100, 30)), 400) < 0.02


def test_the_first_second_of_a_crowd_may_be_part_of_a_larger_one() -> None:
    first, later = after((100, 60), (300, 1)), after((100, 60), (300, 8))
    assert chance_above(first, 500) > 0.2
    assert chance_above(later, 500) < 0.05
    assert first.expected_rps == pytest.approx(300, rel=0.15)


def test_a_rise_is_thought_to_go_on() -> None:
    counts = np.append(np.full(60, 100.0), 100.0 + 40.0 * np.arange(1, 7))
    assert chance_above(BELIEF.from_history(counts, LEAD_S), 400) > 0.05


def test_a_level_that_never_lasts_is_not_thought_to_last_now() -> None:
    short, lasting = after(*[(100, 20), (500, 2)] * 6), after((100, 120), (500, 2))
    assert chance_above(short, 250) < 0.9 < chance_above(lasting, 250)


def test_a_quiet_first_second_does_not_unsay_what_was_expected() -> None:
    expected = np.append(np.full(9, 130.0), 0.0)
    assert chance_above(BELIEF.from_history(expected, LEAD_S, seen_s=1), 120) > 0.5
    assert chance_above(BELIEF.from_history(np.zeros(1), LEAD_S), 120) < 0.1
    # Nothing is thought calm that was only expected.
    calm, unseen = (chance_above(BELIEF.from_history(np.full(60, 130.0), LEAD_S, seen_s=n), 400) for n in (60, 1))
    assert unseen > 5 * calm


def test_idle_after_bursts_expects_nothing_and_is_ready_for_much() -> None:
    found = after((0, 20), (800, 5), (0, 40), (900, 5), (0, 30))
    assert found.expected_rps == FLOOR_RPS
    assert found.mean_rps > 50
    assert chance_above(found, 700) > 0.02


def test_a_known_future_is_its_own_distribution() -> None:
    found = BELIEF.from_future([100] * 12 + [600] * 3, 200.0)
    assert (found.expected_rps, found.mean_rps) == (200.0, 200.0)
    assert chance_above(found, 500) == pytest.approx(0.2, abs=0.02)
    assert chance_above(found, 700) == 0


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=90), st.floats(0.5, 60.0), st.floats(0.0, 20.0))
def test_slices_rise_and_their_chances_fall(counts: list[int], lead_s: float, caution: float) -> None:
    found = BELIEF.from_history(np.array(counts, np.float64), lead_s, caution)
    ends, chances = [one.to_rps for one in found.slices], [one.chance for one in found.slices]
    assert len(ends) == len(CUTS)
    assert ends == sorted(ends)
    assert chances == sorted(chances, reverse=True)
    assert 0 <= min(chances) <= max(chances) <= 1
    assert FLOOR_RPS <= found.expected_rps <= MOST_RPS
    assert found.mean_rps >= FLOOR_RPS


def test_slices_cover_what_is_likely_and_no_more() -> None:
    levels = np.array([1.0, 10.0, 100.0, 1000.0])
    assert slices(levels, np.array([1.0, 0.5, 0.1, 0.0]))[-1].to_rps == 100.0
    assert slices(levels, np.zeros(4))[0].to_rps == 1.0


def calm(seconds: int) -> History:
    found = History()
    found.extend(RNG.poisson(100, seconds).tolist(), 0)
    return found


def crowds(height: float, seconds: int) -> History:
    """Every ten minutes one of 20 s."""
    rates = np.where(np.arange(seconds) % 600 < 20, 100 * height, 100.0)
    found = History()
    found.extend(RNG.poisson(rates).tolist(), 0)
    return found


def believing(history: History, counts: np.ndarray, caution: float = 1.0) -> Coming:
    past = Memory(history).past(len(counts), float(history.until_s), LEAD_S)
    return BELIEF.from_history(counts.astype(np.float64), LEAD_S, caution, past=past)


def test_calm_days_lower_room_and_crowds_raise_it() -> None:
    now = RNG.poisson(100, 60)
    without = chance_above(BELIEF.from_history(now.astype(np.float64), LEAD_S), 250)
    calmly, wildly = believing(calm(20_000), now), believing(crowds(4.0, 20_000), now)
    assert chance_above(calmly, 250) < without / 3
    assert chance_above(wildly, 250) > 3 * without
    assert chance_above(wildly, 600) < 0.005
    assert chance_above(believing(crowds(4.0, 20_000), now, 0.0), 250) > 3 * without


def test_heights_go_with_what_demand_is_now() -> None:
    history = crowds(4.0, 20_000)
    assert chance_above(believing(history, RNG.poisson(20, 300)), 120) < 0.005
    assert chance_above(believing(history, RNG.poisson(300, 300)), 800) > 0.01


def test_calm_days_do_not_unsay_what_is_seen_now() -> None:
    now = np.concatenate([RNG.poisson(rate, seconds) for rate, seconds in 3 * [(100, 30), (500, 8)] + [(100, 30)]])
    without = BELIEF.from_history(now.astype(np.float64), LEAD_S, caution=0.0)
    remembered = believing(calm(20_000), now, caution=0.0)
    for level in (150, 300, 400, 480):
        assert chance_above(remembered, level) >= 0.9 * chance_above(without, level)
    assert remembered.expected_rps == pytest.approx(without.expected_rps, rel=0.01)


@given(st.lists(st.integers(0, 800), min_size=1, max_size=90), st.integers(0, 3600), st.floats(1.0, 30.0))
@settings(max_examples=60, deadline=None)
def test_with_any_history_slices_rise_and_their_chances_fall(counts: list[int], after_s: int, lead_s: float) -> None:
    past = HOURLY.past(len(counts), HOURLY.history.until_s + float(after_s), lead_s)
    found = BELIEF.from_history(np.array(counts, np.float64), lead_s, 1.0, past=past)
    ends, chances = [one.to_rps for one in found.slices], [one.chance for one in found.slices]
    assert ends == sorted(ends)
    assert chances == sorted(chances, reverse=True)
    assert FLOOR_RPS <= found.expected_rps <= MOST_RPS


def hourly() -> History:
    """Three times as much in the first two minutes of each hour."""
    found = History()
    found.extend(RNG.poisson(np.where(np.arange(8 * 3600) % 3600 < 120, 300.0, 100.0)).tolist(), 0)
    return found


HOURLY = Memory(hourly())


def by_clock(seconds_past_the_hour: float, rate: float) -> Coming:
    counts = RNG.poisson(rate, 60)
    past = HOURLY.past(len(counts), HOURLY.history.until_s + seconds_past_the_hour, LEAD_S)
    return BELIEF.from_history(counts.astype(np.float64), LEAD_S, 1.0, past=past)


def test_what_comes_with_the_full_hour_is_known_before() -> None:
    calm, soon, sooner = (by_clock(seconds, 100) for seconds in (-600, -8, -3))
    assert chance_above(calm, 250) < 0.02
    assert 0.1 < chance_above(soon, 250) < chance_above(sooner, 250)
    assert calm.expected_rps == pytest.approx(100, rel=0.05)
    assert 120 < soon.expected_rps < sooner.expected_rps


def test_before_demand_falls_there_is_as_much_room_as_it_needs_now() -> None:
    later = by_clock(117, 300)
    assert chance_above(later, 250) > 0.95
    assert later.expected_rps < 250


def test_where_the_full_hour_brings_nothing_it_is_not_waited_for() -> None:
    """After some seconds demand is what is counted."""
    counts = RNG.poisson(100, 60)
    past = HOURLY.past(len(counts), HOURLY.history.until_s + 8.0, LEAD_S)
    found = BELIEF.from_history(counts.astype(np.float64), LEAD_S, 1.0, past=past)
    assert found.expected_rps == pytest.approx(100, rel=0.12)
    assert chance_above(found, 250) < 0.1
