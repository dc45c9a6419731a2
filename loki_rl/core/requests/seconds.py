"""The whole seconds of a run, which gateway, controller and routers count. Owns how far they go back; knows no actor."""

from __future__ import annotations

from math import floor

# Seconds counted one by one after a pause or a run's begin in the past; of what lies before them nothing is told.
MOST = 3600
# Beyond this a second more is lost in rounding.
FARTHEST_S = float(1 << 50)


def run_origin(origin: float) -> float:
    """The origin itself [s]. Raises ValueError for one from which no seconds can be counted."""
    if not -FARTHEST_S < origin < FARTHEST_S:
        raise ValueError(f"no seconds can be counted from {origin:g} s on")
    return origin


def latest(next_second: float, now: float) -> float:
    """Where reporting goes on: `next_second`, unless more than MOST whole seconds have passed since."""
    behind = floor(now - next_second) - MOST
    return next_second + behind if behind > 0 else next_second
