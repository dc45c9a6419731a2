"""Word of it when machine code is made rather than found: after an install or an update, for about a minute in which
nothing else happens. Owns who is told; knows no compiler."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

SENTENCE = "compiling for this machine what this command needs: about a minute the first time after an install or an update"
# The first plan compiles about 180 functions, those of numpy and numba among them; policies need a few more, and who finds
# some of them kept compiles fewer. Nothing else tells how far it is.
MOST = 200
# Between two words of it [s].
LINE_S = 10.0


class Compiling:
    """The process' own. watchers: told when the compiler begins (True) and when it has ended (False), each time, from the
    thread that compiles. clock: tells seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.watchers: list[Callable[[bool], None]] = []
        self._clock = clock
        self._depth = 0  # functions that are compiled because another one calls them are part of that one
        self._made, self._since, self._spent_s, self._said_s = 0, 0.0, 0.0, 0.0

    def begin(self) -> None:
        self._depth += 1
        if self._depth == 1:
            self._since = self._clock()
            self._tell(True)
            if not self._made:
                # As a warning: Python shows those on standard error where nobody has set up logs.
                log.warning(SENTENCE)

    def end(self) -> None:
        self._depth -= 1
        self._made += 1
        spent_s = self._spent_s + self._clock() - self._since
        if spent_s - self._said_s >= LINE_S:
            self._said_s = spent_s
            of = f" of at most {MOST}" if self._made <= MOST else ""
            log.warning("compiling: %d%s functions after %.0f s", self._made, of, spent_s)
        if self._depth == 0:
            self._spent_s = spent_s
            self._tell(False)

    def _tell(self, busy: bool) -> None:
        for watcher in self.watchers:
            watcher(busy)


compiling = Compiling()
