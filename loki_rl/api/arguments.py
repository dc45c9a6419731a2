"""What callers hand over, made what files and flags would have said, and checked like them: notebooks have numbers of numpy,
and paths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
from msgspec import Struct

from loki_rl.errors import UserError
from loki_rl.files.tables import table
from loki_rl.files.user_folders import writable

T = TypeVar("T", bound=Struct)


class ArgumentError(UserError):
    """An argument is not of a kind that can be meant; the message says which, and what it should be."""


def plain(value: object) -> object:
    """A number of numpy as one of Python's, a path as text, anything else as it is."""
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, Path) else value


def checked(given: Mapping[str, object], kind: type[T], where: str) -> T:
    """The arguments of a function, `where`, as this Struct has them. Raises ConfigError that names the one at fault."""
    return table({name: plain(value) for name, value in given.items()}, kind, where)


def listed(values: object) -> object:
    """One value or several, as a list; what is neither text nor several stays what it is."""
    if isinstance(values, (str, Path)):
        return [plain(values)]
    return [plain(value) for value in values] if isinstance(values, Iterable) else values


def path(value: object, where: str) -> Path:
    """Of a file or folder. Raises ArgumentError."""
    if not isinstance(value, (str, Path)):
        raise ArgumentError(f"{where}: expected a path, got {type(value).__name__}")
    return Path(value)


def folder(value: object, where: str) -> Path:
    """One that can be written to, made if need be. Raises ArgumentError or FolderError."""
    found = path(value, where)
    writable(found)
    return found
