"""One small training for all these tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from loki_rl.agents.export import export
from loki_rl.agents.train.training import BEST, Progress, TrainOptions, train
from loki_rl.control.learned.agent import NumpyAgent
from loki_rl.env.gym.cluster_options import ClusterEnvOptions

TINY = TrainOptions(
    env=ClusterEnvOptions(pipeline="one-task", intervals=10, windows=8),
    steps=1280, envs=16, rollout=20, evaluate_every=640, validation=4,
)  # fmt: skip


class Trained:
    """What a training left behind."""

    def __init__(self, folder: Path) -> None:
        self.options, self.folder = TINY, folder
        self.progress: Progress = train(TINY, folder)
        self.agent: NumpyAgent = export(TINY, self.progress, folder / BEST, folder)


@pytest.fixture(scope="session")
def tiny() -> TrainOptions:
    return TINY


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("train"))
