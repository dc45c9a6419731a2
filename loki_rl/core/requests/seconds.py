"""The whole seconds of a run, which gateway, controller and routers count."""

from __future__ import annotations

from math import floor, inf

# Seconds counted one by one after a pause or a run's begin in the past; of what lies before them nothing is told.
MOST = 3600
# Beyond this a second more is lost in rounding.
FARTHEST_S = float(1 << 50)


class Seconds:
    """Of one actor. origin: of trace time [s]; next: when the second under way ends [s], infinite before the first."""

    def __init__(self) -> None:
        self.origin = 0.0
        self.next = inf

    def begin(self, origin: float, since: float | None = None) -> None:
        """Count from `origin` [s]; what ended before `since` [s] is not told. Raises ValueError for an origin from which no
        seconds can be counted."""
        if not -FARTHEST_S < origin < FARTHEST_S:
            raise ValueError(f"no seconds can be counted from {origin:g} s on")
        self.origin = origin
        self.next = origin + (0 if since is None else floor(since - origin)) + 1.0

    def ended(self, now: float) -> list[int]:
        """Every second that has ended since the last call, also the quiet ones (the latest of them after a long pause)."""
        behind = floor(now - self.next) - MOST if now >= self.next else 0
        if behind > 0:
            self.next += behind
        found: list[int] = []
        while self.next <= now:
            found.append(round(self.next - self.origin) - 1)
            self.next += 1.0
        return found
