"""Whose figures count is said by every command that plans, and a measurement leaves what is shipped as it is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loki_rl.files.config import PACKAGED, load_pipeline
from loki_rl.files.user_folders import profiles_folder
from loki_rl.runs.fingerprint import fingerprint
from loki_rl.runs.options import RunOptions
from loki_rl.serving.engines.files import model_path, write_whole

Call = Callable[..., Any]
SHIPPED = PACKAGED / "profiles" / "reading.cpu.json"
COMMANDS = (
    "plan reading --demand 2",
    "capacity reading",
    "simulate reading --policy static --mean-rps 1 --to-s 2",
    "compare reading --policies static --mean-rps 1 --to-s 2",
    "serve reading --engine emulated --policy none-such",
    "evaluate reading --model absent.npz",
)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Of a user who measured what is shipped."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    file = profiles_folder() / SHIPPED.name
    file.parent.mkdir(parents=True)
    shutil.copy(SHIPPED, file)
    return file


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("line", COMMANDS)
def test_own_figures_are_told_until_they_are_deleted(call: Call, own: Path, line: str) -> None:
    told = f"reading: with the figures of {own}, which you measured; delete that file"
    assert told in call(*line.split()).err
    own.unlink()
    assert "which you measured" not in call(*line.split()).err


def test_the_doctor_names_them(call: Call, own: Path) -> None:
    (found,) = (one for one in call("doctor", "--json").json["findings"] if one["what"] == "own profiles")
    assert own.name in found["found"]
    own.unlink()
    (found,) = (one for one in call("doctor", "--json").json["findings"] if one["what"] == "own profiles")
    assert f"none in {own.parent}" in found["found"]


def test_runs_with_own_figures_are_other_runs(own: Path) -> None:
    options = RunOptions("reading")
    same = fingerprint(options)
    own.write_bytes(own.read_bytes() + b"\n")
    assert fingerprint(options) != same
    own.unlink()
    assert fingerprint(options) == same


NOWHERE = {"folder": "folder is a folder; name a file in it with --out", "file/x.json": "nothing can be written to"}


@pytest.mark.parametrize("out", NOWHERE)
def test_what_cannot_be_written_is_told_before_it_is_measured(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, out: str
) -> None:
    monkeypatch.setenv("LOKI_MODELS", str(tmp_path / "models"))
    for spec in load_pipeline("reading").models.values():
        write_whole(model_path(tmp_path / "models", spec.model), b"never opened")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    assert NOWHERE[out] in call("profile", "reading", "--out", tmp_path / out).sentence


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("command", ["profile", "serve", "compare --driver onnx", "simulate --driver onnx", "chaos"])
def test_a_device_that_is_none_is_told_before_anything_else(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    monkeypatch.setenv("LOKI_MODELS", str(tmp_path / "no-models"))
    name, *rest = command.split()
    said = call(name, "reading", *rest, "--device", "cdua:0")
    assert said.sentence.startswith("device 'cdua:0' is unknown; use auto, cpu")
