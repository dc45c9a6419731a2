"""Histories as files: JSON, read strictly, replaced in one step."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from loki_rl.control.demand.history import VERSION, History
from loki_rl.errors import UserError

# Of a history: some 20 kB.
LARGEST = 1 << 20


class HistoryError(UserError):
    """A history cannot be read or written; the message is one sentence: which, why, what to do."""


class _Head(Struct):
    version: int


def read_history(path: Path) -> History:
    """Raises HistoryError."""
    try:
        with path.open("rb") as stream:
            data = stream.read(LARGEST + 1)
    except FileNotFoundError:
        raise HistoryError(f"there is no history {path}; make it with 'loki-rl history fit', or by serving") from None
    except OSError as error:
        raise HistoryError(f"the history {path} cannot be read ({error.strerror}); check the path") from error
    remedy = "name another file, or remove it to begin anew"
    try:
        if len(data) > LARGEST:
            raise ValueError(f"it is longer than {LARGEST} bytes")
        if (version := msgspec.json.decode(data, type=_Head).version) != VERSION:
            raise ValueError(f"it is of version {version}, this program reads {VERSION}")
        return msgspec.json.decode(data, type=History)
    except (ValueError, RecursionError) as error:  # also msgspec's
        raise HistoryError(f"{path} is no history of demand: {str(error).replace('`', '')}; {remedy}") from error


def write_history(path: Path, history: History) -> None:
    """A reader finds the former one or this one. Raises HistoryError."""
    try:
        replace_file(path, msgspec.json.encode(history))
    except OSError as error:
        raise HistoryError(f"the history {path} cannot be written ({error.strerror}); name a file elsewhere") from error


def replace_file(path: Path, data: bytes) -> None:
    """Raises OSError."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_bytes(data)
    fresh.replace(path)
