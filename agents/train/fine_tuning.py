"""MaskablePPO that starts from the teacher's network, with checkpoints, validation, early stop and resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import asdict

from loki_rl.agents.evaluate.rollouts import greedy
from loki_rl.agents.train.checkpoints import keep, resumed
from loki_rl.agents.train.regression import settle_torch
from loki_rl.agents.train.teacher import Taught, TeachOptions, network_of
from loki_rl.agents.train.validation import Score, Validation, curve_of
from loki_rl.control.demand.tanh_network import Layers, layers_of
from loki_rl.control.learned.observation import ACTIONS
from loki_rl.env.gym.cluster_options import pool_for

LATEST, BEST = "latest.zip", "best.zip"
# What the logits of PPO's first policy are of what the teacher's network says.
SHARPNESS = 5.0


class PpoOptions(Struct, frozen=True, kw_only=True):
    """Arguments of MaskablePPO, by its names."""

    learning_rate: float = 3e-4
    batch_size: int = 2048
    n_epochs: int = 4
    gamma: float = 0.97
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    ent_coef: float = 0.002
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5


class TrainOptions(Struct, frozen=True, kw_only=True):
    """teach: what the teacher was trained with; windows, validation, seed and the price of lost requests are the same.
    steps: decisions in all. envs: clusters side by side; rollout: decisions of each between updates. evaluate_every:
    decisions between validations; give_up: validations without a better one before it stops. last: what share of learning
    rate and exploration is left at the end. rewards: bounds of one, as a few collapsed intervals would drown all others."""

    teach: TeachOptions
    steps: int = 400_000
    envs: int = 256
    rollout: int = 60
    evaluate_every: int = 50_000
    give_up: int = 5
    ppo: PpoOptions = PpoOptions()
    last: float = 0.1
    rewards: tuple[float, float] = (-2.0, 0.5)


class Tuned(Struct):
    """Where a training stands. options: of the training, whose `steps` and `give_up` may grow from call to call. steps done;
    best: score of the model that is kept, at first the teacher's; stale: validations since; history: (steps, score)."""

    options: TrainOptions
    best: Score
    steps: int = 0
    stale: int = 0
    history: list[tuple[int, Score]] = []


def fine_tune(options: TrainOptions, taught: Taught, teacher: Path, folder: Path, quiet: bool = True) -> Tuned:
    """Train until `steps`, an early stop, or a kill; a second call with the same folder goes on where the last checkpoint
    stands. taught, teacher: the teacher and its folder. Leaves latest.zip, state.json, TensorBoard files, and best.zip if
    any model was better than the teacher. Raises OtherTrainingError."""
    from sb3_contrib import MaskablePPO
    from stable_baselines3.common.logger import configure

    from loki_rl.agents.train.vec_env import ClusterVecEnv

    folder.mkdir(parents=True, exist_ok=True)
    settle_torch(options.teach.seed)
    progress = resumed(folder, Tuned(options, taught.best), ("steps", "give_up"))
    pools, price = [pool_for(world) for world in options.teach.worlds], options.teach.judging.lost_j
    env = ClusterVecEnv(pools, options.envs, options.rewards, price, options.teach.seed + progress.steps)
    if progress.steps:
        model = MaskablePPO.load(folder / LATEST, env=env)
    else:
        model = new_model(options, env)
        begin_as(model, *network_of(teacher))
    model.set_logger(configure(str(folder), ["tensorboard"] if quiet else ["tensorboard", "stdout"]))
    validation = Validation(options.teach.worlds, options.teach.validation)
    while progress.steps < options.steps and progress.stale < options.give_up:
        model.learn(options.evaluate_every, reset_num_timesteps=False, callback=_schedule(options))
        progress.steps = model.num_timesteps
        _validate(model, validation, progress, folder)
        model.save(folder / LATEST)
        keep(folder, progress)
    return progress


def actor_of(model: Any) -> tuple[Layers, Layers]:
    """Weights and biases of the actor inside a stable-baselines3 model: hidden layers, then the action layer."""
    return layers_of([*model.policy.mlp_extractor.policy_net, model.policy.action_net], np.float32)


def new_model(options: TrainOptions, env: Any) -> Any:
    """A fresh MaskablePPO."""
    from sb3_contrib import MaskablePPO

    ppo, hidden = asdict(options.ppo), options.teach.fit.hidden
    return MaskablePPO(
        "MlpPolicy",
        env,
        n_steps=options.rollout,
        batch_size=min(ppo.pop("batch_size"), options.envs * options.rollout),
        seed=options.teach.seed,
        policy_kwargs={"net_arch": [hidden, hidden]},
        device="cpu",
        **ppo,
    )


def begin_as(model: Any, weights: Layers, biases: Layers) -> None:
    """Give a model's actor the layers of the first member of an ensemble."""
    import torch

    policy = model.policy
    linear = [policy.mlp_extractor.policy_net[0], policy.mlp_extractor.policy_net[2], policy.action_net]
    hidden = len(linear[1].bias)
    ends = ((None, hidden), (hidden, hidden), (hidden, ACTIONS))
    with torch.no_grad():
        for layer, weight, bias, (inputs, outputs) in zip(linear, weights, biases, ends, strict=True):
            scale = SHARPNESS if outputs == ACTIONS and layer is policy.action_net else 1.0
            layer.weight.copy_(torch.tensor(scale * weight[:inputs, :outputs].T))
            layer.bias.copy_(torch.tensor(scale * bias[:outputs]))


def _schedule(options: TrainOptions) -> Any:
    """Learning rate and exploration fall along the whole training, not within one call of learn."""
    from stable_baselines3.common.callbacks import BaseCallback

    class Schedule(BaseCallback):
        def _on_rollout_end(self) -> None:
            left = 1 - (1 - options.last) * min(1.0, self.num_timesteps / options.steps)
            self.model.lr_schedule = lambda _: options.ppo.learning_rate * left
            self.model.ent_coef = options.ppo.ent_coef * left  # type: ignore[attr-defined]

        def _on_step(self) -> bool:
            return True

    return Schedule()


def _validate(model: Any, validation: Validation, progress: Tuned, folder: Path) -> None:
    """Deterministic play on the validation windows; the best model so far is kept."""
    score, played = validation.score(greedy(*actor_of(model), 0.0))
    progress.history.append((progress.steps, score))
    progress.stale += 1
    if score.worth > progress.best.worth:
        progress.best, progress.stale = score, 0
        model.save(folder / BEST)
    for tag, value in curve_of(score, played).items():
        model.logger.record(tag, value)
    model.logger.dump(progress.steps)
