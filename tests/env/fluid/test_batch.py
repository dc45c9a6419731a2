"""Clusters that are copied go on as the one that they are copies of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from loki_rl.control.learned.observation import ACTIONS, NO_ADJUSTMENT
from loki_rl.env.fluid.batch import Batch, Pool
from loki_rl.env.gym.cluster_options import ClusterEnvOptions, pool_for


@pytest.fixture(scope="module")
def pool(small: dict[str, Any]) -> Pool:
    made = pool_for(ClusterEnvOptions(pipeline="one-task", randomise=True, **small))
    made.ensure(np.arange(made.size))
    return made


def begun(pool: Pool) -> Batch:
    batch = Batch(pool, 3)
    batch.start(np.arange(3), np.arange(3))
    batch.step(np.array([0, 6, 12]))
    return batch


def test_a_copy_goes_on_as_its_origin(pool: Pool) -> None:
    batch, fork = begun(pool), Batch(pool, 6)
    fork.copy(np.array([0, 1, 2, 2, 1, 0]), np.arange(6), batch)
    for actions in (np.array([2, 7, 4]), np.array([23, 1, 4])):
        batch.step(actions)
        fork.step(np.concatenate((actions, actions[::-1])))
        for name in ("observations", "masks", "rewards", "figures", "k"):
            mine = getattr(fork, name)
            assert np.array_equal(mine[:3], getattr(batch, name))
            assert np.array_equal(mine[:3], mine[:2:-1])


def test_every_action_can_be_played_from_the_same_state(pool: Pool) -> None:
    batch, fork = begun(pool), Batch(pool, ACTIONS)
    before = batch.observations.copy()
    fork.copy(np.full(ACTIONS, 1), np.arange(ACTIONS), batch)
    totals = fork.hold(np.arange(ACTIONS), 3)
    assert np.array_equal(batch.observations, before)
    assert totals.shape == (ACTIONS, 2)
    assert len(np.unique(totals[:, 0])) > 1
    assert (fork.k == batch.k[1] + 3).all()


def test_a_held_action_is_taken_where_it_is_legal_to_the_end_of_the_episode(pool: Pool) -> None:
    held, stepped = begun(pool), begun(pool)
    totals, paid = held.hold(np.array([0, 0, 2]), 100), np.zeros(3)
    while not stepped.done.any():
        legal = stepped.masks[np.arange(3), [0, 0, 2]] > 0
        stepped.step(np.where(legal, [0, 0, 2], NO_ADJUSTMENT))
        paid += stepped.costs
    assert totals[:, 0] == pytest.approx(paid)
    assert held.done.all()
    assert np.array_equal(held.observations, stepped.observations)
