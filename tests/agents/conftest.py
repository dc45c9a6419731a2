"""One small training of each learner for all these tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from loki_rl.agents.evaluate.counterfactuals import Judging
from loki_rl.agents.export import Trained, export
from loki_rl.agents.train.fine_tuning import TrainOptions, Tuned, actor_of, fine_tune
from loki_rl.agents.train.regression import FitOptions
from loki_rl.agents.train.teacher import Taught, TeachOptions, network_of, teach
from loki_rl.control.learned.agent import NumpyAgent
from loki_rl.env.gym.cluster_options import ClusterEnvOptions

TINY = TeachOptions(
    env=ClusterEnvOptions(pipeline="one-task", intervals=30, windows=8),
    rounds=2, states=40, validation=4, judging=Judging(hold=3, ahead=8, tried=3), fit=FitOptions(members=2, epochs=3),
)  # fmt: skip
TUNING = TrainOptions(teach=TINY, steps=1280, envs=16, rollout=20, evaluate_every=640)


class Learned:
    """What the teacher left behind."""

    def __init__(self, folder: Path) -> None:
        self.options, self.folder = TINY, folder
        self.progress: Taught = teach(TINY, folder)
        best = self.progress.best
        trained = Trained("learned", TINY, TINY, *network_of(folder), self.progress.margin, best, str(best))
        self.agent: NumpyAgent = export(trained, folder)


class FineTuned:
    """What PPO left behind; the model that was trained last is exported, whatever it is worth."""

    def __init__(self, teacher: Learned, folder: Path) -> None:
        from sb3_contrib import MaskablePPO

        from loki_rl.agents.train.fine_tuning import LATEST

        self.options, self.folder = TUNING, folder
        self.progress: Tuned = fine_tune(TUNING, teacher.progress, teacher.folder, folder)
        self.model = MaskablePPO.load(folder / LATEST, device="cpu")
        score = self.progress.history[-1][1]
        self.agent: NumpyAgent = export(Trained("ppo", TINY, TUNING, *actor_of(self.model), 0.0, score, str(score)), folder)


@pytest.fixture(scope="session")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    return Learned(tmp_path_factory.mktemp("learned"))


@pytest.fixture(scope="session")
def tuned(learned: Learned, tmp_path_factory: pytest.TempPathFactory) -> FineTuned:
    return FineTuned(learned, tmp_path_factory.mktemp("ppo"))
