"""A timer that a poll loop can wait on, exact to some 50 microseconds where poll time-outs are whole milliseconds. Owns the
file descriptor; must not know what is due."""

from __future__ import annotations

import contextlib
import ctypes
import os
import time

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
    """Readable from the time it was set to, on the clock of time.monotonic()."""

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
        whole, nanoseconds = (0, 0) if at is None else divmod(max(1, round(at * 1e9)), 1_000_000_000)
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
