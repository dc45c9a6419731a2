"""Run directories are private, and those of dead launchers go away while live ones stay."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from loki_rl.serving import folder
from loki_rl.serving.folder import RunFolder, base_folder, sweep


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folder, "base_folder", lambda: tmp_path)
    return tmp_path


def test_a_run_folder_is_private_and_goes_with_what_is_in_it(base: Path) -> None:
    made = RunFolder()
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o700
    (made.path / "gateway.0").touch()
    made.close()
    made.close()
    assert not list(base.iterdir())


def test_a_sweep_takes_what_dead_launchers_left_and_nothing_else(base: Path) -> None:
    alive = RunFolder()
    for name in ("loki-dead", "loki-new", "loki-mine", "other"):
        (base / name).mkdir()
    for name in ("loki-dead", "other"):
        (base / name / "lock").write_bytes(folder.MARK)
    (base / "loki-mine" / "lock").touch()
    (base / "loki-mine" / "data.txt").touch()
    (base / "loki-link").symlink_to(base / "loki-mine")
    os.mkfifo(base / "loki-new" / "lock")
    sweep(base)
    kept = {alive.path.name, "loki-new", "loki-mine", "loki-link", "other"}
    assert {entry.name for entry in base.iterdir()} == kept
    assert (base / "loki-mine" / "data.txt").exists()
    alive.close()


def test_the_base_is_the_users_own_unless_its_path_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/tmp")
    monkeypatch.setattr(folder, "MAX_BASE", len(str(tmp_path)))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert base_folder() == tmp_path
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "much-longer"))
    assert base_folder() == Path("/tmp")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert base_folder() == Path("/tmp")
