"""What is typed to set a plane beside the twin, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loki_rl.runs.options import RunOptions
from tests.fidelity.conftest import write_run

Call = Callable[..., Any]


@pytest.fixture
def run(small: Path, crowd: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return write_run(RunOptions(str(small), str(crowd), "exact", "emulated", interval_s=1.0), folder)


def test_it_says_how_far_they_are_apart(call: Call, run: Path, tmp_path: Path) -> None:
    said = call("fidelity", run, "--plays", 2, "--bar-p99", 100, "--logdir", tmp_path / "out", "--json")
    assert said.code == 0
    assert (said.json["driver"], said.json["policy"], said.json["plays"]) == ("emulated", "exact", 2)
    figures = {one["name"]: one for one in said.json["figures"]}
    assert figures["p99"]["bar"] == 100
    assert figures["violations"]["low"] <= figures["violations"]["difference"] <= figures["violations"]["high"]
    assert (tmp_path / "out" / "fidelity.html").exists()
    shown = call("fidelity", run, "--plays", 1).out
    assert "emulated workers beside the twin" in shown
    assert "violations" in shown


def test_what_is_no_recording_is_one_sentence(call: Call, tmp_path: Path) -> None:
    (tmp_path / "flight").write_bytes(b"nothing")
    assert "not a recording" in call("fidelity", tmp_path).sentence
    assert "cannot be read" in call("fidelity", tmp_path / "nowhere").sentence
