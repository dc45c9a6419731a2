"""Where models and profiles of the user lie, and that nothing is written into an installed package."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from loki_rl.cli.flags import UsageError
from loki_rl.cli.results import need_models
from loki_rl.files import config
from loki_rl.files.config import PipelineFile, load_pipeline
from loki_rl.files.user_folders import models_folder
from loki_rl.runs.options import RunOptions
from loki_rl.serving.engines.files import model_path, write_whole

SHIPPED = """\
name: tiny
slo_ms: 100
provenance: measured
profile: profiles/tiny.json
workload: loki_rl.reading.workload:RenderedScenes
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
    assert not before.in_place_of_shipped
    write_whole(mine, b"")
    assert loaded(shipped).profile == mine
    assert loaded(shipped).in_place_of_shipped
    mine.unlink()
    assert loaded(shipped) == before


def test_a_profile_of_ones_own_pipeline_lies_where_the_file_says(shipped: Path, tmp_path: Path) -> None:
    own = tmp_path / "tiny.yaml"
    own.write_text(shipped.read_text(encoding="utf-8"), encoding="utf-8")
    assert loaded(own).own_profile == loaded(own).profile == tmp_path / "profiles" / "tiny.json"
    assert not loaded(own).in_place_of_shipped


def test_a_checkout_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever package it is that runs there."""
    monkeypatch.setattr(config, "profiles_folder", lambda: tmp_path / "user")
    checkout = tmp_path / "checkout"
    shutil.copytree(config.PACKAGED.resolve(), checkout / "pipelines")
    (checkout / "loki_rl").mkdir()
    (checkout / "loki_rl" / "pipelines").symlink_to("../pipelines")
    for folder in (config.PACKAGED, checkout / "pipelines"):
        file = loaded(folder / "reading.yaml")
        assert (file.own_profile, file.profile) == (tmp_path / "user" / "reading.cpu.json", file.named_profile)
        assert not file.in_place_of_shipped


def test_pipelines_look_for_models_where_they_are_fetched_to(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert loaded(shipped).repository == models_folder()
    monkeypatch.setenv("LOKI_MODELS", str(tmp_path / "told"))
    assert loaded(shipped).repository == models_folder() == tmp_path / "told"
    with pytest.raises(UsageError, match=r"told/det/1/model.onnx; run 'loki-rl models fetch tiny'"):
        need_models(RunOptions(str(shipped)), "onnx")
    write_whole(model_path(tmp_path / "told", "det"), b"")
    need_models(RunOptions(str(shipped)), "onnx")
