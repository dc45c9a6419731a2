"""Habits of the clock: demand by minute of the hour, hour of the day and day of the week, where it shows that there are any.

Times are whole or broken seconds since Monday, 5 January 1970, 00:00 UTC.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Annotated, NamedTuple

import numpy as np
from msgspec import Meta, Struct

from loki_rl.control.demand.estimators import Floats

# What is so old counts half [s]: 60 days.
HALF_LIFE_S = 60 * 86_400.0
# A period counts where so much of it was seen.
SEEN = 0.75
# A habit is believed after so many periods (a little less than four: the oldest weeks of four have faded), where noise would
# look like one so seldom, and where it makes a difference of so much to some slot's demand.
PERIODS, SELDOM, SMALLEST = 3.5, 1e-3, 0.02

Weight = Annotated[float, Meta(ge=0, le=1e15)]


class Cycle(NamedTuple):
    """A period of so many slots of `slot_s` [s] each. smooth: what lies between the middles of two slots is between them."""

    name: str
    slots: int
    slot_s: int
    smooth: bool


CYCLES = (
    Cycle("minute of the hour", 60, 60, smooth=False),
    Cycle("hour of the day", 24, 3600, smooth=True),
    Cycle("day of the week", 7, 86_400, smooth=True),
)


class Habit(Struct, forbid_unknown_fields=True):
    """Demand of each slot of a cycle [slots], as multiples of the mean of the period around. weights: periods that counted;
    totals, squares: sums of these and of their squares. period: number of the one under way; rates: of its slots [1/s]."""

    weights: list[Weight]
    totals: list[Weight]
    squares: list[Weight]
    rates: list[Weight | None]
    period: int = 0

    @classmethod
    def none(cls, slots: int) -> Habit:
        return cls([0.0] * slots, [0.0] * slots, [0.0] * slots, [None] * slots)

    def count(self, slot: int, rate: float, keep: float) -> tuple[int, float] | None:
        """A slot, by its number since time 0, had this mean rate [1/s]. Number and mean rate of the period that has ended,
        if one has; keep: what former ones count then."""
        period, place = divmod(slot, len(self.weights))
        ended = self._end(keep) if period != self.period else None
        self.period, self.rates[place] = period, rate
        return self._end(keep) if place == len(self.weights) - 1 else ended

    def _end(self, keep: float) -> tuple[int, float] | None:
        seen = [rate for rate in self.rates if rate is not None]
        mean = sum(seen) / max(len(seen), 1)
        rates, self.rates = self.rates, [None] * len(self.rates)
        if len(seen) < SEEN * len(rates):
            return None
        for place, rate in enumerate(rates if mean > 0 else ()):
            own = [column[place] * keep for column in (self.weights, self.totals, self.squares)]
            times = [0.0] * 3 if rate is None else [1.0, rate / mean, (rate / mean) ** 2]
            self.weights[place], self.totals[place], self.squares[place] = map(sum, zip(own, times, strict=True))
        return self.period, mean

    def factors(self) -> Floats | None:
        """What to multiply demand by in each slot, shrunk by how much of it may be noise; None where none is shown."""
        weights, periods = np.array(self.weights), min(self.weights)
        if periods < PERIODS:
            return None
        means = np.array(self.totals) / weights
        around = float(np.average(means, weights=weights))
        between = float((weights * (means - around) ** 2).sum())
        within = max(0.0, float((np.array(self.squares) - weights * means**2).sum()))
        ratio = between * (periods - 1) / within if within > 0 else inf
        if around <= 0 or np.abs(means / around - 1).max() < SMALLEST or chance(ratio, round(periods)) > SELDOM:
            return None
        found: Floats = 1 + (means / around - 1) * (1 - 1 / ratio)
        return np.maximum(found, 0.01)


def chance(ratio: float, periods: int) -> float:
    """How seldom noise makes the slots of so many periods differ by this F ratio or more. Neighbouring slots may be as alike
    as they like (the lower bound of Greenhouse and Geisser 1959: 1 and `periods` - 1 degrees of freedom)."""
    from scipy.special import fdtrc  # by the time that a calendar is asked for, a fifth of a second does not count

    return float(fdtrc(1, periods - 1, ratio))


def count_minute(habits: Sequence[Habit], minute: int, rate: float) -> None:
    """A minute, by its number since time 0, had this mean rate [1/s]: so had its hour at the end of that, and so on."""
    ended: tuple[int, float] | None = minute, rate
    for cycle, habit in zip(CYCLES, habits, strict=True):
        if ended is None:
            return
        ended = habit.count(*ended, 0.5 ** (cycle.slots * cycle.slot_s / HALF_LIFE_S))


def season(factors: Sequence[Floats | None], times_s: Floats) -> Floats:
    """What to multiply a usual demand by at these times. factors: of each cycle, None for one without."""
    found = np.ones(len(times_s))
    for cycle, mine in zip(CYCLES, factors, strict=True):
        if mine is None:
            continue
        place = times_s / cycle.slot_s - (0.5 if cycle.smooth else 0.0)
        slot = np.floor(place).astype(np.int64)
        share = place - slot if cycle.smooth else 0.0
        found *= (1 - share) * mine[slot % cycle.slots] + share * mine[(slot + 1) % cycle.slots]
    return found
