"""A plane on a Ray cluster: Ray finds a host for every process of workers and says when one is lost. What a plane says to
itself never passes through Ray, and our supervisor decides who is started again and when.

Gateway, controller and routers stay with the launcher, whose front ends they feed; a request goes to another host for its
workers only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from loki_rl.core.messages import number_of
from loki_rl.core.options import ClusterOptions
from loki_rl.core.servers.servers import Servers
from loki_rl.ray_cluster import AUTO, connect
from loki_rl.serving.engines.device import named
from loki_rl.serving.folder import RunFolder
from loki_rl.serving.plane import NodeSpec, PlaneFile
from loki_rl.serving.process.child import Child, python, wait_for_end
from loki_rl.serving.process.launcher import LocalLauncher, Place, Process
from loki_rl.serving.transport.listening import free_port

# How long the end of a killed process is waited for before its host counts as lost [s].
LOST_S = 2.0
# How long the log of a process on another host is waited for [s].
WORDS_S = 1.0
LOOK_S = 3600.0
# Calls of an actor at a time: one waits for the end of the process meanwhile.
CALLS = 4


class Ended(Struct, frozen=True):
    """code: negative for a signal."""

    code: int
    words: str


class RayLauncher:
    """address: of a Ray cluster. Raises ClusterError."""

    shares_memory = False

    def __init__(self, options: ClusterOptions, address: str = AUTO) -> None:
        self._ray = connect(address)
        self._servers = Servers(options)
        self._local = LocalLauncher()
        self.address: str = self._ray.util.get_node_ip_address()

    @property
    def hosts(self) -> int:
        """In the cluster now."""
        return sum(bool(node["Alive"]) for node in self._ray.nodes())

    def start(self, node: NodeSpec, command: Sequence[str], folder: Path, log: Path) -> Process:
        if not node.is_worker:
            return self._local.start(node, command, folder, log)
        return RayProcess(self._ray, self._actor(node), node, command, self.address, folder)

    def _actor(self, node: NodeSpec) -> Any:
        """One that waits for a host with room; never started again by Ray."""
        types = Counter(self._servers.type_of(number_of(address)) for address in node.actors)
        kinds = {kind: float(count) for kind, count in types.items() if kind}
        return (
            self._ray.remote(NodeHost)
            .options(
                num_cpus=1,
                num_gpus=1 if on_gpu(node.device) else 0,
                resources=kinds,
                scheduling_strategy="SPREAD",
                max_restarts=0,
                max_concurrency=CALLS,
            )
            .remote()
        )


class RayProcess:
    """The process of a node, a child of a Ray actor."""

    def __init__(self, ray: Any, actor: Any, node: NodeSpec, command: Sequence[str], address: str, folder: Path) -> None:
        self.name = node.name
        self.started = time.monotonic()
        self.pid = 0
        self.place: Place | None = None
        self.handle = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._ray, self._actor, self._node, self._command = ray, actor, node, command
        self._address, self._folder = address, str(folder)
        self._news: deque[Literal["placed", "ended"]] = deque()
        self._end: Ended | None = None
        self._lock = threading.Lock()
        self._follow(actor.place.remote(), self._placed)

    def news(self) -> Literal["placed", "ended", ""]:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.handle)
        return self._news.popleft() if self._news else ""

    def begin(self, plane: PlaneFile) -> None:
        self.started = time.monotonic()
        folder = "" if self.place is None or self.place.host else self._folder
        self._follow(self._actor.run.remote(msgspec.json.encode(plane), self.name, list(self._command), folder), self._ended)

    def terminate(self) -> None:
        if self.place is None:
            self._tell_end(Ended(-signal.SIGTERM, "no host had room for it"))
        else:
            self._actor.signal.remote(int(signal.SIGTERM))

    def kill(self) -> None:
        """Also where its host does not answer any more."""
        self._actor.signal.remote(int(signal.SIGKILL))
        timer = threading.Timer(LOST_S, self._tell_end, (Ended(-signal.SIGKILL, "its host does not answer"),))
        timer.daemon = True
        timer.start()

    def pulsed(self) -> bool:
        return False

    def reap(self) -> int:
        with self._lock:
            os.close(self.handle)
            self.handle = -1
        self._ray.kill(self._actor)
        assert self._end is not None
        return self._end.code

    def last_words(self) -> str:
        if self._end is not None:
            return self._end.words
        if self.place is None:
            return "no host has room for it"
        with contextlib.suppress(self._ray.exceptions.RayError):
            return str(self._ray.get(self._actor.last_words.remote(), timeout=WORDS_S))
        return "its host does not answer"

    # -- what Ray says, in threads of its own -------------------------------------------------------------------------

    def _follow(self, reference: Any, then: Callable[[Any], None]) -> None:
        def ended(future: Future[Any]) -> None:
            try:
                then(future.result())
            except self._ray.exceptions.RayError as error:
                why = (str(error).strip().splitlines() or [type(error).__name__])[-1]
                self._tell_end(Ended(-signal.SIGKILL, f"its host or its Ray actor was lost ({why})"))

        reference.future().add_done_callback(ended)

    def _placed(self, found: tuple[str, int]) -> None:
        host, port = found
        device = f"{self._node.device.partition(':')[0]}:0" if on_gpu(self._node.device) else self._node.device
        self.place = Place("" if host == self._address else host, port, device)
        self._tell("placed")

    def _ended(self, found: tuple[int, str]) -> None:
        self._tell_end(Ended(*found))

    def _tell_end(self, end: Ended) -> None:
        with self._lock:
            first, self._end = self._end is None, self._end or end
        if first:
            self._tell("ended")

    def _tell(self, what: Literal["placed", "ended"]) -> None:
        with self._lock:
            if self.handle >= 0:
                self._news.append(what)
                os.eventfd_write(self.handle, 1)


class NodeHost:
    """The Ray actor: a place with the resources of one node, whose process it starts. That ends with it."""

    def __init__(self) -> None:
        self._child: Child | None = None

    def place(self) -> tuple[str, int]:
        """Address of this host and a free port of it."""
        import ray

        host = str(ray.util.get_node_ip_address())
        return host, free_port(host)

    def run(self, plane: bytes, name: str, command: list[str], folder: str) -> tuple[int, str]:
        """The exit code of a node's process, and its last words. folder: run directory of the plane where this is the
        launcher's host, else empty."""
        if folder:
            return self._run(Path(folder), name, command, "")
        own = RunFolder()
        try:
            described = here(msgspec.json.decode(plane, type=PlaneFile))
            described.write(own.path)
            return self._run(own.path, name, command, described.logs.folder)
        finally:
            own.close()

    def _run(self, folder: Path, name: str, command: list[str], logs: str) -> tuple[int, str]:
        if logs:
            Path(logs).mkdir(parents=True, exist_ok=True)
        child = self._child = Child(name, python(*command, str(folder), name), Path(logs or folder) / f"{name}.log")
        while not wait_for_end(child, LOOK_S):
            pass
        return child.reap(), child.last_words()

    def signal(self, number: int) -> None:
        """To the process, if it runs."""
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child.pid, number)

    def last_words(self) -> str:
        return "it has not started" if self._child is None else self._child.last_words()


def on_gpu(device: str) -> bool:
    """Whether a worker with this device needs a GPU; one that may choose runs where there is a core."""
    return device not in ("", "auto") and any(one.on_gpu for one in named(device))


def here(plane: PlaneFile) -> PlaneFile:
    """What a node of another host can do: it records where the plane's folders are on storage that both hosts have."""
    recorded = plane.recording is not None and Path(plane.recording).exists()
    return replace(plane, recording=plane.recording if recorded else None)
