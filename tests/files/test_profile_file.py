"""Profile files: what a pipeline takes from one, and what a missing or wrong one is told."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from loki_rl.core.pipeline import Latency
from loki_rl.files.config import ConfigError, load_pipeline
from loki_rl.files.profile_file import Capacity, Fanout, Load, PathAccuracy, ProfileFile, StageAccuracy, Timing

TEXT = """\
name: small
slo_ms: 100
provenance: measured
profile: small.json
repository: repo
tasks:
  find:
    adapter: some.module:Finder
    variants:
      f1: {model: finder, options: {height: 32}}
  read:
    parent: find
    adapter: some.module:Reader
    variants:
      r1: {model: reader, accuracy: 0.7}
      r2: {model: reader}
"""

PROFILE = ProfileFile(
    device="cpu",
    provider="CPUExecutionProvider",
    ort_version="1.22",
    padded=False,
    as_served=True,
    created="2026-01-01T00:00:00+00:00",
    command="loki-rl profile small",
    provenance="250 scenes",
    variants=(
        Timing("find", "f1", 1, 10, 12, 15),
        Timing("find", "f1", 2, 18, 20, 22),
        Timing("read", "r1", 1, 2, 2, 2),
        Timing("read", "r2", 1, 4, 4, 5),
    ),
    loads=(Load("find", "f1", 0.5, 80), Load("read", "r1", 0.1, 20), Load("read", "r2", 0.2, 30)),
    accuracies=(StageAccuracy("find", "f1", 0.8), StageAccuracy("read", "r1", 0.6), StageAccuracy("read", "r2", 0.9)),
    fanouts=(Fanout("find", "f1", "read", 4.5),),
    paths=(PathAccuracy(("f1", "r2"), 0.75), PathAccuracy(("gone", "r2"), 0.1)),
    capacity=Capacity(servers=2, most_accurate_rps=12.5, cheapest_rps=60.0),
)


def _write(folder: Path, profile: ProfileFile | None = PROFILE, text: str = TEXT) -> Path:
    (folder / "small.yaml").write_text(text, encoding="utf-8")
    if profile is not None:
        profile.save(folder / "small.json")
    return folder / "small.yaml"


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    PROFILE.save(tmp_path / "new" / "p.json")
    assert ProfileFile.load(tmp_path / "new" / "p.json") == PROFILE
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["p.json"]


def test_a_pipeline_takes_its_figures_from_the_profile(tmp_path: Path) -> None:
    file = load_pipeline(_write(tmp_path))
    pipeline, finder = file.pipeline, file.pipeline.variant("find", "f1")
    assert finder.latency == {1: Latency(0.01, 0.012, 0.015), 2: Latency(0.018, 0.02, 0.022)}
    assert (finder.accuracy, finder.fanout, finder.load_s, finder.memory_mb) == (0.8, {"read": 4.5}, 0.5, 80)
    assert not pipeline.padded
    assert pipeline.path_accuracy == {("f1", "r2"): 0.75}
    assert file.measured == PROFILE
    assert file.models["find", "f1"] == msgspec.convert(
        {"model": "finder", "adapter": "some.module:Finder", "options": {"height": 32}}, type(file.models["find", "f1"])
    )
    assert file.repository == tmp_path / "repo"


def test_a_figure_in_the_pipeline_file_counts(tmp_path: Path) -> None:
    assert load_pipeline(_write(tmp_path)).pipeline.variant("read", "r1").accuracy == 0.7


def test_another_profile_can_be_given(tmp_path: Path) -> None:
    path = _write(tmp_path, None)
    replace(PROFILE, padded=True).save(tmp_path / "gpu.json")
    assert load_pipeline(path, profile=tmp_path / "gpu.json").pipeline.padded


def test_without_a_profile_the_models_are_known_and_the_figures_are_not(tmp_path: Path) -> None:
    path = _write(tmp_path, None)
    with pytest.raises(ConfigError, match=rf"small\.json does not exist; run 'loki-rl profile {path}'"):
        load_pipeline(path)
    file = load_pipeline(path, need_profile=False)
    assert set(file.models) == {("find", "f1"), ("read", "r1"), ("read", "r2")}
    assert file.tree[1].parent == "find"
    with pytest.raises(ConfigError, match=f"run 'loki-rl profile {path}'"):
        _ = file.pipeline


def test_a_file_that_names_no_profile_yet_can_be_profiled(tmp_path: Path) -> None:
    file = load_pipeline(_write(tmp_path, None, TEXT.replace("profile: small.json\n", "")), need_profile=False)
    assert file.known is None
    assert file.profile is None


@pytest.mark.parametrize(
    ("profile", "what"),
    [
        (replace(PROFILE, variants=PROFILE.variants[:3]), "task 'read', variant 'r2': latency_ms"),
        (replace(PROFILE, loads=PROFILE.loads[:2]), "task 'read', variant 'r2': load_s"),
    ],
)
def test_a_profile_that_lacks_a_time_must_be_measured_again(tmp_path: Path, profile: ProfileFile, what: str) -> None:
    path = _write(tmp_path, profile)
    with pytest.raises(ConfigError, match=rf"{what} is neither here nor in .*; run 'loki-rl profile {path}'"):
        load_pipeline(path)


@pytest.mark.parametrize(
    ("profile", "what"),
    [
        (replace(PROFILE, fanouts=()), "task 'find', variant 'f1': fanout to 'read'"),
        (replace(PROFILE, accuracies=()), "task 'find', variant 'f1': accuracy"),
    ],
)
def test_what_only_labelled_data_tell_is_written_down_or_measured_on_them(
    tmp_path: Path, profile: ProfileFile, what: str
) -> None:
    path = _write(tmp_path, profile)
    told = rf"{what} is neither here nor in .*; write it there, or measure .* 'loki-rl profile {path} --data FOLDER --scorer"
    with pytest.raises(ConfigError, match=told):
        load_pipeline(path)
    drawn = _write(tmp_path, profile, "workload: mine:Made\n" + TEXT)
    with pytest.raises(ConfigError, match=rf"{what} is neither here nor in .*; run 'loki-rl profile {path}'"):
        load_pipeline(drawn)


def test_a_command_is_told_of_a_file_that_ships_by_its_name() -> None:
    assert load_pipeline("reading", need_profile=False).argument == "reading"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"device"', '"devise"', r"unknown key 'devise'; did you mean 'device'\?"),
        ('"p50_ms"', '"p50ms"', r"at 'variants\[0\]': unknown key 'p50ms'; did you mean 'p50_ms'\?"),
        ('"padded": false', '"padded": "no"', r"at 'padded': expected true or false, got text"),
        ('"batch": 1', '"batch": 0', r"at 'variants\[0\]\.batch': expected a whole number >= 1"),
        ('"accuracy": 0.8', '"accuracy": 8', r"expected a number <= 1"),
        ('"most_accurate_rps": 12.5', '"most_accurate_rps": 0', r"at 'capacity\.most_accurate_rps': expected a number > 0"),
        ('"cheapest_rps"', '"cheap_rps"', r"at 'capacity': unknown key 'cheap_rps'; did you mean 'cheapest_rps'\?"),
        ("}", "", r"small\.json: .*measure it again with 'loki-rl profile'"),
    ],
)
def test_a_wrong_profile_is_told_what_and_where(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = _write(tmp_path)
    text = (tmp_path / "small.json").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "small.json").write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        load_pipeline(path)
    assert "small.json" in str(caught.value)


def test_a_model_and_its_adapter_go_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"task 'read', variant 'r2': the key 'model' is missing"):
        load_pipeline(_write(tmp_path, text=TEXT.replace("r2: {model: reader}", "r2: {}")))
    with pytest.raises(ConfigError, match=r"task 'find': adapter 'Finder' must have the form module:Class"):
        load_pipeline(_write(tmp_path, text=TEXT.replace("some.module:Finder", "Finder")))
