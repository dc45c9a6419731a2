"""Every example runs as it stands, in a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
# What notebooks show need not be installed.
SHOWN = ("pandas", "matplotlib")


def typed(code: list[str], folder: Path) -> str:
    """What a Python of its own says. It finds the package where the tests do."""
    done = subprocess.run(
        [sys.executable, "-W", "error::FutureWarning", *code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(EXAMPLES.parent)},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("plan_servers.py", "accuracy mode at 300/s"),
        ("compare_policies.py", "hardware"),
        ("own_policy.py", "twice: violations"),
        ("environment.py", "saved against the base"),
        ("ask_a_plane.py", "'ok': "),
    ],
)
def test_a_script_runs_and_says_what_it_is_for(name: str, says: str, tmp_path: Path) -> None:
    assert says in typed([str(EXAMPLES / name)], tmp_path)


@pytest.mark.parametrize("name", ["plan.ipynb", "simulate.ipynb"])
def test_the_cells_of_a_notebook_run_and_the_last_line_of_each_shows_something(name: str, tmp_path: Path) -> None:
    for module in SHOWN:
        pytest.importorskip(module)
    cells = json.loads((EXAMPLES / name).read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] for cell in cells if cell["cell_type"] == "code"), "a notebook is kept without answers"
    script = tmp_path / "cells.py"
    script.write_text("\n".join(_shown(cell) for cell in code), encoding="utf-8")
    assert len(typed([str(script)], tmp_path).splitlines()) >= len(code)


def _shown(cell: str) -> str:
    """As a notebook does it: what the last line is worth is shown."""
    *lines, last = cell.splitlines()
    return "\n".join([*lines, f"print(repr({last}))"])


def test_every_example_is_tried() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert all(path.name in source for path in EXAMPLES.iterdir() if path.suffix in {".py", ".ipynb"})
