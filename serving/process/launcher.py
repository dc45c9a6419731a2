"""What starts the processes of a plane's nodes, and where: on this host, or where a cluster has room."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

from msgspec import Struct

from loki_rl.serving.plane import NodeSpec, PlaneFile
from loki_rl.serving.process.child import Child, python


class Place(Struct, frozen=True):
    """Where a process runs. host: address of another host, empty for the launcher's; port: of it, for the inbox of the
    node; device: of its models, where the place decides that; folder: its run directory on another host."""

    host: str = ""
    port: int = 0
    device: str = ""
    folder: str = ""


class Process(Protocol):
    """The process of a node. handle: readable when there is news. place: None while no host has room for it. started: when
    it began, or was made where it has no place yet [s]; pid: on its host, 0 while that is not known."""

    name: str
    started: float

    @property
    def pid(self) -> int: ...

    @property
    def handle(self) -> int: ...

    @property
    def place(self) -> Place | None: ...

    def news(self) -> Literal["placed", "ended", ""]:
        """What made the handle readable."""
        ...

    def begin(self, plane: PlaneFile) -> None:
        """Run the node, as the plane describes it now."""
        ...

    def terminate(self) -> None:
        """Ask it to stop in order."""
        ...

    def kill(self) -> None: ...

    def pulsed(self) -> bool:
        """Whether it gave a sign of life since this was last asked, beside those of its node."""
        ...

    def reap(self) -> int:
        """Its exit code, negative for a signal. It has ended."""
        ...

    def last_words(self) -> str:
        """The end of its log, as one line."""
        ...


class Launcher(Protocol):
    """address: at which other hosts reach this one, empty where no node is on another. shares_memory: whether all nodes can
    map what one of them wrote."""

    address: str
    shares_memory: bool

    def start(self, node: NodeSpec, command: Sequence[str], folder: Path, log: Path) -> Process:
        """command: module of the node's process and its arguments before run directory and name; folder: run directory of
        this host. Raises OSError, or ClusterError where nothing can be started any more."""
        ...


class LocalLauncher:
    """All on this host."""

    address = ""
    shares_memory = True

    def start(self, node: NodeSpec, command: Sequence[str], folder: Path, log: Path) -> Process:
        return LocalProcess(node.name, python(*command, str(folder), node.name), log)


class LocalProcess(Child):
    """A child of this process, which runs as soon as it is made."""

    place = Place()

    @property
    def handle(self) -> int:
        return self.pidfd

    def news(self) -> Literal["placed", "ended", ""]:
        return "ended"

    def begin(self, _plane: PlaneFile) -> None:
        """It has read the plane by itself."""
