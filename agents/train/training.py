"""Training an agent on fluid clusters: MaskablePPO with checkpoints, validation, early stop and resume, and a price on lost
requests that holds them near the base's. Owns the loop and what it writes; knows neither the exact allocator nor a live
controller."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from loki_rl.agents.evaluate.rollouts import greedy
from loki_rl.agents.train.network import layers_of
from loki_rl.agents.train.validation import NOTHING, Score, Validation
from loki_rl.control.learned.agent import forward
from loki_rl.env.gym.cluster_options import ClusterEnvOptions, pool_for
from loki_rl.errors import UserError

LATEST, BEST, STATE = "latest.zip", "best.zip", "state.json"
# The price of a lost request is a multiplier of the constraint (Lagrangian relaxation, as in Tessler et al., ICLR 2019): it
# moves with every validation, by so much per unit of excess over what is allowed, and never below 0, the plain cost J. What
# exploration loses does not count: an agent at work does not explore.
PRICE_RATE, PRICE_STEP, HIGHEST_PRICE = 10_000.0, 1.0, 100.0
# With less entropy it stops exploring after 50,000 decisions, and never leaves what the base does: what one action is worth
# more than another is a tenth of the noise of advantages.
LEARNING_RATE, ENTROPY = 1e-3, 0.05


class TrainOptions(Struct, frozen=True, kw_only=True):
    """env: the training windows. steps: decisions in all. envs: clusters side by side; rollout: decisions of each between
    updates. evaluate_every: decisions between validations; validation: windows of it; give_up: validations without a better
    one before it stops. seed: of networks and windows."""

    env: ClusterEnvOptions
    steps: int = 400_000
    envs: int = 256
    rollout: int = 20
    evaluate_every: int = 20_000
    validation: int = 96
    give_up: int = 25
    seed: int = 0
    allowed: float = 0.0001


class OtherTrainingError(UserError):
    """The folder holds the checkpoints of a training with other options; the message says which and what to do."""


class Progress(Struct):
    """options: of the training, whose `steps` and `give_up` may grow from call to call. steps done; best: score of the model
    that is kept; stale: validations since; price: of a lost request now; history: (steps, gain, gap, excess)."""

    options: TrainOptions
    steps: int = 0
    best: Score = NOTHING
    stale: int = 0
    price: float = 0.0
    history: list[tuple[int, float, float, float]] = []


def train(options: TrainOptions, folder: Path, quiet: bool = True) -> Progress:
    """Train until `steps`, an early stop, or a kill; a second call with the same folder goes on where the last checkpoint
    stands. Leaves best.zip, latest.zip, state.json and TensorBoard files in the folder. Raises OtherTrainingError."""
    from sb3_contrib import MaskablePPO
    from stable_baselines3.common.logger import configure

    from loki_rl.agents.train.vec_env import ClusterVecEnv

    folder.mkdir(parents=True, exist_ok=True)
    settle_torch(options.seed)
    progress = _progress(folder / STATE, options)
    env = ClusterVecEnv(pool_for(options.env), options.envs, seed=options.seed + progress.steps)
    model = MaskablePPO.load(folder / LATEST, env=env) if progress.steps else new_model(options, env)
    env.price = progress.price
    model.set_logger(configure(str(folder), ["tensorboard"] if quiet else ["tensorboard", "stdout"]))
    validation = Validation(options.env, options.validation)
    while progress.steps < options.steps and progress.stale < options.give_up:
        model.learn(options.evaluate_every, reset_num_timesteps=False, callback=_schedule(options))
        progress.steps = model.num_timesteps
        score = _validate(model, validation, progress, options.allowed, folder)
        progress.price = env.price = next_price(progress.price, score.excess - options.allowed)
        model.save(folder / LATEST)
        _write(folder / STATE, progress)
    return progress


def settle_torch(seed: int) -> None:
    """One thread, no checks of distributions, one seed for all."""
    import torch
    from stable_baselines3.common.utils import set_random_seed

    torch.set_num_threads(1)  # networks this small are slower on two
    torch.distributions.Distribution.set_default_validate_args(False)  # a sixth of the time
    set_random_seed(seed)


def new_model(options: TrainOptions, env: Any) -> Any:
    """An untrained MaskablePPO."""
    from sb3_contrib import MaskablePPO

    from loki_rl.agents.train.privileged_critic import ForesightPolicy

    return MaskablePPO(
        ForesightPolicy,
        env,
        learning_rate=LEARNING_RATE,
        n_steps=options.rollout,
        batch_size=min(1280, options.envs * options.rollout),
        n_epochs=4,
        gamma=0.8,
        gae_lambda=0.9,
        ent_coef=ENTROPY,
        seed=options.seed,
        policy_kwargs={"net_arch": [64, 64]},
        device="cpu",
    )


def _schedule(options: TrainOptions) -> Any:
    """Learning rate and exploration fall to a tenth along the whole training, not within one call of learn."""
    from stable_baselines3.common.callbacks import BaseCallback

    class Schedule(BaseCallback):
        def _on_rollout_end(self) -> None:
            left = 1 - 0.9 * min(1.0, self.num_timesteps / options.steps)
            self.model.lr_schedule = lambda _: LEARNING_RATE * left
            self.model.ent_coef = ENTROPY * left  # type: ignore[attr-defined]

        def _on_step(self) -> bool:
            return True

    return Schedule()


def next_price(price: float, over: float) -> float:
    """The price after a validation in which so large a share of the requests was lost beyond what is allowed."""
    return float(np.clip(price + np.clip(PRICE_RATE * over, -PRICE_STEP, PRICE_STEP), 0.0, HIGHEST_PRICE))


def _validate(model: Any, validation: Validation, progress: Progress, allowed: float, folder: Path) -> Score:
    """Deterministic play on the validation windows; the best model so far is kept."""
    score, played = validation.score(greedy(partial(forward, *layers_of(model))))
    progress.history.append((progress.steps, score.gain, score.gap, score.excess))
    progress.stale += 1
    if score.better_than(progress.best, allowed):
        progress.best, progress.stale = score, 0
        model.save(folder / BEST)
    figures = {"eval/j_minus_baseline": -score.gain, "eval/gap_closed": score.gap, "eval/excess_violations": score.excess}
    figures |= {f"serving/{name}": float(np.mean(getattr(played, name))) for name in ("accuracy", "servers")}
    figures |= {"serving/slo_violation_ratio": score.violations, "train/price_of_lost": progress.price}
    for tag, value in figures.items():
        model.logger.record(tag, value)
    model.logger.dump(progress.steps)
    return score


def _progress(path: Path, options: TrainOptions) -> Progress:
    if not path.is_file():
        return Progress(options)
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Progress)
    except msgspec.DecodeError as error:
        message = f"{path} is not of this version ({error}); choose another --out or remove its folder"
        raise OtherTrainingError(message) from None
    if replace(found.options, steps=options.steps, give_up=options.give_up) != options:
        raise OtherTrainingError(f"{path.parent} holds a training with other options; choose another --out or remove it")
    return replace(found, options=options)


def _write(path: Path, progress: Progress) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(msgspec.json.encode(progress))
    new.replace(path)
