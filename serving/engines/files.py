"""The model repository on disk: MODEL/1/model.onnx, as Triton lays it out, and whole files only."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from loki_rl.errors import UserError

# Beside the models: what they were made of, and what was made of them.
CACHE = ".cache"


class ModelError(UserError):
    """Models or fonts are missing, damaged or cannot be had; the message is one sentence on what to do."""


class NoModelError(ModelError):
    """A model is not where it should lie; the sentence says where."""


def model_path(repository: Path, model: str) -> Path:
    return repository / model / "1" / "model.onnx"


def digest(path: Path) -> str | None:
    """sha256 of a file in hex, None if there is none."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file in one step: whoever reads it sees the old content or the new one, also after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
