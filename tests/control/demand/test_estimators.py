"""Estimates of demand from counts per second."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loki_rl.control.demand.estimators import ahead, envelope, ewma


@given(st.lists(st.integers(0, 1000), max_size=40), st.floats(0, 20))
def test_no_estimate_is_negative_or_fails(counts: list[int], lead_s: float) -> None:
    estimates = ewma(counts), envelope(counts), ahead(counts, lead_s)
    assert all(estimate >= 0 for estimate in estimates)


def test_a_line_is_continued_and_a_plateau_is_not() -> None:
    assert ahead([10 * second for second in range(20)], 5.0) == pytest.approx(245, rel=0.05)
    assert ahead([100] * 20, 30.0) == 100


def test_noise_makes_little_trend() -> None:
    rng = np.random.default_rng(5)
    found = [ahead(rng.poisson(100, 20).tolist(), 7.0) for _ in range(500)]
    assert abs(np.mean(found) - 100) < 2
    assert np.std(found) < 20


def test_a_ramp_is_seen_within_five_seconds() -> None:
    counts = [100] * 20 + [112, 125, 137, 150, 162]
    assert ahead(counts, 5.0) > 200
