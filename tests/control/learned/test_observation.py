"""What an action makes of a belief, and what is seen of it."""

from __future__ import annotations

import numpy as np
import pytest

from loki_rl.control.demand.belief import Coming
from loki_rl.control.formulation.request import Slice
from loki_rl.control.learned.observation import (
    ACTIONS,
    EXOGENOUS,
    MULTIPLIERS,
    NO_ADJUSTMENT,
    ODDS,
    adjusted,
    exogenous,
    factors,
)

SLICES = ((80.0, 1.0), (110.0, 0.7), (140.0, 0.3), (140.0, 0.3), (300.0, 0.01))
COMING = Coming(100.0, tuple(Slice(*one) for one in SLICES), 90.0)


def test_no_adjustment_is_the_belief_as_it_is() -> None:
    assert factors(NO_ADJUSTMENT) == (1.0, 1.0)
    assert adjusted(COMING, NO_ADJUSTMENT).slices == COMING.slices


def test_room_is_what_exceeds_the_expected_demand() -> None:
    half = adjusted(COMING, int(np.flatnonzero(MULTIPLIERS == 0.5)[0]))
    assert [one.to_rps for one in half.slices] == [80.0, 105.0, 120.0, 120.0, 200.0]
    assert [one.chance for one in half.slices] == [one.chance for one in COMING.slices]


def test_odds_are_of_what_exceeds_the_expected_demand() -> None:
    action = NO_ADJUSTMENT + len(MULTIPLIERS) * int(np.flatnonzero(ODDS == 4.0)[0])
    likelier = adjusted(COMING, action)
    assert [one.to_rps for one in likelier.slices] == [one.to_rps for one in COMING.slices]
    chances = [one.chance for one in likelier.slices]
    assert chances[0] == 1.0
    assert chances[1] == pytest.approx(2.8 / 3.1)
    assert chances[4] == pytest.approx(0.04 / 1.03)


@pytest.mark.parametrize("action", range(ACTIONS))
def test_slices_rise_and_become_rarer_whatever_is_asked(action: int) -> None:
    found = adjusted(COMING, action)
    ends, chances = [one.to_rps for one in found.slices], [one.chance for one in found.slices]
    assert ends == sorted(ends)
    assert chances == sorted(chances, reverse=True)
    assert found.expected_rps == COMING.expected_rps


def test_features_are_free_of_scale() -> None:
    """Ten times the demand on ten times the cluster looks alike but for its noise."""
    counts, seen = np.tile([90.0, 110.0, 100.0], 40), []
    for scale in (10.0, 100.0):
        slices = tuple(Slice(scale * one.to_rps, one.chance) for one in COMING.slices)
        coming = Coming(scale * 100.0, slices, scale * 90.0)
        seen.append(exogenous([scale * counts], [coming], np.array([60.0]), scale * 100.0)[0])
    assert seen[0].shape == (EXOGENOUS,)
    assert seen[0] == pytest.approx(seen[1], abs=0.05)
