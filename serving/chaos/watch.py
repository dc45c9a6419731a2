"""What the plane shows of itself while faults happen: which processes are gone, and what its state tells."""

from __future__ import annotations

import threading
import time

from msgspec import Struct

from loki_rl.core.messages import number_of
from loki_rl.serving.gateway.client import Client, ClientError
from loki_rl.serving.process.launch import LocalPlane
from loki_rl.serving.state import PlaneState

# Between two looks at the processes, and at the state [s].
LOOK_S, STATE_S = 0.02, 0.25
ASK_S = 1.0
# An exit code of a process that nobody killed: it failed by itself.
FAILED = "ended with code"


class Sign(Struct, frozen=True):
    """at: when it was seen [s]. what: 'gone' (a process), 'failure' (a load), 'drift', 'unready', 'silent' or 'mute' (no
    state at all). whom: the process, if it is one."""

    at: float
    what: str
    whom: str = ""


class Watch:
    """`with Watch(plane) as watch`: looks in threads of its own. signs: what was seen, each when it began, in order.
    crashes: processes that ended by themselves, and their last words. Raises nothing: what it cannot see is a sign too."""

    def __init__(self, plane: LocalPlane) -> None:
        self.signs: list[Sign] = []
        self.crashes: list[str] = []
        self._serving: dict[int, str] = {}
        self._plane = plane
        self._pids = plane.pids
        self._failures: list[str] = []
        self._shown: set[str] = set()
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=look, daemon=True) for look in (self._look_on, self._ask)]

    def serves(self, node: str) -> str:
        """What the only worker of a process served when it was last told, as 'task/variant'; empty for nothing."""
        return self._serving.get(number_of(node.replace("workers-", "worker:")), "")

    def __enter__(self) -> Watch:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _look_on(self) -> None:
        while not self._stopped.wait(LOOK_S):
            now, pids = time.monotonic(), self._plane.pids
            for name, pid in self._pids.items():
                if pids.get(name) != pid:
                    self.signs.append(Sign(now, "gone", name))
            self._pids = pids
            self.crashes += [end for end in self._plane.ended if FAILED in end and end not in self.crashes]

    def _ask(self) -> None:
        with Client(self._plane.front, ASK_S) as client:
            while not self._stopped.wait(STATE_S):
                try:
                    shown = self._read(client.state())
                except ClientError:
                    shown = {"mute"}
                now = time.monotonic()
                self.signs += [Sign(now, what) for what in sorted(shown - self._shown)]
                self._shown = shown

    def _read(self, state: PlaneState) -> set[str]:
        shown = {"unready"} if state.unready else set()
        shown |= {"silent"} if state.silent or state.control is None else set()
        if state.control is not None:
            shown |= {"drift"} if state.control.drift else set()
            shown |= {"failure"} if state.control.failures != self._failures else set()
            self._failures = state.control.failures
            self._serving = {worker.number: worker.serving for worker in state.control.workers}
        return shown
