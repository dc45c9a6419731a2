"""What is installed without the repository has all that it needs: the links in `loki_rl` are folders then."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds the package as a wheel lays it out."""
    site = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "loki_rl", site / "loki_rl", ignore=shutil.ignore_patterns("__pycache__"))
    assert not any(path.is_symlink() for path in site.rglob("*"))
    return site


def called(installed: Path, folder: Path, *words: str) -> str:
    """What a command prints that is called in an empty folder. Machine code is that of the sources, which are the same."""
    done = subprocess.run(
        [sys.executable, "-m", "loki_rl", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(installed), "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_pipelines_pools_and_traces_that_ship_are_found(installed: Path, tmp_path: Path) -> None:
    find = "from loki_rl.files.config import find_file, find_pipeline; print(find_pipeline('reading'), find_file('three-types', 'pipelines/pools', 'pool'))"
    done = subprocess.run(
        [sys.executable, "-c", find], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(installed)}, capture_output=True, text=True, check=True
    )  # fmt: skip
    assert [str(Path(one).relative_to(installed)) for one in done.stdout.split()] == [
        "loki_rl/pipelines/reading.yaml",
        "loki_rl/pipelines/pools/three-types.yaml",
    ]
    assert "accuracy" in called(
        installed, tmp_path, "plan", "social", "--demand", "100", "--pool", "three-types", "--solver", "pulp"
    )
    assert "peak" in called(installed, tmp_path, "trace", "stats", "azure_llm_code_2023")
