"""Training an agent on fluid clusters: MaskablePPO with checkpoints, validation, early stop and resume. Owns the loop and
what it writes; knows neither the exact allocator nor a live controller."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import asdict, replace

from loki_rl.agents.rollouts import Played, base, play
from loki_rl.env.cluster_options import ClusterEnvOptions, pool_for
from loki_rl.env.fluid_batch import Pool

LATEST, BEST, STATE = "latest.zip", "best.zip", "state.json"
# Clairvoyance needs some headroom too, where the profile is wrong.
SCALES = (1.0, 1.1, 1.2)


class TrainOptions(Struct, frozen=True, kw_only=True):
    """env: the training windows. steps: decisions in all. envs: clusters side by side; rollout: decisions of each between
    updates. evaluate_every: decisions between validations; validation: windows of it; give_up: validations without a better
    one before it stops. seed: of networks and windows."""

    env: ClusterEnvOptions
    steps: int = 1_000_000
    envs: int = 256
    rollout: int = 20
    evaluate_every: int = 40_000
    validation: int = 48
    give_up: int = 12
    seed: int = 0
    learning_rate: float = 1e-3


class Progress(Struct):
    """steps done; best: validation gain over the base in J; gap: share of base -> clairvoyant that this is; stale:
    validations since; history: (steps, gain, gap)."""

    steps: int = 0
    best: float = -1e9
    gap: float = 0.0
    stale: int = 0
    history: list[tuple[int, float, float]] = []


class Validation:
    """The validation windows, what the base costs on them, and what clairvoyance would save."""

    def __init__(self, options: TrainOptions) -> None:
        env = replace(options.env, split="validation", windows=options.validation)
        self.pool: Pool = pool_for(env)
        self.base = play(self.pool, base)
        seeing = [replace(env, base="clairvoyant", scale=scale, patience=1.0) for scale in SCALES]
        self.room = max(float((self.base.cost - play(pool_for(one), base).cost).mean()) for one in seeing)

    def gain(self, played: Played) -> tuple[float, float]:
        """J saved against the base, and the share of the room that this is."""
        gain = float((self.base.cost - played.cost).mean())
        return gain, gain / self.room if self.room > 0 else 0.0


def train(options: TrainOptions, folder: Path, quiet: bool = True) -> Progress:
    """Train until `steps`, an early stop, or a kill; a second call with the same folder goes on where the last checkpoint
    stands. Leaves best.zip, latest.zip, state.json and TensorBoard files in the folder."""
    from sb3_contrib import MaskablePPO
    from stable_baselines3.common.logger import configure

    from loki_rl.agents.vec_env import ClusterVecEnv

    folder.mkdir(parents=True, exist_ok=True)
    settle_torch(options.seed)
    progress = _progress(folder / STATE)
    env = ClusterVecEnv(pool_for(options.env), options.envs, seed=options.seed + progress.steps)
    model = MaskablePPO.load(folder / LATEST, env=env) if progress.steps else new_model(options, env)
    model.set_logger(configure(str(folder), ["tensorboard"] if quiet else ["tensorboard", "stdout"]))
    validation = Validation(options)
    while progress.steps < options.steps and progress.stale < options.give_up:
        model.learn(options.evaluate_every, reset_num_timesteps=False, callback=_rate(options))
        progress.steps = model.num_timesteps
        _validate(model, validation, progress, folder)
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

    return MaskablePPO(
        "MlpPolicy",
        env,
        learning_rate=options.learning_rate,
        n_steps=options.rollout,
        batch_size=min(1280, options.envs * options.rollout),
        n_epochs=4,
        gamma=0.8,
        gae_lambda=0.9,
        ent_coef=0.003,
        seed=options.seed,
        policy_kwargs={"net_arch": [64, 64]},
        device="cpu",
    )


def _rate(options: TrainOptions) -> Any:
    """Learning rate falls to a tenth along the whole training, not within one call of learn."""
    from stable_baselines3.common.callbacks import BaseCallback

    class Falling(BaseCallback):
        def _on_rollout_end(self) -> None:
            done = min(1.0, self.num_timesteps / options.steps)
            self.model.lr_schedule = lambda _: options.learning_rate * (1 - 0.9 * done)

        def _on_step(self) -> bool:
            return True

    return Falling()


def _validate(model: Any, validation: Validation, progress: Progress, folder: Path) -> None:
    """Deterministic play on the validation windows; the best model so far is kept."""

    def decide(observations: Any, masks: Any) -> Any:
        return model.predict(observations, action_masks=masks.astype(bool), deterministic=True)[0]

    played = play(validation.pool, decide)
    gain, gap = validation.gain(played)
    progress.history.append((progress.steps, gain, gap))
    progress.stale += 1
    if gain > progress.best:
        progress.best, progress.gap, progress.stale = gain, gap, 0
        model.save(folder / BEST)
    figures = {"eval/j_minus_baseline": -gain, "eval/gap_closed": gap}
    figures |= {f"serving/{name}": float(np.mean(getattr(played, name))) for name in ("accuracy", "servers")}
    figures["serving/slo_violation_ratio"] = float(played.violations.mean())
    for tag, value in figures.items():
        model.logger.record(tag, value)
    model.logger.dump(progress.steps)


def _progress(path: Path) -> Progress:
    if not path.is_file():
        return Progress()
    found = json.loads(path.read_text())
    return Progress(**{**found, "history": [tuple(row) for row in found["history"]]})


def _write(path: Path, progress: Progress) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps(asdict(progress)))
    new.replace(path)
