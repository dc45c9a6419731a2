"""Carries faults out, and takes back those that last."""

from __future__ import annotations

import contextlib
import heapq
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

from loki_rl.core.requests.items import QoS
from loki_rl.serving.chaos.orders import CORRUPT, CURSES, MISSING, Curse, Orders
from loki_rl.serving.chaos.schedule import SLOWER, Fault
from loki_rl.serving.load.open_loop import Record
from loki_rl.serving.load.sender import Sender
from loki_rl.serving.process.launch import LocalPlane

# What cannot be taken back now, since the disk is full, is tried again so much later [s].
AGAIN_S = 0.2


class Saboteur:
    """site: where the plane's nodes look for orders. cursed: sends payload n modulo their number, by curse in the order of
    CURSES. serving: what the worker of a process serves, 'task/variant' or empty. records: of those requests, in the order
    sent."""

    def __init__(self, plane: LocalPlane, site: Path, orders: Orders, cursed: Sender, serving: Callable[[str], str]) -> None:
        self.records: list[Record] = []
        self._plane = plane
        self._site = site
        self._orders = orders
        self._cursed = cursed
        self._serving = serving
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._files = resource.getrlimit(resource.RLIMIT_FSIZE)

    def begin(self, fault: Fault) -> bool:
        """Whether it could be done: a process that is not there cannot be hurt. Raises OSError."""
        match fault.kind:
            case "kill":
                return self._signal(fault.target, signal.SIGKILL)
            case "stop":
                return self._stop(fault)
            case "hang":
                return self._send("hang")
            case "poison":
                return self._send("abort")
            case "slow":
                return self._slow(fault)
            case "corrupt" | "missing":
                return self._spoil(fault)
            case "disk":
                return self._fill(fault)
            case "withhold":
                return self._withhold(fault)

    def look(self) -> None:
        """Take back what has lasted long enough, and see what became of the requests."""
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            _, number, undo = heapq.heappop(self._due)
            try:
                undo()
            except OSError:
                heapq.heappush(self._due, (now + AGAIN_S, number, undo))
        for seen in self._cursed.poll():
            self.records[seen.number // len(CURSES)].end(now, seen)

    @property
    def waiting(self) -> bool:
        """Whether something is still to be taken back, or a request has no end yet."""
        return bool(self._due) or any(not record.ends for record in self.records)

    def close(self) -> None:
        """Take everything back at once."""
        for _, _, undo in self._due:
            undo()
        self._due.clear()
        self._cursed.close()

    def _later(self, fault: Fault, undo: Callable[[], None]) -> bool:
        heapq.heappush(self._due, (time.monotonic() + fault.for_s, fault.number, undo))
        return True

    # -- processes ----------------------------------------------------------------------------------------------------

    def _signal(self, name: str, number: int) -> bool:
        pid = self._plane.pids.get(name)
        with contextlib.suppress(ProcessLookupError):
            if pid is not None:
                os.kill(pid, number)
                return True
        return False

    def _stop(self, fault: Fault) -> bool:
        """Who is killed for its silence meanwhile needs no word to go on."""
        pid = self._plane.pids.get(fault.target)

        def go_on() -> None:
            if self._plane.pids.get(fault.target) == pid:
                self._signal(fault.target, signal.SIGCONT)

        return self._signal(fault.target, signal.SIGSTOP) and self._later(fault, go_on)

    def _fill(self, fault: Fault) -> bool:
        """No file may grow: what a full disk looks like to a process, without need for a disk of its own. A process that is
        started now has to do without too, and its launcher."""
        self._limit((0, self._files[1]))

        def empty() -> None:
            self._limit(self._files)
            # Who was started while the limits were lifted.
            self._limit(self._files)

        return self._later(fault, empty) and self._signal(fault.target, signal.SIGKILL)

    def _limit(self, limits: tuple[int, int]) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        for pid in self._plane.pids.values():
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)

    # -- requests -----------------------------------------------------------------------------------------------------

    def _send(self, curse: Curse) -> bool:
        now, place = time.monotonic(), len(self.records)
        if not self._cursed.send(place * len(CURSES) + CURSES.index(curse), QoS()):
            return False
        self.records.append(Record(now, now))
        return True

    # -- orders -------------------------------------------------------------------------------------------------------

    def _slow(self, fault: Fault) -> bool:
        self._orders.slow[fault.target] = SLOWER
        self._orders.write(self._site)

        def as_usual() -> None:
            self._orders.slow.pop(fault.target, None)
            self._orders.write(self._site)

        return self._later(fault, as_usual) and fault.target in self._plane.pids

    def _spoil(self, fault: Fault) -> bool:
        model = self._serving(fault.target)
        if not model:
            return False
        self._orders.spoilt[model] = CORRUPT if fault.kind == "corrupt" else MISSING
        self._orders.write(self._site)

        def whole() -> None:
            self._orders.spoilt.pop(model, None)
            self._orders.write(self._site)

        return self._later(fault, whole) and self._signal(fault.target, signal.SIGKILL)

    def _withhold(self, fault: Fault) -> bool:
        one, other = fault.target.split()
        self._orders.withheld.append((one, other))
        self._orders.write(self._site)

        def let_go() -> None:
            with contextlib.suppress(ValueError):
                self._orders.withheld.remove((one, other))
            self._orders.write(self._site)

        return self._later(fault, let_go) and {one, other} <= self._plane.pids.keys()
