"""Forecasters: one protocol, sane quantiles, and the trained one ahead of the classical ones where it was trained for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loki_rl.control.demand.estimators import Floats
from loki_rl.control.demand.forecast import (
    FORECASTERS,
    QUANTILES,
    Forecaster,
    Tracker,
    outcome,
    pinball,
)
from loki_rl.control.demand.forecast_learned import load_net, make_forecaster, shipped_net
from loki_rl.control.formulation.request import RequestError

EVERY: dict[str, Forecaster] = {**FORECASTERS, "quantile": shipped_net()}


def steady(rps: float, rows: int = 8, seconds: int = 120) -> Floats:
    return np.random.default_rng(0).poisson(rps, (rows, seconds)).astype(np.float64)


@pytest.mark.parametrize("name", EVERY)
class TestEvery:
    def test_quantiles_rise_and_are_near_a_steady_rate(self, name: str) -> None:
        found = EVERY[name](steady(100.0), 15.0)
        assert found.quantiles.shape == (8, len(QUANTILES))
        assert (np.diff(found.quantiles, axis=1) >= 0).all()
        assert found.mean == pytest.approx(100.0, rel=0.25)
        assert found.quantiles[:, :4] == pytest.approx(115.0, rel=0.35)

    def test_a_short_history_is_enough(self, name: str) -> None:
        found = EVERY[name](np.array([[30.0, 31.0]]), 10.0)
        assert np.isfinite(found.quantiles).all()

    def test_no_demand_stays_finite(self, name: str) -> None:
        found = EVERY[name](np.zeros((1, 60)), 10.0)
        assert np.isfinite(found.quantiles).all()
        assert found.quantiles.max() < 10

    def test_rows_do_not_see_each_other(self, name: str) -> None:
        both = EVERY[name](np.concatenate((steady(50.0, 1), steady(500.0, 1))), 15.0)
        alone = EVERY[name](steady(50.0, 1), 15.0)
        assert both.quantiles[0] == pytest.approx(alone.quantiles[0])


def test_holt_sees_a_rise_coming() -> None:
    rising = np.arange(50.0, 110.0)[None, :]
    assert FORECASTERS["holt"](rising, 15.0).mean[0] > FORECASTERS["persistence"](rising, 15.0).mean[0]


def test_the_envelope_remembers_a_burst() -> None:
    burst = np.full((1, 60), 20.0)
    burst[0, 20:30] = 200.0
    assert FORECASTERS["envelope"](burst, 10.0).quantiles[0, 0] > 150
    assert FORECASTERS["ewma"](burst, 10.0).quantiles[0, 0] < 60


def test_seasons_repeat() -> None:
    wave = (100 + 50 * np.sin(2 * np.pi * np.arange(300) / 240))[None, :]
    ahead = 100 + 50 * np.sin(2 * np.pi * np.arange(300, 315) / 240)
    assert FORECASTERS["seasonal"](wave, 15.0).mean[0] == pytest.approx(ahead.mean(), rel=0.03)


def test_the_outcome_is_mean_and_busiest_three_seconds() -> None:
    assert outcome(np.array([1.0, 1.0, 4.0, 4.0, 4.0, 1.0])) == (2.5, 4.0)


def test_pinball_is_least_at_the_true_quantile() -> None:
    draws = np.random.default_rng(1).normal(100.0, 10.0, 20_000)
    levels = np.array([np.quantile(draws, q) for q in QUANTILES])
    at = pinball(np.tile(levels, (len(draws), 1)), draws).mean()
    off = pinball(np.tile(levels + 3.0, (len(draws), 1)), draws).mean()
    assert at < off


def test_the_tracker_settles_a_forecast_once_its_lead_is_over() -> None:
    tracker, forecaster = Tracker(), FORECASTERS["ewma"]
    history = steady(100.0, 1, 200)[0]
    tracker.made(100, 10.0, forecaster(history[None, :100], 10.0))
    tracker.observe(105, history[:105])
    early = tracker.error
    tracker.observe(112, history[:112])
    good = tracker.error
    assert early is None
    assert good is not None
    tracker.made(112, 10.0, forecaster(5 * history[None, :112], 10.0))
    tracker.observe(130, history[:130])
    assert tracker.error is not None
    assert tracker.error > 2 * good


def test_a_network_survives_its_file(tmp_path: Path) -> None:
    net = shipped_net()
    net.save(tmp_path / "net.npz")
    again = load_net(tmp_path / "net.npz")
    assert np.array_equal(again(steady(80.0), 12.0).quantiles, net(steady(80.0), 12.0).quantiles)
    assert again.note == net.note


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(RequestError, match="did you mean 'holt'"):
        make_forecaster("hollt")
