"""Training an agent: MaskablePPO on fluid clusters, with checkpoints, validation, early stop and resume."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from msgspec.structs import asdict, replace

from loki_rl.agents.evaluate.rollouts import greedy
from loki_rl.agents.train.validation import NOTHING, Score, Validation
from loki_rl.control.demand.tanh_network import Layers, forward, layers_of
from loki_rl.env.gym.cluster_options import ClusterEnvOptions, pool_for
from loki_rl.errors import UNREADABLE, UserError

LATEST, BEST, STATE = "latest.zip", "best.zip", "state.json"


class PpoOptions(Struct, frozen=True, kw_only=True):
    """Arguments of MaskablePPO, by its names. net_arch: widths of the hidden layers of actor and critic each.

    With less entropy it stops exploring after 50,000 decisions, and never leaves what the base does: what one action is
    worth more than another is a tenth of the noise of advantages.
    """

    learning_rate: float = 1e-3
    batch_size: int = 1280
    n_epochs: int = 4
    gamma: float = 0.8
    gae_lambda: float = 0.9
    clip_range: float = 0.2
    ent_coef: float = 0.05
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5
    net_arch: tuple[int, ...] = (64, 64)


class TrainOptions(Struct, frozen=True, kw_only=True):
    """env: the training windows. steps: decisions in all. envs: clusters side by side; rollout: decisions of each between
    updates. evaluate_every: decisions between validations; validation: windows of it; give_up: validations without a better
    one before it stops. seed: of networks and windows. ppo, last: settings of the learner, and what share of its learning
    rate and exploration is left at the end. rewards: bounds of one, as a few collapsed intervals would drown all others.

    allowed: requests lost beyond the base's, as a share of all. Others have a price, a multiplier of that constraint
    (Lagrangian relaxation, as in Tessler et al., ICLR 2019): it moves with every validation by price_rate per unit of
    excess, at most by price_step, between 0, the plain cost J, and highest_price. What exploration loses does not count: an
    agent at work does not explore. lost_j: cost J of such a request when checkpoints are compared, besides the 5 that every
    lost one costs; were none allowed at any price, early ones that hardly do anything would be kept.
    """

    env: ClusterEnvOptions
    steps: int = 400_000
    envs: int = 256
    rollout: int = 20
    evaluate_every: int = 20_000
    validation: int = 96
    give_up: int = 25
    seed: int = 0
    ppo: PpoOptions = PpoOptions()
    last: float = 0.1
    rewards: tuple[float, float] = (-2.0, 0.5)
    allowed: float = 0.0001
    price_rate: float = 10_000.0
    price_step: float = 1.0
    highest_price: float = 100.0
    lost_j: float = 10.0


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
    env = ClusterVecEnv(pool_for(options.env), options.envs, options.rewards, seed=options.seed + progress.steps)
    model = MaskablePPO.load(folder / LATEST, env=env) if progress.steps else new_model(options, env)
    env.price = progress.price
    model.set_logger(configure(str(folder), ["tensorboard"] if quiet else ["tensorboard", "stdout"]))
    validation = Validation(options.env, options.validation)
    while progress.steps < options.steps and progress.stale < options.give_up:
        model.learn(options.evaluate_every, reset_num_timesteps=False, callback=_schedule(options))
        progress.steps = model.num_timesteps
        score = _validate(model, validation, progress, folder)
        progress.price = env.price = next_price(options, progress.price, score.excess)
        model.save(folder / LATEST)
        _write(folder / STATE, progress)
    return progress


def actor_of(model: Any) -> tuple[Layers, Layers]:
    """Weights and biases of the actor inside a stable-baselines3 model: hidden layers, then the action layer."""
    return layers_of([*model.policy.mlp_extractor.policy_net, model.policy.action_net], np.float32)


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

    ppo = asdict(options.ppo)
    return MaskablePPO(
        ForesightPolicy,
        env,
        n_steps=options.rollout,
        batch_size=min(ppo.pop("batch_size"), options.envs * options.rollout),
        seed=options.seed,
        policy_kwargs={"net_arch": list(ppo.pop("net_arch"))},
        device="cpu",
        **ppo,
    )


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


def next_price(options: TrainOptions, price: float, excess: float) -> float:
    """The price after a validation in which so large a share of the requests was lost beyond the base's."""
    step = np.clip(options.price_rate * (excess - options.allowed), -options.price_step, options.price_step)
    return float(np.clip(price + step, 0.0, options.highest_price))


def worth(options: TrainOptions, score: Score) -> float:
    """What checkpoints are compared by: cost J saved, less a price of what is lost beyond the base's. Not above 0: the base
    is better off alone."""
    return score.gain - options.lost_j * max(0.0, score.excess - options.allowed)


def _validate(model: Any, validation: Validation, progress: Progress, folder: Path) -> Score:
    """Deterministic play on the validation windows; the best model so far is kept."""
    score, played = validation.score(greedy(partial(forward, *actor_of(model))))
    progress.history.append((progress.steps, score.gain, score.gap, score.excess))
    progress.stale += 1
    if worth(progress.options, score) > worth(progress.options, progress.best):
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
    except UNREADABLE as error:
        message = f"{path} is not of this version ({error}); choose another --out or remove its folder"
        raise OtherTrainingError(message) from None
    if replace(found.options, steps=options.steps, give_up=options.give_up) != options:
        raise OtherTrainingError(f"{path.parent} holds a training with other options; choose another --out or remove it")
    return replace(found, options=options)


def _write(path: Path, progress: Progress) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(msgspec.json.encode(progress))
    new.replace(path)
