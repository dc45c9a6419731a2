"""The watch over the processes of a plane, in a thread of the launcher."""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import zmq

from loki_rl.control.compiling import SENTENCE
from loki_rl.core.messages import GATEWAY, Event, worker
from loki_rl.ray_cluster import ClusterError
from loki_rl.serving.clock import clock
from loki_rl.serving.plane import LAUNCHER, PlaneFile
from loki_rl.serving.process.child import readable
from loki_rl.serving.process.compile_time import CompileTime
from loki_rl.serving.process.heartbeat import SILENT_S, Heartbeats, worker_silent_s
from loki_rl.serving.process.launcher import Launcher, LocalProcess, Process
from loki_rl.serving.process.restart_budget import FEW_STARTS, FewStarts, RestartBudget, told
from loki_rl.serving.process.roster import Roster
from loki_rl.serving.transport import wire
from loki_rl.serving.transport.event_queue import EventQueue
from loki_rl.serving.transport.mailbox import Mailbox
from loki_rl.serving.transport.troubles import Troubles, kind_of

log = logging.getLogger(__name__)

BURST = 64
# How often signs of life are looked at [s].
LOOK_S = 0.25
# How long a host with room is waited for before the plane goes on without [s]; it may still come.
PLACE_S = 10.0
# Ends of processes that are kept, with their last words.
ENDS = 20


