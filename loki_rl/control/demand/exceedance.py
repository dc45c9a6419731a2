"""How likely demand is to exceed each of many levels, from counts per second."""

from __future__ import annotations

from math import erf, sqrt

import numpy as np

from loki_rl.control.compiled import compiled
from loki_rl.control.demand.estimators import Floats

# Demand that was never seen here is thought of up to so many times the mean.
HIGHEST = 5.0
# Levels that were reached a while ago come back.
MEMORY_S = 300
# So many seconds on either side of a level are thought to have passed without a crossing before anything was seen.
SETTLED_S = 10.0

# Beyond so many standard deviations (times the root of 2) a double says that normal noise never reaches.
NEVER = 6.0


@compiled
def tail(levels: Floats, center: float, deviation: float) -> Floats:
    """How likely a normal variable exceeds each level [n]."""
    found = np.zeros(len(levels))
    for i in range(len(levels)):
        away = (levels[i] - center) / (sqrt(2.0) * deviation)
        if away < NEVER:
            found[i] = 0.5 - 0.5 * erf(away)
    return found


@compiled
def passages(levels: Floats, demand: Floats) -> tuple[Floats, Floats]:
    """Of each level [n], ascending: how many of the seconds [H] were above it, and how often demand went up or down through
    it. It comes from below."""
    size = len(levels)
    # Of every level: seconds whose highest level below demand it is, and how often demand crosses it, as differences.
    held, crossed = np.zeros(size + 1), np.zeros(size + 1)
    before = 0
    for place in np.searchsorted(levels, demand):
        held[place] += 1.0
        crossed[min(before, place)] += 1.0
        crossed[max(before, place)] -= 1.0
        before = place
    for i in range(size):
        crossed[i + 1] += crossed[i]
    # Who is above a level is above all lower ones.
    for i in range(size - 1, 0, -1):
        held[i] += held[i + 1]
    return held[1:], crossed[:size]


@compiled
def again(levels: Floats, demand: Floats, lead_s: float) -> Floats:
    """Share of the lead above each level [n], from below it: it has been crossed before, so it will be, at a time that is as
    likely early as late. Never more than the share of all seconds [H] that were above it."""
    size, seconds = len(levels), len(demand)
    above, crossed = passages(levels, demand)
    late = np.zeros(size)
    for i in range(size - 1, -1, -1):
        # Up and down are counted, and the end is not.
        expected = np.ceil(crossed[i] / 2) / max(seconds - above[i], 1.0) * lead_s / 2
        late[i] = max(min(above[i] / max(seconds, 1), expected), late[i + 1] if i + 1 < size else 0.0)
    return late


@compiled
def stays(levels: Floats, demand: Floats, band_rps: float, lead_s: float) -> Floats:
    """Share of the lead above each level [n] if demand [H] is above it now: it leaves a level and comes back at the rates
    at which it did (a Markov chain of two states), and does not leave where it never has. band_rps: above it all is the
    present level and its noise; what keeps demand above one level keeps it above all lower ones."""
    above, crossed = passages(levels, demand)
    found, least_of = np.zeros(len(levels)), 0.0
    top = max(int(np.searchsorted(levels, band_rps)) - 1, 0)
    for i in range(top, -1, -1):
        left, came = np.floor(crossed[i] / 2), np.ceil(crossed[i] / 2)
        share = 1.0
        if left > 0.0:
            leaving, coming = left / (above[i] + SETTLED_S), came / (len(demand) - above[i] + SETTLED_S)
            rate = leaving + coming
            once = (1.0 - np.exp(-rate * lead_s)) / max(rate * lead_s, 1e-12)
            share = (coming + leaving * once) / rate
        found[i] = least_of = max(share, least_of)
    found[top:] = found[top]
    return found


@compiled
def seen(levels: Floats, demand: Floats) -> Floats:
    """Share of the demand [H] above each level [n]."""
    share = np.zeros(len(levels))
    for place in np.searchsorted(levels, demand):
        if place > 0:
            share[place - 1] += 1.0
    for i in range(len(levels) - 1, 0, -1):
        share[i - 1] += share[i]
    return share / max(len(demand), 1)
