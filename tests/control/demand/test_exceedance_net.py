"""What a network makes of a belief: a curve in any case, and the belief itself where it has nothing to add."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loki_rl.control.demand.belief import Belief
from loki_rl.control.demand.estimators import Floats
from loki_rl.control.demand.exceedance_features import FEATURES, RARE, features, log_odds
from loki_rl.control.demand.exceedance_net import ExceedanceNet, load_exceedance, shipped_exceedance

BELIEF, LEAD_S = Belief(1800.0), 10.0


def made_up(scale: float, seed: int = 0) -> ExceedanceNet:
    """A network of random weights of this size."""
    rng, sizes = np.random.default_rng(seed), (FEATURES, 8, 1)
    weights = tuple(scale * rng.normal(size=shape) for shape in itertools.pairwise(sizes))
    biases = tuple(scale * rng.normal(size=size) for size in sizes[1:])
    return ExceedanceNet(weights, biases, np.zeros(FEATURES), np.ones(FEATURES), 1.0, "made up")


def corrected(net: ExceedanceNet, counts: Floats) -> tuple[Floats, Floats]:
    """The belief after these counts, and what the network makes of it."""
    coming = BELIEF.from_history(counts, LEAD_S)
    return coming.above, net(counts, BELIEF.levels, coming.above, coming.mean_rps, LEAD_S)


@given(
    counts=st.lists(st.integers(0, 3000), min_size=1, max_size=400),
    scale=st.sampled_from((0.0, 0.3, 3.0, 30.0)),
    seed=st.integers(0, 5),
)
@settings(max_examples=150, deadline=None)
def test_the_chance_falls_with_the_level_whatever_the_weights(counts: list[int], scale: float, seed: int) -> None:
    found = corrected(made_up(scale, seed), np.array(counts, np.float64))[1]
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.diff(found) <= 0).all()


@given(counts=st.lists(st.integers(0, 3000), min_size=1, max_size=400))
@settings(max_examples=50, deadline=None)
def test_rows_are_numbers_after_whatever_was_counted(counts: list[int]) -> None:
    history = np.array(counts, np.float64)
    coming = BELIEF.from_history(history, LEAD_S)
    rows = features(history, BELIEF.levels, coming.above, coming.mean_rps, LEAD_S)
    assert rows.shape == (len(BELIEF.levels), FEATURES)
    assert np.isfinite(rows).all()


def test_without_a_correction_it_is_the_belief() -> None:
    counts = np.random.default_rng(1).poisson([100] * 60 + [300] * 5 + [120] * 30).astype(np.float64)
    believed, found = corrected(made_up(0.0), counts)
    # Between the levels that are looked at the correction is interpolated, not the chance.
    assert found == pytest.approx(np.where(believed > 2 * RARE, believed, 0.0), abs=2 * RARE)


def test_levels_far_from_any_demand_are_left_alone() -> None:
    levels, above = np.array([1e6, 2e6]), np.array([0.5, 0.1])
    assert shipped_exceedance()(np.full(10, 3.0), levels, above, 3.0, LEAD_S) is above


def test_odds_are_even_at_a_half_and_bounded() -> None:
    assert log_odds(np.array([0.0, RARE, 0.5, 1.0])) == pytest.approx([-8.11, -8.11, 0.0, 8.11], abs=0.01)


def test_a_network_survives_its_file(tmp_path: Path) -> None:
    net, counts = shipped_exceedance(), np.random.default_rng(2).poisson(90, 120).astype(np.float64)
    net.save(tmp_path / "net.npz")
    again = load_exceedance(tmp_path / "net.npz")
    assert np.array_equal(corrected(again, counts)[1], corrected(net, counts)[1])
    assert (again.note, again.error) == (net.note, net.error)
