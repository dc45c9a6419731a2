"""Where a training stands, in its folder. Owns that a folder goes on with its own training only."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from loki_rl.errors import UserError

STATE = "state.json"
Progress = TypeVar("Progress", bound=msgspec.Struct)


class OtherTrainingError(UserError):
    """The folder holds the checkpoints of a training with other options; the message says which and what to do."""


def resumed(folder: Path, fresh: Progress, growing: tuple[str, ...]) -> Progress:
    """The progress in a folder, or the fresh one. growing: options that a later call may change. Raises
    OtherTrainingError."""
    path, options = folder / STATE, getattr(fresh, "options")  # noqa: B009  (every progress has them)
    if not path.is_file():
        return fresh
    try:
        found: Any = msgspec.json.decode(path.read_bytes(), type=type(fresh))
    except msgspec.DecodeError as error:
        message = f"{path} is not of this version ({error}); choose another --out or remove its folder"
        raise OtherTrainingError(message) from None
    if replace(found.options, **{name: getattr(options, name) for name in growing}) != options:
        raise OtherTrainingError(f"{folder} holds a training with other options; choose another --out or remove it")
    return replace(found, options=options)  # type: ignore[no-any-return]


def keep(folder: Path, progress: msgspec.Struct) -> None:
    """All at once, or not at all."""
    path = folder / STATE
    new = path.with_suffix(".new")
    new.write_bytes(msgspec.json.encode(progress))
    new.replace(path)
