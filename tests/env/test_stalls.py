"""Delays of messages to one actor: as measured in all, and together where its process stood still."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from loki_rl.env.stalls import USUAL, Stalls
from loki_rl.files.calibration_file import LEVELS

Floats = NDArray[np.float64]


def drawn(quantiles: Floats, times: Floats, seed: int) -> Floats:
    stalls = Stalls(tuple(quantiles.tolist()), np.random.default_rng(seed))
    return np.array([stalls.delay(time) for time in times.tolist()])


def standing_still(seed: int) -> tuple[Floats, Floats]:
    """When messages are sent to a process that stands still now and then, and how late they are read."""
    rng = np.random.default_rng(seed)
    times = np.sort(rng.uniform(0.0, 1000.0, 200_000))
    starts = np.cumsum(rng.exponential(0.5, 3000))
    ends = np.maximum.accumulate(starts + rng.lognormal(np.log(0.008), 1.0, len(starts)))
    before = np.searchsorted(starts, times) - 1
    stalled = np.where(before >= 0, ends[before] - times, 0.0)
    return times, np.maximum(stalled, rng.lognormal(np.log(0.0003), 0.5, len(times)))


@pytest.mark.parametrize("seed", range(3))
def test_delays_are_as_measured_and_slow_ones_come_together(seed: int) -> None:
    times, measured = standing_still(seed)
    quantiles = np.quantile(measured, LEVELS)
    found = drawn(quantiles, times, seed + 1)
    assert found.mean() == pytest.approx(measured.mean(), rel=0.2)
    for level in (0.5, 0.9, 0.95, 0.99, 0.998):
        assert np.quantile(found, level) == pytest.approx(np.quantile(measured, level), rel=0.25)
    slow = [delays > np.quantile(measured, USUAL) for delays in (found, measured)]
    together = [mine[1:][mine[:-1]].mean() for mine in slow]
    assert together[0] == pytest.approx(together[1], abs=0.06)


def test_in_order_they_are_hardly_later() -> None:
    times, measured = standing_still(5)
    found = drawn(np.quantile(measured, LEVELS), times, 6)
    in_order = np.maximum.accumulate(times + found) - times
    assert in_order.mean() < 1.1 * found.mean()


def test_delays_that_are_all_alike_stay_so() -> None:
    assert (drawn(np.full(len(LEVELS), 0.002), np.arange(1000.0), 1) == 0.002).all()
    assert not drawn(np.zeros(len(LEVELS)), np.arange(1000.0), 1).any()
