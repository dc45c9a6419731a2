"""Files that somebody replaces while a process lives: keys and certificates are renewed without a restart."""

from __future__ import annotations

from collections.abc import Iterable
from errno import EFBIG, EINVAL
from pathlib import Path

# Of keys or certificates.
MOST_BYTES = 1 << 20
Sign = tuple[int, int, int]


class Watched:
    """By what the system says of each: a replaced file, one written over and a link turned elsewhere all show."""

    def __init__(self, paths: Iterable[str | Path]) -> None:
        self._paths = [Path(path) for path in paths]
        self._seen = self._signs()

    def changed(self) -> bool:
        """Whether any differs from what it was when this was asked before."""
        signs = self._signs()
        changed, self._seen = signs != self._seen, signs
        return changed

    def _signs(self) -> list[Sign | None]:
        return [sign(path) for path in self._paths]


def content(path: Path) -> bytes:
    """Of a file that is to be read again: a pipe says what it has once, and a device has no end. Raises OSError whose
    strerror says what is wrong."""
    if path.exists() and not path.is_file():
        raise OSError(EINVAL, "it is no regular file; name one")
    with path.open("rb") as file:
        found = file.read(MOST_BYTES + 1)
    if len(found) > MOST_BYTES:
        raise OSError(EFBIG, "it is larger than any that is meant; name the file that is")
    return found


def sign(path: Path) -> Sign | None:
    """What the system says of a file, which changes with it; None where it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
