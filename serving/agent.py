"""A node that joins a running plane with workers of its own, as `loki-rl node` runs it. Owns the processes of these workers
and the tie to the plane; must not know what a worker does."""

from __future__ import annotations

import logging
import socket
import sys
import time
from collections.abc import Callable, Iterable

import msgspec
import zmq
from msgspec.structs import replace

from loki_rl.core.messages import number_of
from loki_rl.serving.child import Child
from loki_rl.serving.device import dealt
from loki_rl.serving.doorbell import Doorbell
from loki_rl.serving.engine import EngineError
from loki_rl.serving.folder import RunFolder
from loki_rl.serving.loopback import check_loopback
from loki_rl.serving.mailbox import ANY_PORT, Mailbox
from loki_rl.serving.plane import LAUNCHER, NodeSpec, PlaneFile
from loki_rl.serving.wire import Alive, Bye, Control, Declined, Join, Left, Lost, Welcome

log = logging.getLogger(__name__)

PLANE = "plane"
ANSWER_S = 15.0
BEAT_S = 0.5
# A plane that has not answered for so long is gone.
SILENT_S = 5.0
STOP_S = 10.0
BURST = 64


class JoinError(RuntimeError):
    """The node could not join, or has lost its plane; the message says why and what to do."""


class Agent:
    """`with Agent(join, workers, device) as agent: agent.run()`

    join: where the plane listens for nodes. device: of its workers (empty: as the plane's). server_type: of their servers,
    where the plane has several. restarts: of each worker's process. name, numbers: given by the plane. Entering and `run`
    raise JoinError or LoopbackError.
    """

    def __init__(self, join: str, workers: int, device: str = "", server_type: str = "", restarts: int = 3) -> None:
        self.name = ""
        self.numbers: list[int] = []
        self.children: dict[str, Child] = {}
        self.byes: dict[str, Bye] = {}
        self._join = check_loopback(join)
        self._workers = workers
        self._device = device
        self._server_type = server_type
        self._restarts = restarts
        self._bell: Doorbell[None] = Doorbell()
        self._stopping = False
        self._heard = time.monotonic()
        self._left: dict[str, int] = {}
        self._last_words = ""

    def __enter__(self) -> Agent:
        self._folder = RunFolder()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        inbox = NodeSpec(LAUNCHER, ()).endpoint(self._folder.path)
        self._mailbox = Mailbox(self._context, LAUNCHER, {LAUNCHER: inbox, PLANE: self._join}, also=ANY_PORT)
        self._poller = zmq.Poller()
        self._poller.register(self._mailbox.inbox, zmq.POLLIN)
        self._poller.register(self._bell.handle, zmq.POLLIN)
        try:
            self._enter()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True  # nothing that ends now is started again
        if self.name:
            self._mailbox.say(PLANE, Left(self.name))
        for child in self.children.values():
            child.terminate()
        self._await(lambda: not self.children, STOP_S)
        for child in self.children.values():
            child.kill()
        self._await(lambda: not self.children, STOP_S)
        self._mailbox.close(PLANE, 0.5)
        self._context.term()
        self._bell.close()
        self._folder.close()

    def run(self) -> None:
        """Until `stop`. Raises JoinError when the plane is gone, or no worker is left."""
        self._heard = time.monotonic()
        while not self._stopping:
            now = time.monotonic()
            if now - self._heard > SILENT_S:
                raise JoinError(f"the plane at {self._join} is gone; its workers here have stopped")
            if not self.children:
                raise JoinError(f"all workers of this node have ended: {self._last_words}")
            self._mailbox.say(PLANE, Alive(self.name))
            self._turn(BEAT_S)

    def stop(self) -> None:
        """From any thread, or a signal handler."""
        self._stopping = True
        self._bell.wake()

    # -- the beginning ------------------------------------------------------------------------------------------------

    def _enter(self) -> None:
        self._answers: list[Welcome | Declined] = []
        endpoints = [f"tcp://127.0.0.1:{port}" for port in free_ports(self._workers)]
        self._mailbox.say(PLANE, Join(self._mailbox.tcp, endpoints, self._server_type))
        self._await(lambda: bool(self._answers), ANSWER_S)
        if not self._answers:
            raise JoinError(f"no plane answers at {self._join}; start one with 'loki-rl serve ... --join-port PORT'")
        welcome = self._answers[0]
        if isinstance(welcome, Declined):
            raise JoinError(f"the plane at {self._join} does not take this node: {welcome.reason}")
        plane = msgspec.json.decode(welcome.plane, type=PlaneFile)
        self._plane: PlaneFile = replace(plane, nodes=self._placed(plane)) if self._device else plane
        self._plane.write(self._folder.path)
        self.name = welcome.name
        self._left = {node.name: self._restarts for node in plane.nodes if node.is_worker}
        self.numbers = [number_of(address) for node in plane.nodes if node.is_worker for address in node.actors]
        if plane.engine != "emulated":
            _check_devices(node.device for node in self._plane.nodes if node.is_worker)
        for name in self._left:
            self._start(name)

    def _placed(self, plane: PlaneFile) -> tuple[NodeSpec, ...]:
        """All nodes, with the workers here on the devices that this node was given."""
        mine = [node.name for node in plane.nodes if node.is_worker]
        return tuple(
            replace(node, device=dealt(self._device, mine.index(node.name))) if node.is_worker else node
            for node in plane.nodes
        )

    def _start(self, name: str) -> None:
        command = [sys.executable, "-m", "loki_rl.serving.node", str(self._folder.path), name]
        child = self.children[name] = Child(name, command, self._folder.path / f"{name}.log")
        self._poller.register(child.pidfd, zmq.POLLIN)

    # -- what happens -------------------------------------------------------------------------------------------------

    def _await(self, done: Callable[[], bool], limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        while not done() and (left := deadline - time.monotonic()) > 0:
            self._turn(min(left, BEAT_S))

    def _turn(self, longest_s: float) -> None:
        for handle, _ in self._poller.poll(max(1, round(1000 * longest_s))):
            if handle is self._mailbox.inbox:
                for word in self._mailbox.take(BURST)[1]:
                    self._hear(word)
            elif handle == self._bell.handle:
                self._bell.collect(0.0)
            else:
                for child in [child for child in self.children.values() if child.pidfd == handle]:
                    self._bury(child)

    def _hear(self, word: Control) -> None:
        if isinstance(word, Welcome | Declined):
            self._answers.append(word)
        elif isinstance(word, Alive):
            self._heard = time.monotonic()
        elif isinstance(word, Bye):
            self.byes[word.node] = word

    def _bury(self, child: Child) -> None:
        """Tell the plane at once: batches in its hands go to others. Its successor has an address of its own."""
        self._poller.unregister(child.pidfd)
        code = child.reap()
        del self.children[child.name]
        if self._stopping or child.name in self.byes:
            return
        self._last_words = child.last_words()
        reason = f"its process ended with {f'signal {-code}' if code < 0 else f'code {code}'}"
        log.warning("'%s': %s", child.name, reason)
        if not self._left[child.name]:
            self._mailbox.say(PLANE, Lost(self.name, child.name, reason, ""))
            return
        self._left[child.name] -= 1
        former = self._plane.node(child.name)
        (port,) = free_ports(1)
        successor = replace(former, incarnation=former.incarnation + 1, tcp=f"tcp://127.0.0.1:{port}")
        nodes = tuple(successor if node.name == former.name else node for node in self._plane.nodes)
        self._plane = replace(self._plane, nodes=nodes)
        self._plane.write(self._folder.path)
        self._mailbox.say(PLANE, Lost(self.name, child.name, reason, successor.tcp))
        self._start(child.name)


def _check_devices(devices: Iterable[str]) -> None:
    """Raise JoinError, before a worker starts, where it could not run."""
    from loki_rl.serving.sessions import choose_device  # an emulated worker needs no runtime

    try:
        for device in dict.fromkeys(devices):
            choose_device(device)
    except EngineError as error:
        raise JoinError(str(error)) from None


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
