"""What a thread waits for a core, as the kernel counts it: the part of a service time that is no model's."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter, thread_time
from typing import NamedTuple

# Of the thread that reads it: time on a core [ns], time ready to run without one [ns], turns on a core.
SCHEDSTAT = Path("/proc/thread-self/schedstat")


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


def _waited_s() -> float | None:
    try:
        figures = SCHEDSTAT.read_bytes().split()
    except OSError:
        return None
    # A thread that reads this has had a turn: where none is counted, nothing is.
    return int(figures[1]) / 1e9 if len(figures) == 3 and int(figures[2]) else None
