"""PPO from the teacher's network: where it begins, what it leaves, that it goes on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

pytest.importorskip("sb3_contrib", reason="training is not installed; run 'make learn'")

from loki_rl.agents.train.checkpoints import STATE, OtherTrainingError
from loki_rl.agents.train.fine_tuning import LATEST, PpoOptions, TrainOptions, actor_of, begin_as, fine_tune, new_model
from loki_rl.agents.train.teacher import network_of
from loki_rl.agents.train.vec_env import ClusterVecEnv
from loki_rl.control.demand.tanh_network import forward
from loki_rl.control.learned.agent import load_agent
from loki_rl.control.learned.observation import ACTIONS, NO_ADJUSTMENT, OBSERVATION
from loki_rl.env.gym.cluster_options import pool_for
from tests.agents.agreement import agreement, of_model, pairs


def env_of(options: TrainOptions, number: int, price: float = 0.0) -> ClusterVecEnv:
    return ClusterVecEnv([pool_for(world) for world in options.teach.worlds], number, options.rewards, price, 0)


def test_it_leaves_checkpoints_and_curves(tuned: Any) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert {LATEST, STATE, "agent.npz", "agent.onnx", "card.md"} <= {path.name for path in tuned.folder.iterdir()}
    assert tuned.progress.steps >= tuned.options.steps
    found = EventAccumulator(str(tuned.folder))
    found.Reload()
    tags = set(found.Tags()["scalars"])
    assert {"rollout/ep_rew_mean", "train/loss", "train/gap_closed", "train/slo_violation_ratio"} <= tags


def test_it_begins_as_the_first_member_of_the_teacher(tuned: Any, learned: Any) -> None:
    model = new_model(tuned.options, env_of(tuned.options, 2))
    weights, biases = network_of(learned.folder)
    begin_as(model, weights, biases)
    choose = of_model(model)
    for seen, mask in pairs(200):
        first = forward(weights, biases, seen)[:ACTIONS]
        assert choose(seen, mask) == int(np.argmax(np.where(mask, first, -1e8)))


def test_nothing_is_kept_that_is_no_better_than_the_teacher(tuned: Any, learned: Any) -> None:
    better = [score for _, score in tuned.progress.history if score.worth > learned.progress.best.worth]
    assert (tuned.folder / "best.zip").exists() == bool(better)
    assert tuned.progress.best == max([learned.progress.best, *better], key=lambda one: one.worth)


def test_a_second_call_goes_on(tuned: Any, learned: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tuned.folder, tmp_path / "again"))
    progress = fine_tune(replace(tuned.options, steps=1920), learned.progress, learned.folder, folder)
    assert progress.steps > tuned.progress.steps
    assert len(progress.history) == 3
    with pytest.raises(OtherTrainingError, match="other options"):
        fine_tune(replace(tuned.options, rollout=10), learned.progress, learned.folder, folder)


def test_every_setting_of_the_learner_is_an_option_and_stands_in_the_card(tuned: Any) -> None:
    settings: dict[str, Any] = {
        "learning_rate": 0.002, "batch_size": 8, "n_epochs": 3, "gamma": 0.7, "gae_lambda": 0.6, "clip_range": 0.3,
        "ent_coef": 0.07, "vf_coef": 0.4, "max_grad_norm": 0.9,
    }  # fmt: skip
    model = new_model(replace(tuned.options, ppo=PpoOptions(**settings)), env_of(tuned.options, 2))
    assert model.clip_range(1.0) == settings.pop("clip_range")
    assert {name: getattr(model, name) for name in settings} == settings
    for card in (tuned.agent.card, load_agent(tuned.folder / "agent.npz").card):
        assert msgspec.convert(card.training, TrainOptions) == tuned.options


def test_the_price_is_paid_for_what_the_base_does_not_lose(tuned: Any) -> None:
    env = env_of(tuned.options, 4, price=10.0)
    env.reset()
    batch, _ = env.batches[0]
    for _ in range(tuned.options.teach.env.intervals - 1):
        env.step_async(np.zeros(4, np.int64))
        rewards = env.step_wait()[1]
        more = batch.lost - batch.pool.base_lost[batch.window, batch.k - 1]
        assert rewards == pytest.approx((batch.rewards - 10.0 * more).clip(-2.0, 0.5), abs=1e-6)


def test_a_finished_cluster_begins_anew_in_the_same_step(tuned: Any) -> None:
    env = env_of(tuned.options, 4)
    env.reset()
    for _ in range(tuned.options.teach.env.intervals):
        env.step_async(np.full(4, NO_ADJUSTMENT))
        _, rewards, done, infos = env.step_wait()
    assert done.all()
    assert rewards == pytest.approx(0.0, abs=1e-6)
    assert infos[0]["TimeLimit.truncated"]
    assert infos[0]["terminal_observation"].shape == env.observation_space.shape
    assert (env.batches[0][0].k == 1).all()


def test_clusters_of_several_pipelines_are_played_side_by_side(tuned: Any, small: Path) -> None:
    options = replace(tuned.options, teach=replace(tuned.options.teach, pipelines=(str(small),)))
    env = env_of(options, 5)
    assert env.reset().shape == (5, OBSERVATION)
    assert [batch.pool.table.fleet.pipeline.name for batch, _ in env.batches] == ["one-task", "small"]
    env.step_async(np.full(5, NO_ADJUSTMENT))
    seen, _, done, _ = env.step_wait()
    assert seen.shape[0] == len(env.action_masks()) == 5
    assert not done.any()


def test_every_form_of_the_agent_chooses_the_same(tuned: Any) -> None:
    for name in ("agent.npz", "agent.onnx"):
        assert agreement(load_agent(tuned.folder / name), of_model(tuned.model), 500) == 1.0
    assert len(actor_of(tuned.model)[0]) == 3
