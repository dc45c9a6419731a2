"""The real models, if they are fetched or can be. Owns fixtures only."""

from __future__ import annotations

from pathlib import Path

import pytest

from loki_rl.files.config import PipelineFile, load_pipeline
from loki_rl.files.user_folders import models_folder
from loki_rl.reading.models import fetch_reading, font_files
from loki_rl.serving.engines.files import ModelError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The user's model repository, fetched if need be."""
    try:
        fetch_reading(models_folder(), lambda *_: None)
    except ModelError as error:
        pytest.skip(f"the reading models are not there and cannot be fetched: {error}")
    return models_folder()


@pytest.fixture(scope="session")
def fonts(repository: Path) -> tuple[Path, ...]:
    return font_files(repository)


@pytest.fixture(scope="session")
def reading(repository: Path) -> PipelineFile:
    file = load_pipeline(ROOT / "pipelines" / "reading.yaml", need_profile=False)
    assert file.repository == repository
    return file
