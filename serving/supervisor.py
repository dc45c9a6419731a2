"""The watch over the processes of a plane, in a thread of the launcher. Owns their starts, restarts and ends, and what the
nodes report; must not know why a plane is started, nor what its actors decide."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import zmq
from msgspec.structs import replace

from loki_rl.control.compiling import SENTENCE
from loki_rl.core.messages import CONTROLLER, Event, WorkerGone, number_of, router
from loki_rl.serving.child import Child
from loki_rl.serving.compile_time import CompileTime
from loki_rl.serving.doorbell import Doorbell
from loki_rl.serving.guests import Guests
from loki_rl.serving.mailbox import Mailbox
from loki_rl.serving.plane import LAUNCHER, NodeSpec, PlaneFile
from loki_rl.serving.wire import Alive, Bye, Compiling, Control, Gone, Idle, Join, Known, Left, Letter, Lost, Up, Warm

log = logging.getLogger(__name__)

BURST = 64
# How often the signs of life of guests are looked at.
WATCH_MS = 200


class Supervisor:
    """A worker's process that ends is announced at once and started again, `restarts` times each; so is a front end, which
    holds nothing. The end of any other is a failure of the plane. others: front ends, name -> command.

    up: nodes that listen. warm: the first plan's models are loaded and clients are served. idle: no request is open after
    Drain. guests: nodes that joined, at the endpoint `join` if there is one. byes: what nodes said when they stopped.
    restarted: starts beyond the first. compile_time: of nodes that had to. failure: one sentence, empty while all is well.
    Raises zmq.ZMQError where `join` is taken.
    All of these are written by the thread and read under `wait`.
    """

    def __init__(
        self, folder: Path, plane: PlaneFile, others: Mapping[str, Sequence[str]], restarts: int, join: str = ""
    ) -> None:
        self.up: set[str] = set()
        self.warm = False
        self.idle = False
        self.byes: dict[str, Bye] = {}
        self.restarted = 0
        self.failure = ""
        self.compile_time = CompileTime()
        self.children: dict[str, Child] = {}
        self._folder = folder
        self._plane = plane
        self._others = others
        self._left = {node.name: restarts for node in plane.nodes if node.is_worker} | dict.fromkeys(others, restarts)
        self._stopping: set[str] = set()
        self._changed = threading.Condition()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            self._mailbox = Mailbox(self._context, LAUNCHER, plane.endpoints(folder), join)
        except zmq.ZMQError:
            self._context.term()
            raise
        self._reached: dict[str, str] = {}
        self.guests = Guests(plane, self._mailbox.say, self._mailbox.learn, self._announce)
        self._errands: Doorbell[Callable[[], None]] = Doorbell()
        self._ended = False
        self._poller = zmq.Poller()
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    # -- from the launcher's thread -----------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()
        self._errands.ring(self._start_all)

    def wait(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """Until done() or a failure of the plane; whether it is done."""
        with self._changed:
            self._changed.wait_for(lambda: done() or bool(self.failure), timeout_s)
            return done()

    def tell(self, addresses: Iterable[str], event: Event) -> None:
        """Send an event to actors."""
        self._errands.ring(lambda: self._post(list(addresses), event))

    def say(self, address: str, word: Control) -> None:
        """Send a word to the node of an actor."""
        self._errands.ring(lambda: self._mailbox.say(self._plane.homes[address], word))

    def stop(self, names: Iterable[str], timeout_s: float) -> None:
        """End these processes in good order, and those that do not end in time by force."""
        chosen = set(names)
        self._errands.ring(lambda: self._end(chosen, Child.terminate))
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._changed.wait_for(lambda: not chosen & self.children.keys(), deadline - time.monotonic())
            if not chosen & self.children.keys():
                return
        self._errands.ring(lambda: self._end(chosen, Child.kill))
        with self._changed:
            self._changed.wait_for(lambda: not chosen & self.children.keys(), timeout_s)

    def last_words(self, name: str) -> str:
        """The end of a process' log."""
        child = self.children.get(name)
        return "it has ended" if child is None else child.last_words()

    def close(self) -> None:
        """All processes have ended; so does the watch."""
        self._errands.ring(self._finish)
        self._thread.join()
        self._errands.close()
        self._context.term()

    # -- the watch ----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        self._poller.register(self._mailbox.inbox, zmq.POLLIN)
        self._poller.register(self._errands.handle, zmq.POLLIN)
        while not self._ended:
            ready = [handle for handle, _ in self._poller.poll(WATCH_MS if self.guests.open else None)]
            with self._changed:
                for handle in ready:
                    self._look(handle)
                self.guests.watch(time.monotonic())
                self._mailbox.flush()
                self._changed.notify_all()
        self._mailbox.close()

    def _look(self, handle: int | zmq.Socket[bytes]) -> None:
        if handle is self._mailbox.inbox:
            for word in self._mailbox.take(BURST)[1]:
                self._hear(word)
        elif handle == self._errands.handle:
            for errand in self._errands.collect(0.0):
                errand()
        else:
            for child in [child for child in self.children.values() if child.pidfd == handle]:
                self._bury(child)

    def _hear(self, word: Control) -> None:
        match word:
            case Up(node, tcp):
                self.up.add(node)
                self._reached[node] = tcp
            case Warm():
                self.warm = True
            case Compiling(busy):
                if self.compile_time.hear(busy, time.monotonic()):
                    log.warning(SENTENCE)
            case Idle():
                self.idle = True
            case Bye(node):
                self.byes[node] = word
            case Join() | Known() | Alive() | Lost() | Left():
                self.guests.hear(word, self._reached, time.monotonic())
            case _:
                log.warning("a node said %s, which is not for a launcher", type(word).__name__)

    def _finish(self) -> None:
        self._ended = True

    def _end(self, names: set[str], how: Callable[[Child], None]) -> None:
        self._stopping |= names
        for name in names & self.children.keys():
            how(self.children[name])

    def _post(self, addresses: list[str], event: Event) -> None:
        for address in addresses:
            self._mailbox.post(self._plane.homes[address], Letter(address, event, ()), ())

    # -- processes ----------------------------------------------------------------------------------------------------

    def _start_all(self) -> None:
        for node in self._plane.nodes:
            self._start_node(node)
        for name, command in self._others.items():
            self._start(name, command)

    def _start_node(self, node: NodeSpec) -> None:
        command = [sys.executable, "-m", "loki_rl.serving.node", str(self._folder), node.name]
        self._start(node.name, command)

    def _start(self, name: str, command: Sequence[str]) -> None:
        try:
            child = Child(name, command, Path(self._plane.logs.folder or self._folder) / f"{name}.log")
        except OSError as error:
            self._fail(f"node '{name}' cannot be started: {error}")
            return
        self.children[name] = child
        self._poller.register(child.pidfd, zmq.POLLIN)

    def _bury(self, child: Child) -> None:
        self._poller.unregister(child.pidfd)
        code = child.reap()
        del self.children[child.name]
        self.up.discard(child.name)
        if child.name in self._stopping:
            return
        reason = f"signal {-code}" if code < 0 else f"code {code}"
        if self._left.get(child.name, 0) > 0 and self.warm:
            self._left[child.name] -= 1
            self.restarted += 1
            log.warning("'%s' ended with %s; starting it again", child.name, reason)
            self._restart(child.name, f"its process ended with {reason}")
        else:
            self._fail(f"node '{child.name}' ended with {reason}: {child.last_words()}")

    def _restart(self, name: str, reason: str) -> None:
        if name in self._others:
            self._start(name, self._others[name])
        else:
            self._revive(self._plane.node(name), reason)

    def _revive(self, node: NodeSpec, reason: str) -> None:
        """Tell first: batches in the hands of these workers are given to others within milliseconds."""
        successor = replace(node, incarnation=node.incarnation + 1)
        self._announce(node, successor.endpoint(self._folder), reason)
        nodes = tuple(successor if other.name == node.name else other for other in self._plane.nodes)
        self._plane = replace(self._plane, nodes=nodes)
        self._plane.write(self._folder)
        self._start_node(successor)

    def _announce(self, node: NodeSpec, successor: str, reason: str) -> None:
        """The workers of this node are gone; what is queued for it must not reach whoever listens there next."""
        self._mailbox.forget(node.name, successor)
        for peer in self._plane.nodes:
            if peer.name != node.name:
                self._mailbox.say(peer.name, Gone(node.name, successor))
        told = [CONTROLLER, *map(router, range(len(self._plane.options.pipeline.tasks)))]
        for address in node.actors:
            self._post(told, WorkerGone(number_of(address), reason))
        self._mailbox.flush()

    def _fail(self, sentence: str) -> None:
        """The first failure is the cause of the others."""
        log.error("%s", sentence)
        self.failure = self.failure or sentence
