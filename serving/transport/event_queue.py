"""A queue from other threads to a driver's loop, with a file descriptor to wait on."""

from __future__ import annotations

import os
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class EventQueue(Generic[T]):
    """Any thread (and a signal handler) may put; one thread waits for `handle` to become readable and collects."""

    def __init__(self) -> None:
        self._waiting: deque[T] = deque()
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    @property
    def handle(self) -> int:
        return self._fd

    def put(self, thing: T) -> None:
        self._waiting.append(thing)
        self.wake()

    def wake(self) -> None:
        """Make the waiting thread look around."""
        os.eventfd_write(self._fd, 1)

    def collect(self, _now: float) -> list[T]:
        """Everything handed over so far. The signal is cleared first, so that nothing put later is slept over."""
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            return []
        taken: list[T] = []
        while self._waiting:
            taken.append(self._waiting.popleft())
        return taken

    def close(self) -> None:
        os.close(self._fd)
