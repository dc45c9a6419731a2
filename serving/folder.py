"""The run directory of a plane: sockets, logs and the plane's file, for nobody else to see."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO, cast

PREFIX = "loki-"
LOCK = "lock"
# In the lock file of every run directory: what else is called loki-something and holds a file named lock is somebody's own.
MARK = b"run directory of a loki-rl plane; removed with it\n"
PRIVATE_FOLDER, PRIVATE_FILE = 0o700, 0o600
# Where files live in memory.
SHARED = Path("/dev/shm")
# A socket's path may have 107 bytes; the longest name in the directory has to fit too.
MAX_BASE = 60


class RunFolder:
    """Mode 0700. The lock file is held while this process lives, so that a live directory can be told from a left one.
    Raises OSError."""

    def __init__(self, base: Path | None = None) -> None:
        base = base_folder() if base is None else base
        sweep(base)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        try:
            self._lock = claim(self.path)
        except OSError:
            shutil.rmtree(self.path, ignore_errors=True)
            raise

    def close(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def memory_folder() -> RunFolder | None:
    """One for tensors, where there is room in memory for them."""
    try:
        return RunFolder(SHARED)
    except OSError:
        return None


def claim(folder: Path) -> int:
    """Mark a folder as a run directory in use, until what this returns is closed. Raises OSError."""
    lock = os.open(folder / f"{LOCK}.new", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, PRIVATE_FILE)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.write(lock, MARK)
        # Seen under its name only once it is held: a sweep must never find it free.
        (folder / f"{LOCK}.new").rename(folder / LOCK)
    except OSError:
        os.close(lock)
        raise
    return lock


def private(file: Path, mode: str = "wb") -> BinaryIO:
    """Open a file, readable for nobody else if this makes it."""
    return cast(BinaryIO, open(file, mode, opener=lambda path, flags: os.open(path, flags, PRIVATE_FILE)))


def base_folder() -> Path:
    """The user's own run directory where there is one and its path is short enough."""
    for candidate in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir()):
        if candidate and len(os.fsencode(candidate)) <= MAX_BASE and os.access(candidate, os.W_OK):
            return Path(candidate)
    return Path("/tmp")


def sweep(base: Path) -> None:
    """Remove run directories of this user whose launcher is gone."""
    for folder in base.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.lstat().st_uid == os.getuid() and _left(folder / LOCK):
                shutil.rmtree(folder, ignore_errors=True)


def _left(lock: Path) -> bool:
    handle = os.open(lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if os.read(handle, len(MARK) + 1) != MARK:
            return False
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True
