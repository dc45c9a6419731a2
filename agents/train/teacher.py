"""The teacher: hindsight regression with policy iteration. States that the present policy visits, what each action would
have cost on the same future, networks that say it of any state, and from them the next policy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from loki_rl.agents.evaluate.counterfactuals import Examples, Judging, joined, judged
from loki_rl.agents.evaluate.rollouts import Decide, base, greedy
from loki_rl.agents.train.checkpoints import keep, resumed
from loki_rl.agents.train.regression import FitOptions, fit
from loki_rl.agents.train.validation import NOTHING, Score, Validation, curve_of
from loki_rl.control.demand.tanh_network import Layers, layers_in, named
from loki_rl.env.gym.cluster_options import ClusterEnvOptions, pool_for
from loki_rl.runs.tensorboard.event_files import replace_events, scalars

EXAMPLES, NETWORK = "examples.npz", "network.npz"


class TeachOptions(Struct, frozen=True, kw_only=True):
    """env: the training windows; pipelines: others that the same agent is trained for, with windows as many. rounds of
    policy iteration; states: judged in each. validation: windows of it, of each pipeline. margins: an action must save so
    many times the spread of the ensemble; the best of them is kept. seed: of networks and of what is drawn."""

    env: ClusterEnvOptions
    pipelines: tuple[str, ...] = ()
    rounds: int = 3
    states: int = 8000
    validation: int = 256
    judging: Judging = Judging()
    fit: FitOptions = FitOptions()
    margins: tuple[float, ...] = (1.0, 2.0, 3.0)
    seed: int = 0

    @property
    def worlds(self) -> tuple[ClusterEnvOptions, ...]:
        """The training windows of every pipeline."""
        return self.env, *(replace(self.env, pipeline=name) for name in self.pipelines)


class Taught(Struct):
    """Where a training stands. rounds: the score of each, at its best margin; best, margin: of the network that is kept;
    curves: the points of every round."""

    options: TeachOptions
    rounds: list[Score] = []
    best: Score = NOTHING
    margin: float = 0.0
    curves: list[dict[str, float]] = []


def teach(options: TeachOptions, folder: Path) -> Taught:
    """All rounds that are not done yet. Leaves the best round's network, what was judged, state.json and a TensorBoard file
    in the folder. Raises OtherTrainingError."""
    folder.mkdir(parents=True, exist_ok=True)
    progress = resumed(folder, Taught(options), ("rounds",))
    if len(progress.rounds) >= options.rounds:
        return progress
    validation = Validation(options.worlds, options.validation)
    examples = _load(folder / EXAMPLES) if progress.rounds else []
    while len(progress.rounds) < options.rounds:
        follow = greedy(*network_of(folder), progress.margin) if progress.best is not NOTHING else base
        examples.append(_visited(options, follow, len(progress.rounds)))
        _round(progress, joined(*examples), validation, folder)
        np.savez_compressed(folder / EXAMPLES, **{n: getattr(joined(*examples), n) for n in Examples.__struct_fields__})
        keep(folder, progress)
        replace_events(folder, [scalars(place, points) for place, points in enumerate(progress.curves, 1)])
    return progress


def _visited(options: TeachOptions, follow: Decide, number: int) -> Examples:
    """What the present policy meets in every world. Windows of different pipelines are different ones."""
    each, sets = -(-options.states // len(options.worlds)), list[Examples]()
    for place, world in enumerate(options.worlds):
        pool = pool_for(world)
        found = judged(pool, follow, options.judging, each, options.seed + number)
        sets.append(replace(found, window=found.window + place * pool.size))
    return joined(*sets)


def _round(progress: Taught, examples: Examples, validation: Validation, folder: Path) -> None:
    """A new ensemble on all that was judged so far, at its best margin; kept if it is the best so far."""
    options = progress.options
    layers = fit(examples, options.fit, options.seed)
    scored = [(margin, *validation.score(greedy(*layers, margin))) for margin in options.margins]
    margin, score, played = max(scored, key=lambda one: one[1].worth)
    progress.rounds.append(score)
    progress.curves.append(curve_of(score, played) | {"train/margin": margin, "train/states": float(len(examples.window))})
    if score.worth > progress.best.worth:
        progress.best, progress.margin = score, margin
        np.savez_compressed(folder / NETWORK, **named(*layers))  # type: ignore[arg-type]


def network_of(folder: Path) -> tuple[Layers, Layers]:
    """Weights and biases of the network that a training has kept."""
    with np.load(folder / NETWORK, allow_pickle=False) as file:
        return layers_in(file, np.float32)


def _load(path: Path) -> list[Examples]:
    with np.load(path, allow_pickle=False) as file:
        return [Examples(*(file[name] for name in Examples.__struct_fields__))]
