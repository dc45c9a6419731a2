"""What demand may come, as slices from what is sure to what is hardly likely."""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from loki_rl.control.demand.estimators import FLOOR_RPS, PEAK_S, Counts, Floats, ahead, mean, together
from loki_rl.control.demand.exceedance import HIGHEST, MEMORY_S, again, seen, stays, tail
from loki_rl.control.demand.history import AFTER_S
from loki_rl.control.demand.memory import Past
from loki_rl.control.demand.regime import BAND, BEFORE_S, Regime, jump_starts, regime
from loki_rl.control.formulation.request import Slice

# Fine enough that rounding up to a level costs nothing to speak of: 1.5 % a step.
GRID = 512
# Demand is cut where the chance that it is exceeded falls below these.
CUTS = (0.97, 0.6, 0.2, 0.03, 0.001)
# What is believed before anything is seen: so many jumps in so many seconds, to HIGHEST times the mean at most.
JUMPS, CALM_S = 0.05, 5.0
# A jump to h says that demand may go above z > h with the chance (h / z) ** STEEP.
STEEP = 8.0
# A level is new for so long, and what rises then is thought to rise for so long [s], with the chance EVEN at first, along a
# line through no fewer than LINE_S seconds.
RISING_S, RISE_LEAD_S, LINE_S, EVEN = 8, 6.0, 4, 0.5


class Coming(Struct, frozen=True, eq=False):
    """expected_rps: the mean of what may come; slices: all that may; mean_rps: of the long run [1/s]. above: chance that
    demand exceeds each level of the belief that says so; none where there is no belief."""

    expected_rps: float
    slices: tuple[Slice, ...]
    mean_rps: float
    above: Floats = np.zeros(0)


