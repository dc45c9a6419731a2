"""What is installed without the repository has all that it needs: the links in `loki_rl` are folders then."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds the package as a wheel lays it out."""
    site = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "loki_rl", site / "loki_rl", ignore=shutil.ignore_patterns("__pycache__"))
    assert not any(path.is_symlink() for path in site.rglob("*"))
    return site


def printed(installed: Path, folder: Path, *words: str) -> str:
    """What the interpreter prints that is called in an empty folder. Machine code would be that of the sources anew."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(installed), "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


FIND = """
from loki_rl.files.config import find_file, find_pipeline
print(find_pipeline("reading"), find_file("three-types", "pipelines/pools", "pool"))
"""


def test_the_pipelines_and_pools_that_ship_are_those_of_the_package(installed: Path, tmp_path: Path) -> None:
    found = printed(installed, tmp_path, "-c", FIND).split()
    assert [str(Path(one).relative_to(installed)) for one in found] == [
        "loki_rl/pipelines/reading.yaml",
        "loki_rl/pipelines/pools/three-types.yaml",
    ]


def test_commands_find_what_ships_by_its_name(installed: Path, tmp_path: Path) -> None:
    planned = ("plan", "social", "--demand", "100", "--pool", "three-types", "--solver", "pulp")
    assert "accuracy" in printed(installed, tmp_path, "-m", "loki_rl", *planned)
    assert "peak" in printed(installed, tmp_path, "-m", "loki_rl", "trace", "stats", "azure_llm_code_2023")


def called(text: str, needs: dict[str, list[str]]) -> set[str]:
    """The targets that make is called with, by itself or for several side by side, and what they need."""
    calls = re.findall(r"^(?:make|beside)((?: +[\w-]+(?![\w=-]))+)", text, re.MULTILINE)
    found, left = set[str](), [target for call in calls for target in call.split()]
    while left:
        target = left.pop()
        found.add(target)
        left += needs.get(target, [])
    return found


def test_ci_calls_targets_that_there_are() -> None:
    """Of the Makefile, in .ci/run and in the workflow; only parity, which needs a quiet machine, and the newest Python, on
    which the workflow tests everything, are not in both."""
    rules = re.findall(r"^([\w-]+):([^#\n]*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    needs = {target: re.findall(r"(?<!\S)[\w-]+", after) for target, after in rules}
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"].values()
    steps = "\n".join(step.get("run", "") for job in jobs for step in job["steps"])
    local, hosted = (called(text, needs) for text in ((ROOT / ".ci" / "run").read_text(), steps))
    assert local | hosted <= needs.keys()
    assert {"lint", "test", "fuzz", "test-docs"} <= local
    assert local - hosted == {"parity", "test-newest"}
