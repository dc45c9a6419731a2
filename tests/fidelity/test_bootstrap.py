"""Spans drawn anew: how often, in which company, and whether intervals hold what they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loki_rl.fidelity.bootstrap import LEVEL, block_draws, interval, resample


@given(length=st.integers(1, 80), block=st.integers(1, 120), seed=st.integers(0, 9))
def test_every_draw_is_as_long_as_the_run(length: int, block: int, seed: int) -> None:
    weights = block_draws(length, block, 50, np.random.default_rng(seed))
    assert weights.shape == (50, length)
    assert (weights.sum(axis=1) == length).all()


def test_ends_are_drawn_as_often_as_the_middle() -> None:
    weights = block_draws(30, 7, 20_000, np.random.default_rng(0))
    assert weights.mean(axis=0) == pytest.approx(1.0, abs=0.03)


def test_neighbours_come_together() -> None:
    weights = block_draws(60, 10, 5000, np.random.default_rng(0))
    beside, apart = (np.corrcoef(weights[:, 20], weights[:, place])[0, 1] for place in (21, 45))
    assert beside > 0.8
    assert apart < 0.1


def test_an_interval_holds_the_mean_of_a_series_with_memory_where_single_seconds_would_not() -> None:
    rng = np.random.default_rng(1)
    held = {1: 0, 25: 0}
    trials = 200
    for _ in range(trials):
        noise = rng.normal(size=620)
        series = np.convolve(noise, 0.8 ** np.arange(20), "valid")
        for block in held:
            draws = resample({"x": series[:, None]}, block_draws(len(series), block, 400, rng))["x"][:, 0] / len(series)
            found = interval(float(series.mean()), draws)
            held[block] += found.low <= 0 <= found.high
    assert held[1] / trials < LEVEL - 0.25
    assert held[25] / trials > LEVEL - 0.1


def test_draws_without_the_figure_are_left_out() -> None:
    found = interval(1.0, np.array([np.nan, 1.0, 2.0, np.nan]))
    assert 1.0 <= found.low < found.high <= 2.0
    assert np.isnan(interval(float("nan"), np.array([np.nan])).low)
