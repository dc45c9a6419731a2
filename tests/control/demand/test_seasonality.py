"""Habits of the clock are found where they are, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from loki_rl.control.demand.history import History
from loki_rl.control.demand.seasonality import CYCLES, PERIODS, SELDOM, Habit, count_minute, season

RNG = np.random.default_rng(4)


def habit_of(rates: np.ndarray) -> Habit:
    """Of a cycle, from one row a period."""
    found = Habit.none(rates.shape[1])
    for slot, rate in enumerate(rates.ravel()):
        found.count(slot, float(rate), 1.0)
    return found


@pytest.mark.parametrize("memory", [0.0, 0.9, 1.0])
def test_noise_is_hardly_ever_taken_for_a_habit(memory: float) -> None:
    """Once in a thousand at most, also where every minute is like the one before, as in a random walk. Of 1,000 seeds more
    than 5 would be too many by far."""
    found = 0
    for seed in range(1000):
        noise = np.random.default_rng(seed).normal(size=(8, 60))
        for minute in range(1, 60):
            noise[:, minute] += memory * noise[:, minute - 1]
        found += habit_of(np.exp(0.3 * noise / max(1.0, noise.std()))).factors() is not None
    assert found <= 5 * SELDOM * 1000


def test_a_planted_habit_is_found_as_it_is() -> None:
    rates = RNG.normal(100, 3, (8, 60))
    rates[:, :2] *= 3
    found = habit_of(rates).factors()
    assert found is not None
    assert found[:2] / found[2:].mean() == pytest.approx([3, 3], rel=0.05)
    assert found[2:].std() < 0.02


def test_a_few_periods_show_nothing() -> None:
    rates = np.tile(np.where(np.arange(24) < 12, 1.0, 3.0), (3, 1)) + RNG.normal(0, 0.01, (3, 24))
    assert habit_of(rates).factors() is None
    assert PERIODS > 3


def test_a_single_crowd_is_no_habit() -> None:
    rates = RNG.normal(100, 3, (20, 60))
    rates[7, 30:40] *= 10
    assert habit_of(rates).factors() is None


def test_a_period_counts_where_most_of_it_was_seen() -> None:
    found = Habit.none(4)
    for slot in (0, 1, 2, 3, 5, 6, 7, 8, 12, 13):  # whole, without its first slot, a quarter, half
        found.count(slot, 1.0, 1.0)
    found.count(40, 1.0, 1.0)
    assert found.weights == [1, 2, 2, 2]


def test_hours_make_days_and_days_make_weeks() -> None:
    habits = History().habits
    for minute in range(6 * 7 * 24 * 60):
        hour, day = minute // 60 % 24, minute // 1440 % 7
        rate = 100 * (1 + (9 <= hour < 17)) * (0.3 if day > 4 else 1.0) * (1 + 0.01 * np.sin(minute * 1.7))
        count_minute(habits, minute, rate)
    minutes, hours, days = (habit.factors() for habit in habits)
    assert minutes is None
    assert hours is not None
    assert hours[12] / hours[3] == pytest.approx(2, rel=0.02)
    assert days is not None
    assert days[6] / days[2] == pytest.approx(0.3, rel=0.02)
    noon = 12 * 3600.0
    by_day = season([None, hours, days], noon + 86_400 * np.array([2.0, 6.0, 9.0]))
    assert by_day[1] / by_day[0] == pytest.approx(0.3, rel=0.02)
    assert by_day[2] == pytest.approx(by_day[0])


def test_between_hours_demand_goes_over() -> None:
    hours = np.where(np.arange(24) < 12, 1.0, 2.0)
    found = season([None, hours, None], np.array([11.5, 12.0, 12.5]) * 3600)
    assert found.tolist() == [1.0, 1.5, 2.0]
    minutes = np.where(np.arange(60) < 2, 3.0, 1.0)
    assert season([minutes, None, None], np.array([3599.5, 3600.5, 3719.5, 3720.5])).tolist() == [1.0, 3.0, 3.0, 1.0]
    assert [cycle.slots * cycle.slot_s for cycle in CYCLES] == [3600, 86_400, 7 * 86_400]
