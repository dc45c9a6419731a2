"""Word of it when machine code is made rather than found: once after an install or an update, for about a minute in which
nothing else happens. Owns who is told; knows no compiler."""

from __future__ import annotations

import logging
from collections.abc import Callable

log = logging.getLogger(__name__)

SENTENCE = "compiling the allocator for this machine: once after an install or an update, about a minute"


class Compiling:
    """The process' own. watchers: told when the compiler begins (True) and when it has ended (False), each time, from the
    thread that compiles."""

    def __init__(self) -> None:
        self.watchers: list[Callable[[bool], None]] = []
        self._depth = 0  # functions that are compiled because another one calls them are part of that one
        self._said = False

    def begin(self) -> None:
        self._depth += 1
        if self._depth == 1:
            self._tell(True)
        if not self._said:
            # As a warning: Python shows those on standard error where nobody has set up logs.
            self._said = True
            log.warning(SENTENCE)

    def end(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._tell(False)

    def _tell(self, busy: bool) -> None:
        for watcher in self.watchers:
            watcher(busy)


compiling = Compiling()
