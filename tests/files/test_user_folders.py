"""Where models and profiles of the user lie, and that nothing is written into an installed package."""

from __future__ import annotations

from pathlib import Path

import pytest

from loki_rl.cli.flags import UsageError
from loki_rl.cli.results import need_models
from loki_rl.files import config
from loki_rl.files.config import PipelineFile, load_pipeline
from loki_rl.files.user_folders import models_folder
from loki_rl.serving.engines.files import model_path, write_whole

SHIPPED = """\
name: tiny
slo_ms: 100
provenance: measured
profile: profiles/tiny.json
tasks:
  only:
    entry: 1
    adapter: loki_rl.reading.detection:TextDetection
    variants:
      one: {model: det, accuracy: 1, load_s: 1, latency_ms: {1: 5}}
"""


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pipeline in the folder of an installed package, and a user whose data folder is empty."""
    monkeypatch.setattr(config, "PACKAGED", tmp_path / "site-packages" / "pipelines")
    monkeypatch.setattr(config, "profiles_folder", lambda: tmp_path / "user" / "profiles")
    monkeypatch.chdir(tmp_path)
    path = config.PACKAGED / "tiny.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(SHIPPED, encoding="utf-8")
    return path


def loaded(path: Path) -> PipelineFile:
    return load_pipeline(path, need_profile=False)


def test_a_profile_of_a_shipped_pipeline_is_kept_by_the_user_and_then_counts(shipped: Path, tmp_path: Path) -> None:
    before, mine = loaded(shipped), tmp_path / "user" / "profiles" / "tiny.json"
    assert (before.profile, before.own_profile) == (shipped.parent / "profiles" / "tiny.json", mine)
    write_whole(mine, b"")
    assert loaded(shipped).profile == mine


def test_a_profile_of_ones_own_pipeline_lies_where_the_file_says(shipped: Path, tmp_path: Path) -> None:
    own = tmp_path / "tiny.yaml"
    own.write_text(shipped.read_text(encoding="utf-8"), encoding="utf-8")
    assert loaded(own).own_profile == loaded(own).profile == tmp_path / "profiles" / "tiny.json"


def test_in_a_checkout_profiles_lie_beside_the_pipelines() -> None:
    file = loaded(config.find_pipeline("reading"))
    assert file.own_profile == file.profile
    assert file.profile is not None
    assert file.profile.parent.parent == file.path.parent


def test_pipelines_look_for_models_where_they_are_fetched_to(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert loaded(shipped).repository == models_folder()
    monkeypatch.setenv("LOKI_MODELS", str(tmp_path / "told"))
    assert loaded(shipped).repository == models_folder() == tmp_path / "told"
    with pytest.raises(UsageError, match=r"told/det/1/model.onnx; run 'loki-rl models fetch reading'"):
        need_models(str(shipped), "onnx")
    write_whole(model_path(tmp_path / "told", "det"), b"")
    need_models(str(shipped), "onnx")
