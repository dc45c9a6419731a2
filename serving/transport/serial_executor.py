"""A thread that does one errand after another."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

Errand = Callable[[], None]


class SerialExecutor:
    """Errands must not raise: they report their own failure. The thread is a daemon: a model that never returns must not
    keep the process alive."""

    def __init__(self, name: str) -> None:
        self._errands: queue.SimpleQueue[Errand | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def put(self, errand: Errand) -> None:
        self._errands.put(errand)

    def close(self, timeout_s: float) -> None:
        """Finish what was put before, for at most this long."""
        self._errands.put(None)
        self._thread.join(timeout_s)

    def _work(self) -> None:
        while (errand := self._errands.get()) is not None:
            errand()
