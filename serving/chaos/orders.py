"""What the nodes of a plane on trial should do wrong: one file in a folder that only they are told of."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

import msgspec
import numpy as np
from msgspec import Struct

from loki_rl.serving.engines.files import CACHE, write_whole
from loki_rl.serving.transport.wire import Array, Frame, pack

FILE = "orders.json"
Curse = Literal["hang", "abort"]
Spoilt = Literal["corrupt", "missing"]

HANG: Final = "hang"
ABORT: Final = "abort"
CURSES: tuple[Curse, ...] = (HANG, ABORT)
CORRUPT: Final = "corrupt"
MISSING: Final = "missing"


class Orders(Struct):
    """slow: node -> how many times as long its models take. withheld: pairs of nodes whose messages to each other wait.
    spoilt: 'task/variant' -> what is wrong with its file. cursed: digest of a payload -> what it does to whoever runs it."""

    slow: dict[str, float] = {}
    withheld: list[tuple[str, str]] = []
    spoilt: dict[str, Spoilt] = {}
    cursed: dict[str, Curse] = {}

    def write(self, site: Path) -> None:
        """Raises OSError."""
        write_whole(site / FILE, msgspec.json.encode(self))

    def curse(self, frames: Iterable[Frame]) -> Curse | None:
        """The first that is on one of these payloads."""
        return next((curse for frame in frames if (curse := self.cursed.get(digest(frame))) is not None), None)


class Standing:
    """The orders of a site as they are now. Its file is replaced, never written into."""

    def __init__(self, site: Path) -> None:
        self.site = site
        self._seen: tuple[int, int] | None = None
        self._orders = Orders()

    def orders(self) -> Orders:
        """A look at a file's time costs microseconds. One that cannot be read changes nothing."""
        with contextlib.suppress(OSError):
            found = (self.site / FILE).stat()
            if (found.st_ino, found.st_mtime_ns) != self._seen:
                self._orders = msgspec.json.decode((self.site / FILE).read_bytes(), type=Orders)
                self._seen = found.st_ino, found.st_mtime_ns
        return self._orders


def digest(frame: Frame) -> str:
    return hashlib.sha256(frame if isinstance(frame, bytes) else frame.buffer).hexdigest()


def cursed(payload: Array, curse: Curse) -> Array:
    """This payload but for one bit, so that it goes the way of all others up to the model."""
    copy = np.array(payload, order="C")
    copy.reshape(-1).view(np.uint8)[-1] ^= 1 + CURSES.index(curse)
    return copy


def curses(payload: Array) -> dict[Curse, Array]:
    return {curse: cursed(payload, curse) for curse in CURSES}


def digests(payloads: dict[Curse, Array]) -> dict[str, Curse]:
    return {digest(pack(payload)): curse for curse, payload in payloads.items()}


def spoil(repository: Path, site: Path) -> None:
    """Below the site, a repository whose model files are cut short, and one without models; what lies beside the models is
    as it is. Raises OSError."""
    for model in (path for path in repository.glob("*/1/model.onnx") if CACHE not in path.parts):
        name = model.parts[-3]
        (site / MISSING / name / "1").mkdir(parents=True)
        (site / CORRUPT / name / "1").mkdir(parents=True)
        whole = model.read_bytes()
        (site / CORRUPT / name / "1" / model.name).write_bytes(whole[: len(whole) // 2])
    for beside in (path for path in repository.rglob("*") if path.is_file() and path.name != "model.onnx"):
        for kind in (CORRUPT, MISSING):
            link = site / kind / beside.relative_to(repository)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(beside.absolute())
