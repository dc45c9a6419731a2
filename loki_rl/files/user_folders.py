"""Folders of the user, outside the installed package: models, measured profiles, downloads."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryFile

from platformdirs import user_cache_path, user_data_path

from loki_rl.errors import UserError

APP = "loki-rl"
MODELS_VARIABLE = "LOKI_MODELS"


class FolderError(UserError):
    """Nothing can be written to a folder; the message says why."""


def writable(folder: Path | None) -> None:
    """Make the folder, where one is named, if need be: it is better to know before a run than after it. Raises
    FolderError."""
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise FolderError(f"nothing can be written to {folder}: {error.strerror}; name another folder") from error


def models_folder() -> Path:
    """Where `loki-rl models fetch` puts models and pipelines look for them: $LOKI_MODELS, else in the user's data folder."""
    told = os.environ.get(MODELS_VARIABLE)
    return Path(told).expanduser() if told else user_data_path(APP, appauthor=False) / "models"


def profiles_folder() -> Path:
    """Profiles that this user measured of the pipelines that come with the package."""
    return user_data_path(APP, appauthor=False) / "profiles"


def downloads_folder() -> Path:
    """Packages as they were downloaded; may be deleted at any time."""
    return user_cache_path(APP, appauthor=False) / "downloads"
