"""The order of imports: the contracts hold, and a breach of each kind is caught and named."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
PARTS = ("loki_rl", "env", "serving", "agents", "traces", "pyproject.toml")
IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", "data")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the contracts speak of; the links inside the package stay links."""
    copy = tmp_path_factory.mktemp("tree")
    for part in PARTS:
        source = PROJECT / part
        if source.is_dir():
            shutil.copytree(source, copy / part, symlinks=True, ignore=IGNORED)
        else:
            shutil.copy(source, copy / part)
    assert (copy / "loki_rl" / "env").is_symlink()
    return copy


def lint(folder: Path) -> tuple[int, str]:
    """Exit status and output of import-linter, which must look at this folder and not at the installed project."""
    program = (
        "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports_command; lint_imports_command()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "--no-cache"], cwd=folder, check=False, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


def broken(output: str) -> set[str]:
    """Names of the contracts that are not kept."""
    return {line.partition(" BROKEN")[0] for line in output.splitlines() if " BROKEN" in line}


def test_the_contracts_hold(tree: Path) -> None:
    status, output = lint(tree)
    assert (status, broken(output)) == (0, set()), output
    assert "0 broken" in output


LAYERS = "Layers: manual > cli > agents > env | serving > control | traces > core"
PURE = "The core is pure: no clock, chance, socket, log or array library"
TWIN = "The twin needs no serving stack and no torch"
PLANE = "The serving plane needs no twin and no learning stack"
BESIDE = "Files and curves stand beside the core"
CORE_ROOMS = "Rooms of the core: routing > servers > requests"
CONTROL_ROOMS = "Rooms of control: policies > demand > allocator > formulation > solver"
TWIN_ROOMS = "Rooms of the twin: gym > fluid | simulate > disturbed > world"
PLANE_ROOMS = "Rooms of the plane: chaos > edge > process > gateway > engines > transport"
LEARNING_ROOMS = "Rooms of learning: train > evaluate"

BREACHES = [
    ("loki_rl/core/routing/queue.py", "import time", {PURE}, "loki_rl.core.routing.queue -> time"),
    ("loki_rl/core/draws.py", "import numpy", {PURE}, "loki_rl.core.draws -> numpy"),
    (
        "loki_rl/core/plan.py",
        "import loki_rl.control.allocator.allocate",
        {LAYERS},
        "loki_rl.core.plan -> loki_rl.control.allocator.allocate",
    ),
    (
        "env/world.py",
        "import loki_rl.serving.transport.wire",
        {TWIN, LAYERS},
        "loki_rl.env.world -> loki_rl.serving.transport.wire",
    ),
    (
        "serving/profiling/profile.py",
        "import loki_rl.reading.scenes",
        {LAYERS},
        "loki_rl.serving.profiling.profile -> loki_rl.reading.scenes",
    ),
    ("loki_rl/runs/run.py", "import loki_rl.paper.study", {LAYERS}, "loki_rl.runs.run -> loki_rl.paper.study"),
    ("env/kernel.py", "import torch", {TWIN}, "loki_rl.env.kernel -> torch"),
    (
        "serving/transport/wire.py",
        "import loki_rl.env.kernel",
        {PLANE, LAYERS},
        "loki_rl.serving.transport.wire -> loki_rl.env.kernel",
    ),
    ("serving/transport/driver.py", "import gymnasium", {PLANE}, "loki_rl.serving.transport.driver -> gymnasium"),
    ("traces/trace.py", "import loki_rl.env.kernel", {LAYERS}, "loki_rl.traces.trace -> loki_rl.env.kernel"),
    (
        "loki_rl/files/config.py",
        "import loki_rl.control.formulation.request",
        {BESIDE},
        "loki_rl.files.config -> loki_rl.control.formulation.request",
    ),
    (
        "loki_rl/core/servers/rollout.py",
        "import loki_rl.core.routing.queue",
        {CORE_ROOMS},
        "loki_rl.core.servers.rollout -> loki_rl.core.routing.queue",
    ),
    (
        "loki_rl/control/solver/simplex.py",
        "import loki_rl.control.formulation.network",
        {CONTROL_ROOMS},
        "loki_rl.control.solver.simplex -> loki_rl.control.formulation.network",
    ),
    ("env/world.py", "import loki_rl.env.simulate", {TWIN_ROOMS}, "loki_rl.env.world -> loki_rl.env.simulate"),
    (
        "serving/transport/wire.py",
        "import loki_rl.serving.gateway.client",
        {PLANE_ROOMS},
        "loki_rl.serving.transport.wire -> loki_rl.serving.gateway.client",
    ),
    (
        "agents/evaluate/rollouts.py",
        "import loki_rl.agents.train.teacher",
        {LEARNING_ROOMS},
        "loki_rl.agents.evaluate.rollouts -> loki_rl.agents.train.teacher",
    ),
]


@pytest.mark.parametrize(("path", "line", "contracts", "chain"), BREACHES, ids=[f"{b[0]}: {b[1]}" for b in BREACHES])
def test_a_breach_is_caught_and_named(tree: Path, path: str, line: str, contracts: set[str], chain: str) -> None:
    module = tree / path
    text = module.read_text(encoding="utf-8")
    try:
        module.write_text(f"{text}\n{line}\n", encoding="utf-8")
        status, output = lint(tree)
    finally:
        module.write_text(text, encoding="utf-8")
    assert status != 0
    assert contracts <= broken(output), output
    assert chain in " ".join(output.split()), output
