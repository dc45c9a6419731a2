"""A plane on a Ray cluster: Ray finds a host for every process and says when one is lost. What a plane says to itself never
passes through Ray, and our supervisor decides who is started again and when.

The gateway stays with the launcher, whose front ends clients know. Routers and controller are put beside it where its host
has room, so that a request goes to another host for its workers only; else together on another.
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
from loki_rl.ray_cluster import AUTO, ClusterError, connect
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
# How often a place is sought anew where Ray gives one up before anything has run there, and how long after [s].
SEEKS, SEEK_DELAY_S = 5, 0.2
# Cores that Ray keeps for a process: a worker computes all the time, the others a while for each item (docs/clusters.md).
WORKER_CORES, OTHER_CORES = 1.0, 0.25

LOST = "the connection to the Ray cluster is lost, and with it all processes of the plane there; start the plane again"


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
        if node.stays:
            return self._local.start(node, command, folder, log)
        if not self._ray.is_initialized():
            raise ClusterError(LOST)
        asked = self._asked_by_workers(node) if node.is_worker else self._asked_by_others()
        # It waits for a host with room, and Ray never starts it again.
        actor = self._ray.remote(NodeHost).options(max_restarts=0, max_concurrency=CALLS, **asked)
        return RayProcess(self._ray, actor.remote, node, command, self.address, folder)

    def _asked_by_workers(self, node: NodeSpec) -> dict[str, Any]:
        types = (self._servers.types[self._servers.type_of(number_of(address))].name for address in node.actors)
        return {
            # What computes nothing has no device.
            "num_cpus": WORKER_CORES if node.device else OTHER_CORES,
            "num_gpus": 1 if on_gpu(node.device) else 0,
            "resources": {name: float(count) for name, count in Counter(types).items() if name},
            "scheduling_strategy": "SPREAD",
        }

    def _asked_by_others(self) -> dict[str, Any]:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        near = NodeAffinitySchedulingStrategy(self._near(), soft=True, _spill_on_unavailable=True)
        return {"num_cpus": OTHER_CORES, "scheduling_strategy": near}

    def _near(self) -> str:
        """Of Ray's hosts the launcher's, or the largest where that offers no core: the same one for all."""
        alive = [host for host in self._ray.nodes() if host["Alive"]]

        def suits(host: dict[str, Any]) -> tuple[bool, float, str]:
            cores = host["Resources"].get("CPU", 0.0)
            return host["NodeManagerAddress"] == self.address and cores > 0, cores, host["NodeID"]

        return str(max(alive, key=suits)["NodeID"])


class RayProcess:
    """The process of a node, a child of a Ray actor, which `make` asks for."""

    def __init__(
        self, ray: Any, make: Callable[[], Any], node: NodeSpec, command: Sequence[str], address: str, folder: Path
    ) -> None:
        self.name = node.name
        self.started = time.monotonic()
        self.pid = 0
        self.place: Place | None = None
        self.handle = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._ray, self._make, self._node, self._command = ray, make, node, command
        self._home = (address, str(folder))
        self._seeks = 0
        self._news: deque[Literal["placed", "ended"]] = deque()
        self._begun = False
        self._end: Ended | None = None
        self._lock = threading.Lock()
        self._seek()

    def news(self) -> Literal["placed", "ended", ""]:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.handle)
        return self._news.popleft() if self._news else ""

    def begin(self, plane: PlaneFile) -> None:
        self.started, self._begun = time.monotonic(), True
        ended = self._actor.run.remote(msgspec.json.encode(plane), self.name, list(self._command))
        self._follow(ended, self._tell_end, self._tell_end)

    def terminate(self) -> None:
        if self._begun:
            self._signal(signal.SIGTERM)
        else:
            self._tell_end(Ended(-signal.SIGTERM, "it had not begun"))

    def kill(self) -> None:
        """Also where its host does not answer any more."""
        self._signal(signal.SIGKILL)
        timer = threading.Timer(LOST_S, self._tell_end, (Ended(-signal.SIGKILL, "its host does not answer"),))
        timer.daemon = True
        timer.start()

    def pulsed(self) -> bool:
        return False

    def reap(self) -> int:
        with self._lock:
            os.close(self.handle)
            self.handle = -1
        with unheard():
            self._ray.kill(self._actor)
        assert self._end is not None
        return self._end.code

    def last_words(self) -> str:
        if self._end is not None:
            return self._end.words
        if self.place is None:
            return "no host has room for it"
        with unheard():
            return str(self._ray.get(self._actor.last_words.remote(), timeout=WORDS_S))
        return "its host does not answer"

    def _signal(self, number: signal.Signals) -> None:
        with unheard():
            self._actor.signal.remote(int(number))

    # -- what Ray says, in threads of its own -------------------------------------------------------------------------

    def _seek(self) -> None:
        with unheard():
            with self._lock:
                if self._end is not None:
                    return
                self._actor = self._make()
            self._follow(self._actor.place.remote(*self._home), self._placed, self._seek_again)
            return
        self._tell_end(Ended(-signal.SIGKILL, LOST))

    def _seek_again(self, end: Ended) -> None:
        """Ray cancels an actor whose host is taken or lost while it is put there; in a thread that may wait for Ray."""
        self._seeks += 1
        if self._seeks > SEEKS:
            self._tell_end(end)
            return
        timer = threading.Timer(SEEK_DELAY_S, self._seek)
        timer.daemon = True
        timer.start()

    def _follow(self, reference: Any, then: Callable[[Any], None], lost: Callable[[Ended], None]) -> None:
        def ended(future: Future[Any]) -> None:
            try:
                then(future.result())
            except self._ray.exceptions.RayError as error:
                why = (str(error).strip().splitlines() or [type(error).__name__])[-1]
                lost(Ended(-signal.SIGKILL, f"its host or its Ray actor was lost ({why})"))
            except ConnectionError:
                self._tell_end(Ended(-signal.SIGKILL, LOST))

        reference.future().add_done_callback(ended)

    def _placed(self, place: Place) -> None:
        device = f"{self._node.device.partition(':')[0]}:0" if on_gpu(self._node.device) else self._node.device
        self.place = replace(place, device=device)
        self._tell("placed")

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
        self._signal = 0
        self._folder = Path()
        self._own: RunFolder | None = None

    def place(self, launcher: str, folder: str) -> Place:
        """This host, and a free port of it. launcher, folder: address of the launcher's host, and its run directory there,
        which all nodes of that host share."""
        import ray

        host = str(ray.util.get_node_ip_address())
        if host == launcher:
            self._folder = Path(folder)
            return Place(port=free_port(host))
        self._own = RunFolder()
        self._folder = self._own.path
        return Place(host, free_port(host), folder=str(self._folder))

    def run(self, plane: bytes, name: str, command: list[str]) -> Ended:
        """A node's process, to its end."""
        described = here(msgspec.json.decode(plane, type=PlaneFile))
        try:
            if self._own is not None:
                described.write(self._folder)
            return self._run(name, command, Path(described.logs.folder or self._folder))
        finally:
            if self._own is not None:
                self._own.close()

    def _run(self, name: str, command: list[str], logs: Path) -> Ended:
        logs.mkdir(parents=True, exist_ok=True)
        # Ray's own tasks step back for all else on a host; what serves must not. A child has the niceness of this thread.
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, 0)
        child = self._child = Child(name, python(*command, str(self._folder), name), logs / f"{name}.log")
        if self._signal:
            self.signal(self._signal)
        while not wait_for_end(child, LOOK_S):
            pass
        return Ended(child.reap(), child.last_words())

    def signal(self, number: int) -> None:
        """To the process, once it runs."""
        self._signal = number
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child.pid, number)

    def last_words(self) -> str:
        return "it has not started" if self._child is None else self._child.last_words()


def unheard() -> contextlib.suppress:
    """Where a host or the whole cluster is gone nobody hears it; what Ray's client raises then has no type of its own."""
    return contextlib.suppress(Exception)


def on_gpu(device: str) -> bool:
    """Whether a worker with this device needs a GPU; one that may choose runs where there is a core."""
    return device not in ("", "auto") and any(one.on_gpu for one in named(device))


def here(plane: PlaneFile) -> PlaneFile:
    """What a node of another host can do: it records where the plane's folders are on storage that both hosts have."""
    recorded = plane.recording is not None and Path(plane.recording).exists()
    return replace(plane, recording=plane.recording if recorded else None)
