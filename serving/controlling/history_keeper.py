"""The long memory of a plane: what its controller counts goes into a file, each minute and at the end."""

from __future__ import annotations

import logging
import time
from math import inf
from pathlib import Path

import msgspec

from loki_rl.control.demand.history_file import read_history, replace_file
from loki_rl.control.demand.memory import Memory
from loki_rl.core.controller import Controller
from loki_rl.serving.controlling.policy import wall_clock_s
from loki_rl.serving.transport.serial_executor import SerialExecutor

log = logging.getLogger(__name__)

EVERY_S = 60.0


class HistoryKeeper:
    """file: goes on from what it holds. failures: times that it could not be written; the next minute tries again.

    The disk is left to a thread: it may be slow. Raises HistoryError for a file that cannot be read.
    """

    def __init__(self, file: Path, controller: Controller) -> None:
        self.failures = 0
        self._file = file
        self._controller = controller
        self._memory = Memory(read_history(file))
        self._clock_s = wall_clock_s()
        self._executor = SerialExecutor("history")
        self._write_at = -inf
        self._counted = 0.0

    def look(self, now: float) -> None:
        """Remember the seconds that have been counted, and write when it is time."""
        seconds, history = self._controller.seconds, self._controller.history
        end_s = seconds.origin + history.counted
        if seconds.next == inf or not history.arrivals or end_s == self._counted:
            return
        self._counted = end_s
        self._memory.see(history.arrivals, end_s + self._clock_s)
        if now >= self._write_at:
            self._write_at = now + EVERY_S
            self._write()

    def close(self, timeout_s: float) -> None:
        self.look(time.monotonic())
        self._write()
        self._executor.close(timeout_s)

    def _write(self) -> None:
        data = msgspec.json.encode(self._memory.history)
        self._executor.put(lambda: self._store(data))

    def _store(self, data: bytes) -> None:
        """In the thread."""
        try:
            replace_file(self._file, data)
        except OSError as error:
            if not self.failures:
                log.warning("what demand is like cannot be kept in %s: %s; requests are served on", self._file, error)
            self.failures += 1
