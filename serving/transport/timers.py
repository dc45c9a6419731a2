"""Calls that are due later, as a source of a driver, and the timer that they wait on."""

from __future__ import annotations

import contextlib
import ctypes
import heapq
import os
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from loki_rl.serving.clock import clock
from loki_rl.serving.transport.driver import Delivery

Call = Callable[[float], Iterable[Delivery]]

_libc = ctypes.CDLL(None, use_errno=True)
_ABSOLUTE = 1
# The timer call has no names for these in Python before 3.13; they are those of open(2).
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC


class _Spec(ctypes.Structure):
    """struct itimerspec."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


class DeadlineTimer:
    """Readable from the time it was set to, on the plane's clock. Exact to some 50 microseconds, where time-outs
    of a poll are whole milliseconds."""

    def __init__(self) -> None:
        self._fd = _checked(_libc.timerfd_create(time.CLOCK_MONOTONIC, _FLAGS))
        self._spec = _Spec()
        self._at: float | None = None

    @property
    def handle(self) -> int:
        return self._fd

    def set(self, at: float | None) -> None:
        """Ring at this time [s], at once if it is past; None: never."""
        if at == self._at:
            return
        self._at = at
        # Zero would mean never.
        whole, nanoseconds = (0, 0) if at is None else divmod(max(1, round(1e9 * (at - clock.ahead))), 1_000_000_000)
        self._spec.value_s, self._spec.value_ns = whole, nanoseconds
        _checked(_libc.timerfd_settime(self._fd, _ABSOLUTE, ctypes.byref(self._spec), None))

    def clear(self) -> None:
        """It has rung; be silent until set again."""
        self._at = None
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 8)

    def close(self) -> None:
        os.close(self._fd)


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


class _Due(NamedTuple):
    at: float
    order: int
    call: Call


class Timers:
    """A driver.Source; what a call returns is delivered."""

    def __init__(self) -> None:
        self._timer = DeadlineTimer()
        self._due: list[_Due] = []
        self._order = 0

    @property
    def handle(self) -> int:
        return self._timer.handle

    def after(self, seconds: float, call: Call) -> None:
        """Call so much later, with the time it is then."""
        self.at(clock() + seconds, call)

    def at(self, at: float, call: Call) -> None:
        """Call at this time [s], with the time it is then."""
        self._order += 1
        heapq.heappush(self._due, _Due(at, self._order, call))
        self._timer.set(self._due[0].at)

    def collect(self, now: float) -> Iterable[Delivery]:
        self._timer.clear()
        deliveries: list[Delivery] = []
        while self._due and self._due[0].at <= now:
            deliveries += heapq.heappop(self._due).call(now)
        self._timer.set(self._due[0].at if self._due else None)
        return deliveries

    def close(self) -> None:
        self._timer.close()
