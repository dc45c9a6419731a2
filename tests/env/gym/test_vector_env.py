"""The native batch: the same as single environments, step by step."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import InvalidAction, ResetNeeded

from loki_rl.control.learned.observation import ACTIONS
from loki_rl.env.fluid.batch import Batch, Pool
from loki_rl.env.gym.cluster_options import ClusterEnvOptions, OptionError, pool_for
from loki_rl.env.gym.vector_env import ClusterVectorEnv, OneTaskVectorEnv


@pytest.fixture(scope="module")
def pool(small: dict[str, Any]) -> Pool:
    made = pool_for(ClusterEnvOptions(pipeline="one-task", randomise=True, **small))
    made.ensure(np.arange(made.size))
    return made


def test_a_batch_is_its_single_environments(small: dict[str, Any]) -> None:
    name, number = "LokiRL/OneTask-v1", 3
    options = {**small, "randomise": True, "windows": 4}
    batch = gym.make_vec(name, num_envs=number, **options)
    singles = [gym.make(name, **options) for _ in range(number)]
    observations, _ = batch.reset(seed=11)
    for index, env in enumerate(singles):
        assert np.array_equal(env.reset(seed=11 + index)[0], observations[index])
    rng = np.random.default_rng(0)
    for _ in range(6):
        actions = rng.integers(0, ACTIONS, number)
        rows = batch.step(actions)
        for index, env in enumerate(singles):
            observation, reward, terminated, truncated, info = env.step(actions[index])
            assert np.array_equal(observation, rows[0][index])
            assert (reward, terminated, truncated) == (rows[1][index], rows[2][index], rows[3][index])
            assert np.array_equal(info["action_mask"], rows[4]["action_mask"][index])
            assert info["slo_violation_ratio"] == rows[4]["slo_violation_ratio"][index]


def test_the_number_of_threads_changes_nothing(pool: Pool) -> None:
    batches = [Batch(pool, 5, lanes=lanes) for lanes in (1, 2, 3)]
    rng = np.random.default_rng(0)
    for batch in batches:
        batch.start(np.arange(5), np.arange(5) % pool.size)
        batch.start(np.array([3]), np.array([0]))
    for _ in range(4):
        actions = rng.integers(0, ACTIONS, 5)
        for batch in batches:
            batch.step(actions)
            for name in ("observations", "masks", "rewards", "figures", "first_cost", "k"):
                assert np.array_equal(getattr(batch, name), getattr(batches[0], name))


def test_the_step_after_the_last_one_begins_the_next_episode(small: dict[str, Any]) -> None:
    env = OneTaskVectorEnv(2, **small)
    env.reset(seed=0)
    for _ in range(6):
        _, _, _, truncated, _ = env.step(np.full(2, 3))
    assert truncated.all()
    _, rewards, _, truncated, _ = env.step(np.full(2, 9))
    assert not truncated.any()
    assert (rewards == 0).all()
    assert (env.batch.k == 1).all()


def test_windows_can_be_chosen(small: dict[str, Any]) -> None:
    env = OneTaskVectorEnv(2, **small)
    env.reset(options={"window": [2, 1]})
    assert env.batch.window.tolist() == [2, 1]


@pytest.mark.parametrize("actions", [[3, -1], [3, ACTIONS], [3], 3, [3.0, 3.0], [[3, 3]]])
def test_actions_outside_of_the_space_are_refused(actions: Any, small: dict[str, Any]) -> None:
    env = OneTaskVectorEnv(2, **small)
    env.reset(seed=0)
    before = env.batch.k.copy()
    with pytest.raises(InvalidAction, match="must be 2 whole numbers from 0 to 23"):
        env.step(np.array(actions))
    assert np.array_equal(env.batch.k, before)


def test_a_step_before_the_first_reset_is_refused(small: dict[str, Any]) -> None:
    with pytest.raises(ResetNeeded, match="call reset"):
        OneTaskVectorEnv(2, **small).step(np.full(2, 3))


@pytest.mark.parametrize("window", [[0, 3], [0, 1, 2], -1])
def test_windows_that_there_are_not_are_refused(window: Any, small: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="window must be a whole number from 0 to 2"):
        OneTaskVectorEnv(2, **small).reset(options={"window": window})


def test_events_are_not_batched(small: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="fidelity fluid"):
        ClusterVectorEnv(2, **{**small, "pipeline": "one-task", "fidelity": "event"})
