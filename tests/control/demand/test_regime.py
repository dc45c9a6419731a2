"""What counts per second say about the regime that demand is in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loki_rl.control.demand.estimators import FLOOR_RPS
from loki_rl.control.demand.regime import LONGEST_S, dispersion, jumps, regime, stayed_s

RNG = np.random.default_rng(1)


def poisson(*stretches: tuple[float, int]) -> np.ndarray:
    return np.concatenate([RNG.poisson(rate, seconds) for rate, seconds in stretches]).astype(np.float64)


def test_constant_demand_is_one_regime_known_ever_better() -> None:
    counts = poisson((100, 120))
    found = [regime(counts[:seconds]) for seconds in (1, 8, 120)]
    assert [one.held_s for one in found] == [1, 8, LONGEST_S]
    assert found[0].deviation_rps > found[1].deviation_rps > found[2].deviation_rps
    assert found[2].level_rps == pytest.approx(100, rel=0.06)
    assert found[2].dispersion < 1.6


def test_a_jump_is_a_new_level_from_its_second_second_on() -> None:
    counts = poisson((100, 60), (400, 2))
    first, second = regime(counts[:-1]), regime(counts)
    assert (first.held_s, second.held_s) == (1, 2)
    assert first.changed > 0.99
    assert first.rose_from == pytest.approx(100, rel=0.15)
    assert second.level_rps == pytest.approx(400, rel=0.1)
    assert second.changed == 0


def test_a_second_that_stands_out_a_little_is_hardly_believed() -> None:
    counts = np.append(np.tile([97.0, 103.0], 40), [80.0, 140.0])  # far from the one before, not from what was before that
    assert regime(counts).held_s == 1
    assert 0 < regime(counts).changed < 0.6
    assert regime(np.append(counts[:-1], 115.0)).held_s > 8


def test_noise_beyond_poisson_makes_no_regimes() -> None:
    counts = RNG.negative_binomial(10, 10 / 110, 200).astype(np.float64)  # mean 100, eleven times Poisson's variance
    held = [regime(counts[:second]).held_s for second in range(100, 200)]
    assert np.mean(held) > 8
    assert dispersion(counts) > 4


def test_a_change_of_level_is_no_noise() -> None:
    assert dispersion(poisson((100, 30), (500, 30))) < 2


def test_jumps_are_where_demand_rose_by_half_and_more() -> None:
    counts = poisson((100, 50), (400, 20), (100, 50), (420, 20), (105, 20))
    assert len(jumps(counts, 1.0)) == 2
    assert jumps(counts, 1.0).min() > 330
    assert not len(jumps(poisson((100, 200)), 1.0))


def test_demand_has_stayed_since_it_last_was_elsewhere() -> None:
    assert stayed_s(poisson((100, 80))) > 70
    assert 20 <= stayed_s(poisson((300, 50), (100, 24))) <= 24
    assert stayed_s(np.zeros(0)) == 0


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=80))
def test_every_history_has_a_regime(counts: list[int]) -> None:
    found = regime(np.array(counts, np.float64))
    assert found.level_rps >= FLOOR_RPS
    assert 1 <= found.held_s <= min(LONGEST_S, len(counts))
    assert found.dispersion >= 1
    assert 0 <= found.changed <= 1
    assert np.isfinite(found.deviation_rps)
