"""Folders of the user, outside the installed package: models, measured profiles, downloads."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path, user_data_path

APP = "loki-rl"
MODELS_VARIABLE = "LOKI_MODELS"


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
