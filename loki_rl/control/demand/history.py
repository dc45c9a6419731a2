"""What hours and days of demand were like: how often it jumped and how high, how long it stayed where it was, and what it
does by the clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from msgspec import Meta, Struct, field

from loki_rl.control.demand.estimators import FLOOR_RPS, PEAK_S, Floats, together
from loki_rl.control.demand.exceedance import MEMORY_S
from loki_rl.control.demand.regime import JUMP, dispersion, jump_starts, stayed_s
from loki_rl.control.demand.seasonality import CYCLES, HALF_LIFE_S, SEEN, Habit, Weight, count_minute

VERSION = 1
MINUTE_S = 60
HIGHEST_RATIO = 64.0
BINS = 32
# Jumps by height, as a multiple of the mean over the MEMORY_S before: borders of the bins.
BORDERS = np.geomspace(JUMP, HIGHEST_RATIO, BINS + 1)

# A jump counts at each height by the share of so many seconds after it that demand was there.
AFTER_S = 10
RATES = AFTER_S - PEAK_S + 1
LONGEST_S = MEMORY_S + MINUTE_S
Counts = Annotated[list[Annotated[int, Meta(ge=0, le=10**9)]], Meta(max_length=LONGEST_S)]


class History(Struct, forbid_unknown_fields=True):
    """seconds: that were seen; what is old counts less (HALF_LIFE_S), here and below. jumps: by height, bins of BORDERS;
    stayed: sum over the seconds of how long demand had stayed where it was at the end of their minute [s]. habits: of
    CYCLES. until_s: end of the last second that was counted [s, see seasonality]; recent: counts of the last minutes, of
    which `pending` seconds are of a minute that has not ended and is not in the figures yet."""

    version: int = VERSION
    seconds: Weight = 0.0
    jumps: Annotated[list[Weight], Meta(min_length=BINS, max_length=BINS)] = field(default_factory=lambda: [0.0] * BINS)
    stayed: Weight = 0.0
    habits: list[Habit] = field(default_factory=lambda: [Habit.none(cycle.slots) for cycle in CYCLES])
    until_s: Annotated[int, Meta(ge=-(10**12), le=10**12)] = 0
    recent: Counts = field(default_factory=list)
    pending: Annotated[int, Meta(ge=0, lt=MINUTE_S)] = 0

    def __post_init__(self) -> None:
        """Raises ValueError for what no demand leads to."""
        if max(sum(self.jumps), self.stayed / LONGEST_S) > self.seconds * (1 + 1e-6):
            raise ValueError("it tells of more than happens in its seconds")
        if self.pending > len(self.recent):
            raise ValueError("it has fewer counts than it says")
        sizes = [len(row) for one in self.habits for row in (one.weights, one.totals, one.squares, one.rates)]
        if sizes != [cycle.slots for cycle in CYCLES for _ in range(4)]:
            raise ValueError("its calendar is not that of hours, days and weeks")

    def extend(self, counts: Sequence[int], start_s: int) -> None:
        """Requests in each of the seconds from `start_s` [s] on. Where there is a gap before, what was lies too far back to
        compare with."""
        if start_s != self.until_s:
            self._settle()
            self.recent, self.until_s = [], start_s
        place = 0
        while place < len(counts):
            part = counts[place : place + MINUTE_S - self.until_s % MINUTE_S]
            self.recent += map(int, part)
            self.pending += len(part)
            self.until_s += len(part)
            place += len(part)
            if self.until_s % MINUTE_S == 0:
                self._settle()

    def _settle(self) -> None:
        """Let what is pending count."""
        window, size = np.array(self.recent, np.float64), self.pending
        self.recent, self.pending = self.recent[-MEMORY_S:], 0
        if size >= SEEN * MINUTE_S:
            count_minute(self.habits, (self.until_s - 1) // MINUTE_S, float(window[-size:].mean()))
        if 0 < size < len(window):
            self._compare(window, size)

    def _compare(self, window: Floats, size: int) -> None:
        """The last seconds with those before."""
        keep = 0.5 ** (size / HALF_LIFE_S)
        mean_rps = max(float(window[:-size].mean()), FLOOR_RPS)
        jumped = _binned(_heights(window, size) / mean_rps) / RATES
        self.seconds = self.seconds * keep + size
        self.jumps = (np.array(self.jumps) * keep + jumped).tolist()
        self.stayed = self.stayed * keep + size * stayed_s(window)

    # -- what it says ---------------------------------------------------------------------------------------------------

    @property
    def heights(self) -> Floats:
        """Of the jumps in each bin, as a multiple of the mean [BINS]."""
        return np.sqrt(BORDERS[1:] * BORDERS[:-1])

    @property
    def stay_s(self) -> float:
        """For how long demand goes on where it is, in the mean [s]: as long as it has been there, either way in time."""
        return self.stayed / self.seconds if self.seconds else 0.0


def _heights(window: Floats, size: int) -> Floats:
    """How high demand was [1/s] in the AFTER_S after each jump of the last `size` seconds, PEAK_S together: what is over
    sooner is served from the queues. What has just jumped is told with the next minute."""
    starts, end = jump_starts(window, dispersion(window[-size:])), len(window) - AFTER_S
    starts = starts[(starts >= end - size) & (starts < end)]
    found: Floats = together(window, PEAK_S)[starts[:, None] + np.arange(RATES)].ravel()
    return found


def _binned(heights: Floats) -> Floats:
    """How many there are in each bin; those beyond the last are in it."""
    places = np.minimum(np.searchsorted(BORDERS, heights[heights >= JUMP], side="right") - 1, BINS - 1)
    return np.bincount(places, minlength=BINS).astype(np.float64)
