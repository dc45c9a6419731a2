"""A run is made again when anything it was made of is another: every input file, the code, what is shipped."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from loki_rl.errors import UserError
from loki_rl.runs import fingerprint as module
from loki_rl.runs.fingerprint import fingerprint
from loki_rl.runs.options import RunOptions
from loki_rl.runs.run_folder import load_current, save
from loki_rl.serving.engines.files import model_path

PROFILE = Path(__file__).resolve().parents[2] / "pipelines" / "profiles" / "reading.cpu.json"
POOL = "types: {own: {count: 4, profile: own.json}}\n"


def changed(file: Path) -> None:
    """The same but for its last character, a space or a comment."""
    with file.open("ab") as data:
        data.write(b"\n")


@pytest.fixture
def reading(tmp_path: Path, crowd: Path) -> RunOptions:
    """Options that name a file of every kind."""
    shutil.copytree(PROFILE.parents[1], tmp_path / "pipelines")
    for name in ("trace.csv", "agent.npz", "history.json", "here.json", "other.json", "own.json"):
        shutil.copy(crowd if name.endswith("csv") else PROFILE, tmp_path / name)
    (tmp_path / "pool.yaml").write_text(POOL)
    return RunOptions(
        str(tmp_path / "pipelines" / "reading.yaml"), str(tmp_path / "trace.csv"), "ppo", pool=str(tmp_path / "pool.yaml"),
        model=str(tmp_path / "agent.npz"), history=str(tmp_path / "history.json"),
        calibration=str(tmp_path / "here.json"),
    )  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        "pipelines/reading.yaml",
        "pipelines/profiles/reading.cpu.json",
        "trace.csv",
        "pool.yaml",
        "own.json",
        "agent.npz",
        "history.json",
        "here.json",
    ],
)
def test_every_input_counts_by_its_content(reading: RunOptions, tmp_path: Path, name: str) -> None:
    before = fingerprint(reading)
    assert fingerprint(reading) == before
    changed(tmp_path / name)
    assert fingerprint(reading) != before


def test_another_profile_counts_in_place_of_the_named_one(reading: RunOptions, tmp_path: Path) -> None:
    options = replace(reading, profile=str(tmp_path / "other.json"))
    before = fingerprint(options)
    changed(tmp_path / "pipelines/profiles/reading.cpu.json")
    assert fingerprint(options) == before
    changed(tmp_path / "other.json")
    assert fingerprint(options) != before


def test_models_count_where_they_run(reading: RunOptions, tmp_path: Path) -> None:
    text = Path(reading.pipeline).read_text()
    models = tmp_path / "models"
    Path(reading.pipeline).write_text(text + f"repository: {models}\n")
    for spec in reading.file.models.values():
        model_path(models, spec.model).parent.mkdir(parents=True, exist_ok=True)
        model_path(models, spec.model).write_bytes(b"a model")
    twin, plane = reading, replace(reading, driver="onnx")
    before = fingerprint(twin), fingerprint(plane)
    changed(model_path(models, next(iter(reading.file.models.values())).model))
    assert fingerprint(twin) == before[0]
    assert fingerprint(plane) != before[1]


def copied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The package as a copy whose files may be changed; links stay links, as in a checkout."""
    root, ignored = module.PACKAGE.parent, shutil.ignore_patterns("__pycache__", "*.pyc")
    for part in ("loki_rl", "env", "serving", "agents", "traces"):
        if (root / part).is_dir():
            shutil.copytree(root / part, tmp_path / "copy" / part, symlinks=True, ignore=ignored)
    monkeypatch.setattr(module, "PACKAGE", tmp_path / "copy" / "loki_rl")
    return tmp_path / "copy" / "loki_rl"


@pytest.mark.parametrize(
    "name",
    [
        "core/router.py", "control/policies/named.py", "env/world.py", "serving/load/replay.py", "traces/arrivals.py",
        "agents/commands.py", "reading/models.py", "files/config.py", "runs/run.py", "errors.py",
        "control/demand/data/exceedance.npz",
    ],
)  # fmt: skip
def test_all_code_and_what_is_shipped_counts(
    run_options: RunOptions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    package = copied(monkeypatch, tmp_path)
    module._code.cache_clear()
    before = fingerprint(run_options)
    changed(package / name)
    module._code.cache_clear()
    try:
        assert fingerprint(run_options) != before
    finally:
        module._code.cache_clear()


def test_a_run_is_read_back_until_its_agent_is_another(make_result: Callable[..., Any], crowd: Path, tmp_path: Path) -> None:
    agent = tmp_path / "agent.npz"
    agent.write_bytes(b"one")
    done = make_result(policy="ppo", trace=str(crowd))
    done.options = replace(done.options, model=str(agent))
    done.trace = "crowd"
    folder = save(done, tmp_path)
    assert load_current(folder, done.options) is not None
    agent.write_bytes(b"two")
    assert load_current(folder, done.options) is None


def test_a_file_that_is_gone_is_said(reading: RunOptions, tmp_path: Path) -> None:
    (tmp_path / "own.json").unlink()
    with pytest.raises(UserError, match=r"own\.json does not exist"):
        fingerprint(reading)
