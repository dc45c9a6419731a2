"""Trainings of several seeds, on this host and on a Ray cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("sb3_contrib", reason="training is not installed; run 'make learn'")

from loki_rl.cli.main import app

CALL = [
    "train", "one-task", "--states", "20", "--rounds", "1", "--windows", "4", "--validation", "2", "--intervals", "45",
    "--json", "--force",
]  # fmt: skip
FILES = ("agent.onnx", "card.md", "network.npz", "state.json")


def trained(*words: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*CALL, *words])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def contents(out: Path, seed: int) -> dict[str, bytes]:
    folder = out / f"seed{seed}" / "one-task" / "learned"
    return {name: (folder / name).read_bytes() for name in FILES}


def test_a_cluster_trains_what_this_host_does_bit_by_bit(ray_address: str, tmp_path: Path) -> None:
    here = trained("--seeds", "2", "--jobs", "1", "--out", str(tmp_path / "here"))
    there = trained("--seeds", "2", "--out", str(tmp_path / "there"), "--launcher", "ray", "--address", ray_address)
    for seed in range(2):
        assert contents(tmp_path / "here", seed) == contents(tmp_path / "there", seed)
    moved = json.loads(json.dumps(here).replace(str(tmp_path / "here"), str(tmp_path / "there")))
    assert there == moved
    assert Path(there["best"]).is_file()


def test_a_seed_that_is_there_already_is_not_trained_again(ray_address: str, tmp_path: Path) -> None:
    words = ("--out", str(tmp_path), "--launcher", "ray", "--address", ray_address)
    first = trained(*words)
    network = contents(tmp_path, 0)
    assert trained(*words) == first
    assert contents(tmp_path, 0) == network


def test_a_training_that_fails_is_one_sentence_and_does_not_stop_the_others(tmp_path: Path) -> None:
    trained("--seeds", "2", "--jobs", "1", "--out", str(tmp_path))
    done = CliRunner().invoke(
        app, [*CALL, "--seeds", "2", "--jobs", "1", "--out", str(tmp_path), "--states", "21", "--seed", "1"]
    )
    failed, made = json.loads(done.stdout)["seeds"]
    assert "holds a training with other options" in failed["failed"]
    assert made["seed"] == 2
    assert done.exit_code == 1