class Belief:
    """most_rps: what the whole cluster can serve; more is of no interest."""

    def __init__(self, most_rps: float) -> None:
        self.levels: Floats = np.geomspace(FLOOR_RPS, max(most_rps, 2 * FLOOR_RPS), GRID)

    def from_history(
        self, counts: Floats, lead_s: float, caution: float = 1.0, seen_s: int | None = None, past: Past | None = None
    ) -> Coming:
        """After these counts per second [H >= 1]. lead_s: how long a plan must do [s]; caution: by how much more crowds that
        were never seen here are prepared for (0: not at all); seen_s: how many of the counts, the last ones, were seen, and
        not only expected (all by default); past: what was before, and what the clock says."""
        seen_s = len(counts) if seen_s is None else seen_s
        past, long_run = past or Past.none(len(counts), seen_s), mean(counts, MEMORY_S)
        recent = counts[-MEMORY_S:]
        # What the clock makes of demand is no change of it; where the clock says that it falls, that is believed once seen.
        counts = counts * np.maximum(past.lifted, 1.0)
        now, usual = regime(counts), max(mean(counts, MEMORY_S), FLOOR_RPS)
        held, lasting = self._held(now), stays(self.levels, recent, now.level_rps / BAND, lead_s)
        above = held * lasting + (1 - held) * again(self.levels, together(recent, PEAK_S), lead_s)
        above += self._jumps(counts, now, usual, lead_s, caution, seen_s, past)
        expected = now.level_rps
        if now.held_s == 1 and now.changed:
            expected = now.changed * now.level_rps + (1 - now.changed) * now.rose_from
        elif now.held_s <= RISING_S:
            above = np.maximum(above, self._rising(counts, now, lead_s))
        above = np.maximum(above, self._shifted(above, past.ahead))
        expected = max(expected * float(past.ahead.mean()), FLOOR_RPS)
        return self.coming(above, max(long_run, expected), expected)

    def _shifted(self, above: Floats, ahead: Floats) -> Floats:
        """What the clock makes of it, each second of the lead."""
        times, seconds = np.unique(ahead, return_counts=True)
        by_time = [np.interp(self.levels / one, self.levels, above) for one in times]
        found: Floats = np.average(by_time, axis=0, weights=seconds)
        return found

    def _held(self, now: Regime) -> Floats:
        """Demand is at its level. The first second of another began in it: by what its count was, the level may be any
        that is higher."""
        held = tail(self.levels, now.level_rps, now.deviation_rps)
        if not now.changed:
            return held
        before = Regime(now.rose_from, BEFORE_S, now.dispersion)
        if now.level_rps > now.rose_from:
            held = np.maximum(held, np.minimum(1.0, now.level_rps / self.levels) ** 2)
        mixed: Floats = now.changed * held + (1 - now.changed) * tail(self.levels, before.level_rps, before.deviation_rps)
        return mixed

    def _rising(self, counts: Floats, now: Regime, lead_s: float) -> Floats:
        """What has begun to rise goes on."""
        top = ahead(counts, min(lead_s, RISE_LEAD_S), max(LINE_S, now.held_s))
        if top <= now.level_rps:
            return np.zeros(len(self.levels))
        share = np.clip(1 - (self.levels - now.level_rps) / (top - now.level_rps), 0.0, 1.0)
        rising: Floats = np.where(self.levels > now.level_rps, EVEN * share, 0.0)
        return rising

    def _jumps(
        self, counts: Floats, now: Regime, usual: float, lead_s: float, caution: float, seen_s: int, past: Past
    ) -> Floats:  # fmt: skip
        """How often demand has jumped says how often it will (the mean of a gamma prior after Poisson events): as high as it
        did, and by the prior as high as it never did. Calm days do not unsay what is seen now."""
        starts = jump_starts(counts, now.dispersion)
        # The history tells of a jump once it is over.
        fresh = starts[starts >= len(counts) - past.fresh - AFTER_S]
        unseen = np.where(self.levels <= HIGHEST * usual, caution * JUMPS * np.minimum(1.0, usual / self.levels), 0.0)
        known = past.often @ self._reached(past.heights * usual) + self._reached(counts[fresh]).sum(axis=0)
        rate = (unseen + known) / (CALM_S + past.seconds + past.fresh)
        of_late = self._reached(counts[starts]).sum(axis=0) / (CALM_S + seen_s)
        found: Floats = np.minimum(1.0, lead_s * np.maximum(rate, of_late))
        return found

    def _reached(self, heights: Floats) -> Floats:
        """How likely each level is exceeded after a jump to each height [n, GRID]."""
        found: Floats = np.minimum(1.0, heights[:, None] / self.levels) ** STEEP
        return found

    def from_future(self, coming: Counts, mean_rps: float) -> Coming:
        """Before these counts per second, known beforehand."""
        counts = np.maximum(np.asarray(coming, np.float64), FLOOR_RPS)
        # A second's count is known, not when in it: a deviation more keeps its queues short.
        return self.coming(seen(self.levels, counts + np.sqrt(counts)), mean_rps, float(counts.mean()))

    def coming(self, above: Floats, mean_rps: float, expected: float) -> Coming:
        """above [GRID]: chance that demand exceeds each level."""
        above = np.minimum(np.minimum.accumulate(above), 1.0)
        return Coming(min(expected, float(self.levels[-1])), slices(self.levels, above), mean_rps, above)


def warm() -> None:
    """Load the compiled loops, or compile them (once per installation, some seconds), before a cluster waits for a plan."""
    Belief(FLOOR_RPS).from_history(np.array((1.0, 3.0, 1.0)), 1.0)


def slices(levels: Floats, above: Floats) -> tuple[Slice, ...]:
    """One for each of CUTS; those of no width repeat the one below. above: falls with the level, from 1 at most."""
    widths = np.diff(levels, prepend=0.0)
    found, below, chance = list[Slice](), 0, 1.0
    for end in np.searchsorted(-above, -np.array(CUTS), side="left"):
        if end > below:
            chance = min(chance, float(np.average(above[below:end], weights=widths[below:end])))
            found.append(Slice(float(levels[end - 1]), chance))
            below = int(end)
    found = found or [Slice(float(levels[0]), 1.0)]
    return (*found, *(len(CUTS) - len(found)) * [found[-1]])
