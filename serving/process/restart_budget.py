"""How soon a process that ended may be started again."""

from __future__ import annotations

from collections import deque

# A process that lived longer than this has done its work: its next end is a first one again. Restarts are counted over the
# same time, in which even the largest model is loaded and has served.
WINDOW_S = 60.0
# Restarts within the window. One that ends more often will end again: every start of it costs the others a core for seconds.
RESTARTS = 5
FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 30.0
# Of what a plane does not need.
FEW_STARTS, FEW_DELAY_S = 4, 5.0


class RestartBudget:
    """Of one process. Its first restart comes at once, the next ones after delays that double; after RESTARTS within the
    window it stays away until the window has room again."""

    def __init__(self) -> None:
        self._restarts: deque[float] = deque(maxlen=RESTARTS)
        self._ends = 0

    def next_start(self, lived_s: float, now: float) -> float:
        """When it may be started again [s], now that it ended after lived_s (0: it could not be started at all)."""
        if lived_s > WINDOW_S:
            self._restarts.clear()
            self._ends = 0
        delay_s = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(self._ends - 1, 16)) if self._ends else 0.0
        self._ends += 1
        spent = len(self._restarts) == RESTARTS
        return max(now + delay_s, self._restarts[0] + WINDOW_S) if spent else now + delay_s

    def restarted(self, now: float) -> None:
        """It was started again."""
        self._restarts.append(now)


class FewStarts:
    """Of one process that a plane does not need: each start comes a while after its end, and after a few it stays away."""

    def __init__(self) -> None:
        self._starts = 1

    def next_start(self, now: float) -> float | None:
        """When it may be started again [s], now that it ended; None: never."""
        self._starts += 1
        return now + FEW_DELAY_S if self._starts <= FEW_STARTS else None


def told(wait_s: float) -> str:
    """What is said of the wait for a start."""
    if wait_s > LONGEST_DELAY_S:
        return f"it was started again {RESTARTS} times within {WINDOW_S:g} s and stays away for {wait_s:.0f} s"
    return f"it is started again in {wait_s:.1f} s" if wait_s > 0 else "it is started again"
