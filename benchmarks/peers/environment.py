"""A virtual environment for each peer, made from PyPI once and kept. Owns the folder build/peers/NAME/venv; must never
touch the project's own environment."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import onnxruntime

from loki_rl.errors import UserError

# What the adapters of *reading* import, and the same ONNX Runtime as here, in every peer's environment.
COMMON = (f"onnxruntime=={onnxruntime.__version__}", "msgspec>=0.21", "Pillow>=11.0,<14", "scipy>=1.14,<2")


class PeerError(UserError):
    """A peer cannot be set up, started or measured; the message says which and why."""


def environment(folder: Path, name: str, requirements: Sequence[str]) -> Path:
    """The Python of a peer's environment, which is made if it is not there or was made of other requirements. Raises
    PeerError, with what pip said last, if that fails."""
    python, made_of = folder / "venv" / "bin" / "python", folder / "requirements.txt"
    wanted = "".join(f"{requirement}\n" for requirement in (*requirements, *COMMON))
    if python.exists() and made_of.exists() and made_of.read_text() == wanted:
        return python.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{name}: installing {' '.join(requirements)} into {folder}", flush=True)
    _call(name, [sys.executable, "-m", "venv", str(folder / "venv")])
    _call(name, [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted.split("\n")[:-1]])
    made_of.write_text(wanted)
    return python.absolute()


def versions(python: Path) -> dict[str, str]:
    """What is installed there."""
    command = [str(python), "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"]
    rows = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return dict(row.split("==") for row in rows if row.count("==") == 1)


def _call(name: str, command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise PeerError(f"the environment of '{name}' could not be made: {last}")
