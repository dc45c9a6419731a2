"""What a thread waits for a core, as the kernel counts it: the part of a service time that is no model's."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from time import perf_counter, thread_time
from typing import NamedTuple

# Of the thread that reads it: time on a core [ns], time ready to run without one [ns], turns on a core.
SCHEDSTAT = "/proc/thread-self/schedstat"
LONGEST = 128


class ThreadTime(NamedTuple):
    """Of one thread, since some time ago [s]. waited: part of the wall time in which it was ready and had no core."""

    wall: float
    waited: float

    def since(self, earlier: ThreadTime) -> ThreadTime:
        return ThreadTime(self.wall - earlier.wall, max(0.0, self.waited - earlier.waited))

    @property
    def own(self) -> float:
        """What is left of the wall time [s]."""
        return max(0.0, self.wall - self.waited)


def waits_are_told() -> bool:
    """Whether this kernel counts what threads wait for a core. Some containers do without."""
    return _waited_s() is not None


def thread_time_of_now() -> ThreadTime:
    """Of the calling thread. Nothing counts as waited where the kernel does not tell."""
    return ThreadTime(perf_counter(), _waited_s() or 0.0)


def busy_time_of_now() -> ThreadTime:
    """Of the calling thread, where the kernel does not tell and all work is done in it: all but its CPU time is waiting."""
    wall = perf_counter()
    return ThreadTime(wall, wall - thread_time())


class Schedstat:
    """The file of the thread that makes this, opened once: opening takes most of the time of a look, and what is read is of
    whoever opened it. Closed with the last reference, which is the thread's."""

    def __init__(self, path: str) -> None:
        self._handle: int | None = None
        with suppress(OSError):
            self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def waited_s(self) -> float | None:
        """None where the kernel does not tell."""
        if self._handle is None:
            return None
        try:
            figures = os.pread(self._handle, LONGEST, 0).split()
        except OSError:
            return None
        # A thread that reads this has had a turn: where none is counted, nothing is.
        return int(figures[1]) / 1e9 if len(figures) == 3 and int(figures[2]) else None

    def __del__(self) -> None:
        if self._handle is not None:
            os.close(self._handle)


class _OfThread(threading.local):
    def __init__(self) -> None:
        self.schedstat = Schedstat(SCHEDSTAT)


_here = _OfThread()


def _waited_s() -> float | None:
    return _here.schedstat.waited_s()
