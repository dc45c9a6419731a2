"""What actions would have cost: each label is what a replay of the whole window says."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from loki_rl.agents.evaluate.counterfactuals import Examples, Judging, best_split, judged, sums_of, worth_of
from loki_rl.agents.evaluate.rollouts import base
from loki_rl.control.learned.observation import ACTIONS, NO_ADJUSTMENT
from loki_rl.env.fluid.batch import Batch, Pool
from loki_rl.env.gym.cluster_options import ClusterEnvOptions, pool_for
from tests.agents.made_up import drawn, nothing, planted

JUDGING = Judging(hold=3, ahead=8, tried=2, lost_j=2.0)


@pytest.fixture(scope="module")
def pool() -> Pool:
    return pool_for(ClusterEnvOptions(pipeline="one-task", intervals=20, windows=6))


@pytest.fixture(scope="module")
def examples(pool: Pool) -> Examples:
    return judged(pool, base, JUDGING, 8, 3)


def test_no_adjustment_saves_nothing_and_only_what_was_played_is_known(examples: Examples) -> None:
    assert len(examples.window) >= 8
    assert (examples.saved[:, NO_ADJUSTMENT] == 0).all()
    known = ~np.isnan(examples.saved)
    assert (known.sum(axis=1) <= JUDGING.tried + 1).all()
    assert (known.sum(axis=1) >= 2).any()
    assert not (known & ~examples.legal).any()


def test_what_an_action_saves_is_what_replaying_its_window_says(pool: Pool, examples: Examples) -> None:
    """Of first states, which the base alone has led to."""
    checked = 0
    for observation, saved, window in zip(examples.observations, examples.saved, examples.window, strict=True):
        for action in np.flatnonzero(~np.isnan(saved)).tolist():
            found = _replayed(pool, int(window), observation, action)
            if found is not None and action != NO_ADJUSTMENT:
                assert saved[action] == pytest.approx(found, abs=1e-4)
                checked += 1
    assert checked >= 8


def _replayed(pool: Pool, window: int, observation: NDArray[np.float32], action: int) -> float | None:
    """What the action saves from the first decision at which the base sees this observation."""
    costs = []
    for tried in (NO_ADJUSTMENT, action):
        batch = Batch(pool, 1)
        batch.start(np.array([0]), np.array([window]))
        while not np.allclose(batch.observations[0], observation, atol=1e-6):
            if batch.k[0] > pool.options.intervals - JUDGING.ahead:
                return None
            batch.step(base(batch.observations, batch.masks))
        total = 0.0
        for step in range(JUDGING.ahead):
            legal = tried if batch.masks[0, tried] else NO_ADJUSTMENT
            batch.step(np.array([legal]) if step < JUDGING.hold else base(batch.observations, batch.masks))
            total += batch.costs[0] + JUDGING.lost_j * batch.lost[0]
        costs.append(total)
    return costs[0] - costs[1]


def test_the_best_threshold_is_found_among_all_features_and_actions() -> None:
    observations, saved = drawn(2000), nothing(2000)
    low, high = (place for place in range(ACTIONS) if place != NO_ADJUSTMENT and place in (0, ACTIONS - 1))
    saved[:, low] = np.where(observations[:, 4] <= 0.3, 1.0, -2.0)
    saved[:, high] = np.where(observations[:, 4] <= 0.3, -2.0, 1.0)
    feature, threshold, below, above = best_split(planted(saved, observations, 0.5))
    assert (feature, below, above) == (4, low, high)
    assert threshold == pytest.approx(0.3, abs=0.02)


def best_constant(examples: Examples) -> int:
    """The action that saves most on all of these states."""
    return int(worth_of(*(one[-1:] for one in sums_of(examples)))[0].argmax())


def test_the_best_constant_counts_where_it_is_legal_and_not_where_it_was_lucky() -> None:
    saved = nothing(400)
    saved[:, 0], saved[:, 1] = 0.1, 0.2
    examples = planted(saved, drawn(400), 0.9)
    assert best_constant(examples) == 1
    examples.legal[40:, 1] = False
    assert best_constant(examples) == 0
    examples.saved[:, 0] = np.nan
    examples.saved[:5, 0] = 9.0
    assert best_constant(examples) == 1
