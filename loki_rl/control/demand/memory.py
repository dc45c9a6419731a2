"""What a belief gets of a history that goes on with what a run counts."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
from msgspec import Struct

from loki_rl.control.demand.estimators import Floats
from loki_rl.control.demand.history import History
from loki_rl.control.demand.seasonality import season


class Past(Struct, frozen=True):
    """seconds: that the history has of what was before the last `fresh` counts. heights, often: of its jumps, as multiples
    of the mean, and how many were as high [n]. lifted: what demand of each counted second would be now by the clock, as a
    multiple of what it was; ahead: demand in each second of the lead, as a multiple of that now."""

    seconds: float
    fresh: int
    heights: Floats
    often: Floats
    lifted: Floats
    ahead: Floats

    @classmethod
    def none(cls, counted: int, seen_s: int) -> Past:
        """Of nothing but these counts, the last `seen_s` of which were seen."""
        empty = np.zeros(0)
        return cls(0.0, seen_s, empty, empty, np.ones(counted), np.ones(1))


class Memory:
    """history: goes on with what this is shown."""

    def __init__(self, history: History) -> None:
        self.history = history
        self._factors = [habit.factors() for habit in history.habits]
        self._known_s = history.seconds

    def see(self, arrivals: Sequence[int], end_s: float) -> None:
        """Requests in each of the latest seconds, the last of which ended at `end_s` [s, see seasonality]. Those that are in
        the history are not counted again."""
        end, until = round(end_s), self.history.until_s
        known = until - (end - len(arrivals))
        new = arrivals[known:] if 0 <= known <= len(arrivals) else arrivals
        if new:
            self.history.extend(new, end - len(new))

    def past(self, counted: int, end_s: float, lead_s: float) -> Past:
        """counted: seconds that the belief sees beside this, the last of which ended at `end_s` [s]; lead_s: how long a plan
        must do [s]."""
        history = self.history
        if history.seconds != self._known_s:
            self._factors, self._known_s = [habit.factors() for habit in history.habits], history.seconds
        # By the middles of the seconds.
        usual = season(self._factors, np.arange(-counted, ceil(lead_s), dtype=np.float64) + round(end_s) + 0.5)
        present = usual[counted - 1]
        return Past(
            history.seconds,
            min(history.pending, counted),
            history.heights,
            np.array(history.jumps),
            present / usual[:counted],
            usual[counted:] / present,
        )
