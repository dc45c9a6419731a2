"""What a process could not do and went on without: counted by kind, with the last of each in words."""

from __future__ import annotations

import errno

import zmq
from msgspec.structs import replace

from loki_rl.serving.clock import clock
from loki_rl.serving.state import Trouble
from loki_rl.serving.transport.protocol import shortened

_KINDS = {
    errno.ENOSPC: "disk", errno.EDQUOT: "disk", errno.EFBIG: "disk", errno.EMFILE: "files", errno.ENFILE: "files",
}  # fmt: skip


def kind_of(error: BaseException | None, other: str = "event") -> str:
    """`disk` where it is full, `files` where no more may be open, else what is given."""
    number = error.errno if isinstance(error, OSError | zmq.ZMQError) else None
    return other if number is None else _KINDS.get(number, other)


class Troubles:
    """Of one process."""

    def __init__(self, process: str) -> None:
        self._process = process
        self._by_kind: dict[str, Trouble] = {}
        self._told = True

    def record(self, kind: str, said: str) -> None:
        """One more. kind: as in state.Trouble."""
        known = self._by_kind.get(kind) or Trouble(self._process, kind)
        self._by_kind[kind] = replace(known, count=known.count + 1, at_s=clock(), said=shortened(said))
        self._told = False

    def news(self) -> list[Trouble]:
        """All there are, if one has come since this was last asked; else nothing."""
        if self._told:
            return []
        self._told = True
        return list(self._by_kind.values())

    def tell_again(self) -> None:
        """Whoever was told has forgotten."""
        self._told = not self._by_kind
