"""What counts per second say of the chance that demand exceeds a level, free of scale. Pure functions of the counts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from loki_rl.control.demand.estimators import FLOOR_RPS, PEAK_S, Floats, together
from loki_rl.control.demand.exceedance import MEMORY_S
from loki_rl.control.demand.regime import Regime, regime, stayed_s

# Chances are told apart down to here: rarer ones are worth no server.
RARE = 3e-4
# Shares of the last so many seconds above a level.
SHARES_S = (5, 15, 60, MEMORY_S)
MEANS_S = (3, 10, 30)
SLOPE_S = 8
CLIP = 4.0
LONG = float(np.log(MEMORY_S))
# Belief, distances and visits of each level, and the state of demand.
FEATURES = 1 + 7 + (len(SHARES_S) + 5) + 15


def log_odds(chance: Floats) -> Floats:
    """Of chances, as far as they are told apart."""
    likely = np.clip(chance, RARE, 1 - RARE)
    found: Floats = np.log(likely / (1 - likely))
    return found


def features(counts: Floats, levels: Floats, above: Floats, mean_rps: float, lead_s: float) -> Floats:
    """Rows [n, FEATURES], one for each level [n, 1/s]. counts [H >= 1]: per second, the last one latest; above [n]: how
    likely each is believed to be exceeded within the lead [s]; mean_rps: of the long run."""
    counts = counts[-MEMORY_S:]
    now, demand = regime(counts), together(counts, PEAK_S)
    of_each = (
        log_odds(above) / 4,
        *_distances(counts, demand, levels, mean_rps, now),
        *_visits(demand[None, :] > levels[:, None]),
    )
    rows = np.empty((len(levels), FEATURES))
    rows[:, : len(of_each)] = np.clip(np.column_stack(of_each), -CLIP, CLIP)
    rows[:, len(of_each) :] = _state(counts, demand, mean_rps, lead_s, now)
    return rows


def _log(rate: float | Floats) -> Floats:
    found: Floats = np.log(np.maximum(rate, FLOOR_RPS))
    return found


def _distances(counts: Floats, demand: Floats, levels: Floats, mean_rps: float, now: Regime) -> list[Floats]:
    """From what demand is and was to each level: as ratios, and in deviations."""
    rates = (now.level_rps, mean_rps, counts[-1], counts[-PEAK_S:].mean(), demand.max())
    sigmas = np.clip((levels - now.level_rps) / now.deviation_rps, -8.0, 8.0)
    return [*(np.log(levels) - _log(rate) for rate in rates), sigmas / 4, np.tanh(sigmas)]


def _visits(over: NDArray[np.bool_]) -> list[Floats]:
    """How often demand was above each level, for how long not or no more, and how often it went there. over [n, H]."""
    size, newest, ups = over.shape[1], over[:, ::-1], (over[:, 1:] & ~over[:, :-1]).sum(axis=1)
    since = [np.where(one.any(axis=1), one.argmax(axis=1), size) for one in (newest, ~newest)]
    seconds = over.sum(axis=1)
    shares = [over[:, -last:].mean(axis=1) for last in SHARES_S]
    ages = [np.log1p(one) / LONG for one in (*since, np.minimum(*since))]
    return [*shares, *ages, *(np.log((ups + 0.3) / (there + 5)) / 4 for there in (size - seconds, seconds))]


def _state(counts: Floats, demand: Floats, mean_rps: float, lead_s: float, now: Regime) -> list[float]:
    """What is the same for all levels."""
    level, usual = _log(now.level_rps), _log(mean_rps)
    short, middle, long = (float(_log(counts[-last:].mean())) for last in MEANS_S)
    new = now.rose_from > 0
    return [
        np.log(len(counts)) / LONG,
        np.log(lead_s / 10),
        np.log(now.held_s) / 3.5,
        np.log1p(stayed_s(counts)) / LONG,
        np.log(now.dispersion) / 2,
        max(now.level_rps, 1.0) ** -0.5,
        now.changed,
        float(level - usual),
        float(np.clip(short - level, -2, 2)),
        float(np.clip(middle - usual, -3, 3)),
        float(np.clip(long - usual, -3, 3)),
        float(np.clip(_slope(counts[-SLOPE_S:]) / max(now.level_rps, mean_rps, 1.0), -2, 2)),
        float(np.clip(_log(now.rose_from) - level, -3, 3)) if new else 0.0,
        float(new),
        float(_log(demand.max()) - usual),
    ]


def _slope(recent: Floats) -> float:
    """What the straight line through them rises by [1/s]."""
    size = len(recent)
    if size < PEAK_S + 1:
        return 0.0
    times = np.arange(size) - (size - 1) / 2
    return float(times @ recent / (times @ times)) * size
