"""How likely demand exceeds a level: the compiled loops against the definitions, a matrix of levels and seconds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loki_rl.control.demand.belief import warm
from loki_rl.control.demand.estimators import PEAK_S, Floats, together
from loki_rl.control.demand.exceedance import (
    MEMORY_S,
    SETTLED_S,
    again,
    seen,
    stays,
)

LEVELS: Floats = np.geomspace(0.5, 2000, 512)
SAME = 1e-12

histories = st.lists(st.integers(0, 3000), max_size=MEMORY_S + 20).map(lambda counts: np.array(counts, np.float64))
rates = st.floats(0.5, 3000)
leads = st.floats(0, 60)


@pytest.fixture(scope="module", autouse=True)
def compiled_before_time_counts() -> None:
    warm()


# -- the definitions --------------------------------------------------------------------------------------------------------


def again_as_defined(demand: Floats, lead_s: float) -> Floats:
    above = demand[None, :] > LEVELS[:, None]
    below = np.maximum((~above).sum(axis=1), 1)
    crossings = np.diff(above, axis=1, prepend=False).sum(axis=1) / 2
    late = np.minimum(seen_as_defined(demand), np.ceil(crossings) / below * lead_s / 2)
    highest: Floats = np.maximum.accumulate(late[::-1])[::-1]
    return highest


def stays_as_defined(demand: Floats, now: float, lead_s: float, level: float) -> float:
    """Of this level, or of one between it and the lower end of what demand is now: none above that is left alone."""
    below = LEVELS[now > LEVELS] if now > LEVELS[0] else LEVELS[:1]
    between = [one for one in below if one >= level] or [below[-1]]
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


@given(histories, leads)
def test_what_comes_back_is_as_defined(demand: Floats, lead_s: float) -> None:
    assert again(LEVELS, demand, lead_s) == pytest.approx(again_as_defined(demand, lead_s), abs=SAME)
    assert seen(LEVELS, demand) == pytest.approx(seen_as_defined(demand), abs=SAME)


@given(histories, rates, st.floats(0.1, 60), st.integers(0, len(LEVELS) - 1))
@settings(deadline=None, max_examples=50)
def test_how_long_demand_stays_is_as_defined(demand: Floats, now: float, lead_s: float, place: int) -> None:
    found = stays(LEVELS, demand, now, lead_s)[place]
    assert found == pytest.approx(stays_as_defined(demand, now, lead_s, LEVELS[place]), abs=1e-3)


@given(st.lists(st.integers(0, 1000), max_size=10))
def test_peaks_are_those_of_seconds_together(counts: list[int]) -> None:
    expected = [sum(counts[i : i + PEAK_S]) / PEAK_S for i in range(len(counts) - PEAK_S + 1)]
    assert together(np.array(counts, np.float64), PEAK_S) == pytest.approx(
        np.array(expected if len(counts) >= PEAK_S else counts)
    )