class Supervisor:
    """A process that ends before the plane is warm is a failure of the plane. Later each is started again: its end is
    announced at once, and one that keeps ending has to wait (see RestartBudget) while the plane goes on without it. One that
    gives no sign of life is killed, and then is one that ended. launcher: starts the nodes' processes; node: module that is
    one, and its arguments before folder and name. others: front ends, name -> command. start_s: longest wait for the first
    sign of life of a process that was started again. beside: what the plane does not need, name -> command: it is started
    when the plane is warm, and a few times again; its end is a trouble.

    up: nodes that listen. absent: nodes that no host has room for. warm: the first plan's models are loaded and
    clients are served. idle: no request is open after Drain. byes: what nodes said when they stopped. restarted: starts
    beyond the first. ended: processes that did so unexpectedly, and their last words. compile_time: of nodes that had to.
    failure: why the plane cannot go on, one sentence; empty while it can. All of these are written by the thread and read
    under `wait`.
    """

    def __init__(
        self,
        folder: Path,
        plane: PlaneFile,
        node: Sequence[str],
        others: Mapping[str, Sequence[str]],
        start_s: float,
        launcher: Launcher,
        beside: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.up: set[str] = set()
        self.absent: set[str] = set()
        self.warm = False
        self.idle = False
        self.byes: dict[str, wire.Bye] = {}
        self.restarted = 0
        self.ended: deque[str] = deque(maxlen=ENDS)
        self.failure = ""
        self.compile_time = CompileTime()
        self.children: dict[str, Process] = {}
        self._launcher = launcher
        self._folder = folder
        self._node = node
        self._others = others
        self._beside = dict(beside or {})
        self._few: defaultdict[str, FewStarts] = defaultdict(FewStarts)
        self._start_s = start_s
        self._stopping: set[str] = set()
        self._budgets: defaultdict[str, RestartBudget] = defaultdict(RestartBudget)
        self._due: dict[str, float] = {}  # when a process may be started again
        self._killed: dict[str, str] = {}  # why one was, until it has ended
        self._beats = Heartbeats()
        self._troubles = Troubles(LAUNCHER)
        self._worker_silent_s = worker_silent_s(plane.options)
        self._look_at = 0.0
        self._changed = threading.Condition()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._mailbox = Mailbox(self._context, LAUNCHER, plane.endpoints(folder), plane.outside(plane.launcher), plane.keys)
        self._roster = Roster(plane, folder, self._mailbox)
        self._errands: EventQueue[Callable[[], None]] = EventQueue()
        self._finished = False
        self._poller = zmq.Poller()
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    # -- from the launcher's thread -----------------------------------------------------------------------------------

    def start(self) -> None:
        self._errands.put(self._start_all)
        self._thread.start()

    def wait(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """Until done() or a failure of the plane; whether it is done."""
        with self._changed:
            self._changed.wait_for(lambda: done() or bool(self.failure), timeout_s)
            return done()

    def tell(self, addresses: Iterable[str], event: Event) -> None:
        """Send an event to actors."""
        self._errands.put(lambda: self._roster.post(list(addresses), event))

    def say(self, address: str, word: wire.ControlWord) -> None:
        """Send a word to the node of an actor."""
        self._errands.put(lambda: self._mailbox.say(self._roster.plane.homes[address], word))

    def stop(self, names: Iterable[str], timeout_s: float) -> None:
        """End these processes in good order, and those that do not end in time by force; also when the watch has failed."""
        chosen = set(names)
        for how in ("terminate", "kill"):
            self._errands.put(partial(self._end, chosen, how))
            deadline = time.monotonic() + timeout_s
            with self._changed:
                self._changed.wait_for(lambda: self._finished or not chosen & self.children.keys(), timeout_s)
                if self._finished:
                    self._end_unwatched(chosen, how, deadline)
                if not chosen & self.children.keys():
                    return

    def waits(self, name: str) -> bool:
        """Whether it was started, and no host has room for it yet."""
        child = self.children.get(name)
        return child is not None and child.place is None

    def last_words(self, name: str) -> str:
        """The end of a process' log."""
        child = self.children.get(name)
        return "it has ended" if child is None else child.last_words()

    def close(self) -> None:
        """All processes have ended; so does the watch."""
        self._errands.put(self._finish)
        self._thread.join()
        self._errands.close()
        self._context.destroy(linger=0)
        self._roster.close()

    def _end_unwatched(self, names: set[str], how: str, deadline: float) -> None:
        self._end(names, how)
        for name in names & self.children.keys():
            while readable(self.children[name].handle, deadline - time.monotonic()):
                if self.children[name].news() == "ended":
                    self.children.pop(name).reap()
                    break

    # -- the watch ----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """What fails on one word, process or errand costs only that. Where the loop itself fails nobody would notice the end
        of a process any more: the plane has to be started anew."""
        try:
            self._poller.register(self._mailbox.inbox, zmq.POLLIN)
            self._poller.register(self._errands.handle, zmq.POLLIN)
            while not self._finished:
                self._turn()
            self._mailbox.close()
        except Exception as error:
            log.exception("the watch over the processes failed")
            with self._changed:
                self._finished = True
                self._fail(f"the watch over the plane's processes failed: {error or type(error).__name__}")
                self._changed.notify_all()

    def _turn(self) -> None:
        next_at = min((self._look_at, *self._due.values()))
        ready = self._poller.poll(max(0, ceil(1000 * (next_at - time.monotonic()))))
        with self._changed:
            for handle, _ in ready:
                self._look(handle)
            now = time.monotonic()
            for name in [name for name, at in self._due.items() if at <= now]:
                self._try(self._start_again, name, now)
            if now >= self._look_at:
                self._look_at = now + LOOK_S
                self._try(self._listen, now)
                self._try(self._do_without, now)
                self._try(self._stay_reachable)
            self._mailbox.flush()
            self._changed.notify_all()

    def _look(self, handle: int | zmq.Socket[bytes]) -> None:
        if handle is self._mailbox.inbox:
            for word in self._mailbox.take(BURST)[1]:
                self._try(self._handle, word)
        elif handle == self._errands.handle:
            for errand in self._errands.collect(0.0):
                self._try(errand)
        else:
            for child in [child for child in self.children.values() if child.handle == handle]:
                self._try(self._hear, child)

    def _hear(self, child: Process) -> None:
        match child.news():
            case "placed":
                self._settle(child)
            case "ended":
                self._poller.unregister(child.handle)
                self._reap(child)

    def _try(self, action: Callable[..., None], *arguments: Any) -> None:
        try:
            action(*arguments)
        except Exception as error:
            log.exception("%s failed on %s", action.__name__, arguments)
            self._troubles.record(kind_of(error), f"{action.__name__} failed: {error}")

    def _handle(self, word: wire.ControlWord) -> None:
        match word:
            case wire.Up(node):
                self.up.add(node)
            case wire.Alive(node, incarnation, patience_s):
                known = self._roster.plane.node(node)
                if incarnation == known.incarnation:
                    self._beats.renew(node, (self._worker_silent_s if known.is_worker else SILENT_S) + patience_s)
            case wire.Hung(number, incarnation, reason):
                self._hung(number, incarnation, reason)
            case wire.Warm():
                self.warm = True
                for name in self._beside:
                    self._try(self._start, name)
            case wire.ReadClock(node, asked):
                self._mailbox.say(node, wire.ClockRead(asked, clock()))
            case wire.Compiling(busy):
                if self.compile_time.record(busy, time.monotonic()):
                    log.warning(SENTENCE)
            case wire.Idle():
                self.idle = True
            case wire.Bye(node):
                self.byes[node] = word
            case _:
                log.warning("a node said %s, which is not for a launcher", type(word).__name__)

    def _hung(self, number: int, incarnation: int, reason: str) -> None:
        """What is said of a former life of the process is no news."""
        node = self._roster.plane.node(self._roster.plane.homes[worker(number)])
        if incarnation == node.incarnation:
            self._kill(node.name, reason)

    def _listen(self, now: float) -> None:
        """Kill who is silent for too long; while the plane starts, its own limit holds."""
        for child in self.children.values():
            if child.pulsed():
                self._beats.renew(child.name, SILENT_S)
        for name in self._beats.look(now) if self.warm else ():
            self._kill(name, f"it gave no sign of life for {self._beats.silent[name]:.1f} s")

    def _stay_reachable(self) -> None:
        """For processes that are started again, also where somebody has removed the run folder; and say what went wrong."""
        try:
            if self._roster.make_folder():
                log.warning("the run folder %s was removed; it is made again", self._folder)
                self._troubles.record("folder", f"the run folder {self._folder} was removed; it is made again")
        except OSError as error:
            self._troubles.record(kind_of(error, "folder"), f"the run folder {self._folder} cannot be made: {error}")
        self._mailbox.bind_again()
        news = self._troubles.news()
        if news:
            self._mailbox.say(self._roster.plane.homes[GATEWAY], wire.Troubled(LAUNCHER, news))

    def _kill(self, name: str, reason: str) -> None:
        child = self.children.get(name)
        if child is not None and name not in self._stopping and name not in self._killed:
            log.warning("'%s' is killed: %s", name, reason)
            self._killed[name] = reason
            self._beats.forget(name)
            child.kill()

    def _finish(self) -> None:
        self._finished = True

    def _end(self, names: set[str], how: str) -> None:
        self._stopping |= names
        for name in names & self.children.keys():
            getattr(self.children[name], how)()

    # -- processes ----------------------------------------------------------------------------------------------------

    def _start_all(self) -> None:
        for name in [*(node.name for node in self._roster.plane.nodes), *self._others]:
            try:
                self._start(name)
            except (OSError, ClusterError) as error:
                self._fail(f"node '{name}' cannot be started: {error}")
                return

    def _start(self, name: str) -> None:
        """Raises OSError."""
        log = Path(self._roster.plane.logs.folder or self._folder) / f"{name}.log"
        command = self._others.get(name) or self._beside.get(name)
        if command is not None:
            child: Process = LocalProcess(name, command, log)
        else:
            child = self._launcher.start(self._roster.plane.node(name), self._node, self._folder, log)
        self.children[name] = child
        self._poller.register(child.handle, zmq.POLLIN)
        if name not in self._beside and child.place is not None:
            self._beats.expect(name, self._start_s)

    def _settle(self, child: Process) -> None:
        """A host has room for it: it begins there, and the others hear where that is."""
        if child.place is None or child.name in self._stopping:
            return
        self.absent.discard(child.name)
        try:
            self._roster.settle(child.name, child.place)
        except OSError:
            child.kill()  # it is placed anew
            raise
        child.begin(self._roster.plane)
        self._beats.expect(child.name, self._start_s)

    def _do_without(self, now: float) -> None:
        """Who waits for a host with room is told of; workers are planned without until there is one."""
        for node in self._roster.plane.nodes:
            name = node.name
            if self.waits(name) and name not in self.absent and now - self.children[name].started > PLACE_S:
                self.absent.add(name)
                said = f"'{name}' has waited {PLACE_S:g} s for a host of the cluster with room"
                log.warning("%s", said)
                self._troubles.record("room", said)
                if node.is_worker:
                    self._roster.lose(node, "no host has room for it")
        self._mailbox.flush()

    def _reap(self, child: Process) -> None:
        """Tell first: batches in the hands of workers are given to others within milliseconds."""
        name, now, code = child.name, time.monotonic(), child.reap()
        del self.children[name]
        self.up.discard(name)
        self._beats.forget(name)
        killed = self._killed.pop(name, "")
        if name in self._stopping:
            return
        words, how = child.last_words(), f"signal {-code}" if code < 0 else f"code {code}"
        if not self.warm:
            self._fail(f"node '{name}' ended with {how}: {words}")
            return
        reason = killed or f"its process ended with {how}"
        if name in self._beside:
            self._lose_beside(name, reason, words, now)
            return
        self._due[name] = self._budgets[name].next_start(now - child.started, now)
        if name not in self._others:
            self._try(self._roster.succeed, self._roster.plane.node(name), reason)
            if name == self._roster.plane.homes[GATEWAY]:
                self._troubles.tell_again()
        self.ended.append(f"'{name}': {reason}: {words}")
        log.warning("'%s' is gone: %s; %s. Its last words: %s", name, reason, told(self._due[name] - now), words)

    def _lose_beside(self, name: str, reason: str, words: str, now: float) -> None:
        at = self._few[name].next_start(now)
        if at is not None:
            self._due[name] = at
        said = "it is started again" if at is not None else f"it was started {FEW_STARTS} times and stays away"
        self.ended.append(f"'{name}': {reason}: {words}")
        log.warning("'%s' is gone: %s; %s. Its last words: %s", name, reason, said, words)
        self._troubles.record(name, f"'{name}' is gone: {reason}; {said}: {words}")

    def _start_again(self, name: str, now: float) -> None:
        """A disk that is full, or a host without room for a process, may have room later."""
        del self._due[name]
        if name in self._stopping:
            return
        try:
            if name not in self._others and name not in self._beside:
                self._roster.plane.write(self._folder)
            self._start(name)
        except ClusterError as error:
            self._fail(str(error))
        except OSError as error:
            self._due[name] = self._budgets[name].next_start(0.0, now)
            log.warning("'%s' cannot be started: %s; %s", name, error, told(self._due[name] - now))
            self._troubles.record(kind_of(error, "process"), f"'{name}' cannot be started: {error}")
            if not self.children:
                self._fail(f"no process of the plane is left, and '{name}' cannot be started: {error}")
        else:
            self.restarted += 1
            self._budgets[name].restarted(now)

    def _fail(self, sentence: str) -> None:
        """The first failure is the cause of the others."""
        log.error("%s", sentence)
        self.failure = self.failure or sentence
