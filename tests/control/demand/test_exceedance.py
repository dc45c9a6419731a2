"""How likely demand exceeds a level: the compiled loops against the definitions, a matrix of levels and seconds."""

from __future__ import annotations

from math import erf, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loki_rl.control.allocator.switching import VIOLATION
from loki_rl.control.demand.capacity_target import average, least, warm
from loki_rl.control.demand.estimators import NOISE_S, PEAK_S, Floats, deviation, together
from loki_rl.control.demand.exceedance import (
    CALM_S,
    HIGHEST,
    JUMPS,
    MEMORY_S,
    SETTLED_S,
    again,
    beyond,
    chances,
    seen,
    stays,
)
from loki_rl.control.demand.forecast import QUANTILES, TARGET

LEVELS: Floats = np.geomspace(0.5, 2000, 512)
SAME = 1e-12

histories = st.lists(st.integers(0, 3000), max_size=MEMORY_S + 20).map(lambda counts: np.array(counts, np.float64))
rates = st.floats(0.5, 3000)
leads = st.floats(0, 60)


@pytest.fixture(scope="module", autouse=True)
def compiled_before_time_counts() -> None:
    warm()


# -- the definitions --------------------------------------------------------------------------------------------------------


def chances_as_defined(counts: Floats, expected: float, lead_s: float) -> Floats:
    recent = counts[-MEMORY_S:]
    steps = np.diff(recent[-NOISE_S:]) ** 2 / 2
    sigma = sqrt(2 * max(expected, steps.mean() if len(steps) else 0.0))
    noise = np.array([0.5 - 0.5 * erf((level - expected) / sigma) for level in LEVELS])
    rate = JUMPS / (CALM_S + len(recent))
    jump = np.where(HIGHEST * expected >= LEVELS, rate * lead_s * expected / LEVELS, 0.0)
    peaks = np.convolve(recent, np.full(PEAK_S, 1 / PEAK_S), "valid") if len(recent) >= PEAK_S else recent
    total = np.where(expected >= LEVELS, 1.0, noise + again_as_defined(peaks, lead_s) + jump)
    return np.minimum(total, 1.0)


def again_as_defined(demand: Floats, lead_s: float) -> Floats:
    above = demand[None, :] > LEVELS[:, None]
    below = np.maximum((~above).sum(axis=1), 1)
    crossings = np.diff(above, axis=1, prepend=False).sum(axis=1) / 2
    late = np.minimum(seen_as_defined(demand), np.ceil(crossings) / below * lead_s / 2)
    highest: Floats = np.maximum.accumulate(late[::-1])[::-1]
    return highest


def stays_as_defined(demand: Floats, now: float, lead_s: float, level: float) -> float:
    """Of this level, or of one between it and where demand is now."""
    between = [level, *LEVELS[(level < LEVELS) & (now >= LEVELS)]]
    return max(passes_as_defined(demand, lead_s, one) for one in between)


def passes_as_defined(demand: Floats, lead_s: float, level: float) -> float:
    """By the differential equation of the chain, in small steps."""
    above = demand > level
    came, left = (int((np.diff(above.astype(int), prepend=0) == step).sum()) for step in (1, -1))
    if not left:
        return 1.0
    up, down = came / ((~above).sum() + SETTLED_S), left / (above.sum() + SETTLED_S)
    times = np.linspace(0.0, lead_s, 1001)
    chance = up / (up + down) + down / (up + down) * np.exp(-(up + down) * times)
    return float(np.trapezoid(chance, times) / lead_s)


def seen_as_defined(demand: Floats) -> Floats:
    above: Floats = (demand[None, :] > LEVELS[:, None]).sum(axis=1) / max(len(demand), 1)
    return above


# -- the loops --------------------------------------------------------------------------------------------------------------


@given(histories, rates, leads)
def test_chances_are_as_defined(counts: Floats, expected: float, lead_s: float) -> None:
    found = chances(LEVELS, counts, expected, lead_s)
    assert found == pytest.approx(chances_as_defined(counts, expected, lead_s), abs=SAME)


@given(histories, leads)
def test_what_comes_back_is_as_defined(demand: Floats, lead_s: float) -> None:
    assert again(LEVELS, demand, lead_s) == pytest.approx(again_as_defined(demand, lead_s), abs=SAME)
    assert seen(LEVELS, demand) == pytest.approx(seen_as_defined(demand), abs=SAME)


@given(histories, rates, st.floats(0.1, 60), st.integers(0, len(LEVELS) - 1))
@settings(deadline=None, max_examples=50)
def test_how_long_demand_stays_is_as_defined(demand: Floats, now: float, lead_s: float, place: int) -> None:
    found = stays(LEVELS, demand, now, lead_s)[place]
    assert found == pytest.approx(stays_as_defined(demand, now, lead_s, LEVELS[place]), abs=1e-3)


@given(histories, rates, leads)
def test_chances_are_chances_and_fall_with_the_level(counts: Floats, expected: float, lead_s: float) -> None:
    found = chances(LEVELS, counts, expected, lead_s)
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.diff(found) <= 1e-9).all()


@given(rates, st.lists(st.floats(1.0, 3000), min_size=len(QUANTILES), max_size=len(QUANTILES), unique=True).map(sorted))
def test_a_forecast_says_what_its_quantiles_say_and_little_beyond(mean_rps: float, rising: list[float]) -> None:
    quantiles = np.array(rising)
    found = beyond(quantiles, mean_rps, quantiles)
    assert found == pytest.approx(1 - np.array(QUANTILES), abs=SAME)
    # From the target to the last of them it falls to a fifth; so it goes on.
    further = quantiles[-1] + max(quantiles[-1] - quantiles[TARGET], 0.5)
    assert beyond(np.array([further]), mean_rps, quantiles)[0] == pytest.approx(0.02 / 5)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=60), st.floats(0.5, 1000))
def test_noise_is_never_below_poissons(counts: list[int], level: float) -> None:
    assert deviation(np.array(counts, np.float64), level) ** 2 >= level - 1e-9


@given(st.lists(st.integers(0, 1000), max_size=10))
def test_peaks_are_those_of_seconds_together(counts: list[int]) -> None:
    expected = [sum(counts[i : i + PEAK_S]) / PEAK_S for i in range(len(counts) - PEAK_S + 1)]
    assert together(np.array(counts, np.float64), PEAK_S) == pytest.approx(
        np.array(expected if len(counts) >= PEAK_S else counts)
    )


# -- what costs least -------------------------------------------------------------------------------------------------------


@given(histories, rates, st.floats(0.01, 2.0))
def test_the_level_of_least_cost_is_as_defined(counts: Floats, mean_rps: float, dear: float) -> None:
    above, prices = chances(LEVELS, counts, mean_rps, 15.0), dear * LEVELS / LEVELS[-1]
    between = (above[1:] + above[:-1]) / 2 * np.diff(LEVELS)
    costs = VIOLATION * np.append(np.cumsum(between[::-1])[::-1], 0.0) / mean_rps + prices
    assert costs[least(LEVELS, prices, above, mean_rps)] == pytest.approx(costs.min(), abs=SAME)


@given(histories, rates, rates)
def test_the_mean_chance_between_levels_is_as_defined(counts: Floats, one: float, other: float) -> None:
    above = chances(LEVELS, counts, min(one, other), 15.0)
    asked = np.linspace(min(one, other), max(one, other), 8)
    assert average(LEVELS, above, asked[0], asked[-1]) == pytest.approx(np.interp(asked, LEVELS, above).mean(), abs=SAME)
