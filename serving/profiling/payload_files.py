"""Payloads in a folder, one a file: `.npy` holds an array, anything else is sent as the bytes that it has."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from loki_rl.errors import UserError
from loki_rl.serving.engines.adapter import Array

ARRAY = ".npy"


class PayloadsError(UserError):
    """There is nothing to send or to measure with; the message says why and what to do."""


def read_payloads(folder: Path, flag: str) -> dict[str, Array]:
    """Name of each file and what is in it, in order of the names. flag: what named the folder. Raises PayloadsError."""
    files = sorted(path for path in folder.glob("*") if path.is_file()) if folder.is_dir() else []
    if not files:
        raise PayloadsError(f"{flag} {folder} is not a folder with files in it")
    return {path.name: _read(path) for path in files}


def _read(path: Path) -> Array:
    try:
        if path.suffix != ARRAY:
            return np.frombuffer(path.read_bytes(), np.uint8)
        # Without pickles: a payload must not run code.
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, EOFError) as error:
        raise PayloadsError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except ValueError:
        raise PayloadsError(f"{path} is not an array as numpy.save writes one") from None
