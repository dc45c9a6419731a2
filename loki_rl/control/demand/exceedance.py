"""How likely demand is to exceed each of many levels, from counts per second or from a forecast's quantiles."""

from __future__ import annotations

from math import erf, sqrt

import numpy as np

from loki_rl.control.compiled import compiled
from loki_rl.control.demand.estimators import FLOOR_RPS, PEAK_S, Floats, deviation, together
from loki_rl.control.demand.forecast import QUANTILES, TARGET

# Demand may jump at any time, up to HIGHEST times, to above r times what it is with chance rate / r per second. Room for it
# is cheap while demand is low. The rate is JUMPS / CALM_S at first and falls with every second seen without one (the mean of
# a gamma prior after Poisson events); a jump that did come is in what was seen. Chosen on generated bursts, crowds, steady
# demand and one day of tweets: half of the rate misses first crowds, twice as much gives accuracy away all day.
JUMPS = 0.4
CALM_S = 80.0
HIGHEST = 5.0
# Levels that were reached a while ago come back.
MEMORY_S = 300
# So many seconds on either side of a level are thought to have passed without a crossing before anything was seen.
SETTLED_S = 10.0

# Beyond so many standard deviations (times the root of 2) a double says that normal noise never reaches.
NEVER = 6.0

KNOWN = np.log(1 - np.array((0.0, *QUANTILES)))


@compiled
def chances(
    levels: Floats, counts: Floats, expected: float, lead_s: float, jumps: float = JUMPS, calm_s: float = CALM_S
) -> Floats:
    """Share of the lead's seconds in which demand is likely to exceed each level [n], ascending: the estimate may be off,
    what was seen comes back, and demand jumps. counts [H]: per second."""
    recent = counts[-MEMORY_S:]
    rate = jumps / (calm_s + len(recent))
    # A second's noise, though idle servers are kept for that: less of it and plans are late where demand begins to rise.
    sigma = deviation(recent, expected)
    total, noise = again(levels, together(recent, PEAK_S), lead_s), tail(levels, expected, sigma)
    for i in range(len(levels)):
        if levels[i] <= expected:
            total[i] = 1.0
            continue
        jump = rate * lead_s * expected / levels[i] if levels[i] <= HIGHEST * expected else 0.0
        total[i] = min(1.0, noise[i] + total[i] + jump)
    return total


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
def beyond(levels: Floats, mean_rps: float, quantiles: Floats) -> Floats:
    """How likely the busiest seconds exceed each level [n], by their quantiles [6]; exponential beyond the last of them."""
    places = np.empty(len(quantiles) + 1)
    places[0] = min(mean_rps, quantiles[0])
    places[1:] = quantiles
    slope = (KNOWN[-1] - KNOWN[TARGET + 1]) / max(quantiles[-1] - quantiles[TARGET], FLOOR_RPS)
    found: Floats = np.exp(np.interp(levels, places, KNOWN) + slope * np.maximum(levels - quantiles[-1], 0.0))
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
def stays(levels: Floats, demand: Floats, level_rps: float, lead_s: float) -> Floats:
    """Share of the lead above each level [n] if demand [H] is above it now: it leaves a level and comes back at the rates
    at which it did (a Markov chain of two states), and does not leave where it never has. level_rps: where it is now; what
    keeps it above one level keeps it above all lower ones."""
    above, crossed = passages(levels, demand)
    found, least_of = np.ones(len(levels)), 0.0
    for i in range(len(levels) - 1, -1, -1):
        left, came = np.floor(crossed[i] / 2), np.ceil(crossed[i] / 2)
        if left > 0.0:
            leaving, coming = left / (above[i] + SETTLED_S), came / (len(demand) - above[i] + SETTLED_S)
            rate = leaving + coming
            once = (1.0 - np.exp(-rate * lead_s)) / max(rate * lead_s, 1e-12)
            found[i] = (coming + leaving * once) / rate
        if levels[i] <= level_rps:
            found[i] = least_of = max(found[i], least_of)
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
