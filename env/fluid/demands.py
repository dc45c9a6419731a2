"""Windows of generated demand: one kind of the generator at one level, or kind, level and shape drawn per window."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, log

import numpy as np

from loki_rl.core.draws import FLUID_CUTS
from loki_rl.traces.arrivals import generator
from loki_rl.traces.generate import KINDS, bursty, generate
from loki_rl.traces.trace import Trace

Sampler = Callable[[int, int], Trace]

CALM = "calm"
# Twice as often as the others: what a cluster sees most of the time, and what agents are first trained on.
DRAWN = (CALM, CALM, "bursty", "bursty", "mmpp", "bursts", "steps", "flash_crowd", "diurnal", "ramp")
# Mean of each kind's level between base and peak.
MEANS = {"flash_crowd": 0.4, "diurnal": 0.5, "ramp": 0.5, "bursts": 0.25, "steps": 0.5, "mmpp": 0.25}
# A window is cut out of demand that lasts so many times as long, so that a crowd may begin anywhere in it.
LONGER = 2
PEAKS, PERIODS_S, DISPERSIONS = (1.5, 8.0), (20.0, 300.0), (1.0, 1.0, 2.0, 4.0)
HEIGHTS = (0.5, 2.0)
# The mean demand is up to so many times what the cluster serves with its best variants, and up to a share of all it serves.
LEVELS, MOST_SHARE = (0.3, 10.0), 0.8
GENERATED = (CALM, *KINDS)


def bursty_sampler(mean_rps: float, bursts: float = 1.0, heights: float = 1.0) -> Sampler:
    """Windows of the bursty generator."""
    return lambda seconds, seed: bursty(seconds, mean_rps, seed, bursts, heights)


def drawn_sampler(kind: str | None, mean_rps: float | None, best_rps: float, most_rps: float) -> Sampler:
    """Windows of one kind, or of any; of this mean [1/s], or any level. best_rps, most_rps: what the cluster serves with
    its best variants, and at all [1/s]."""

    def sample(seconds: int, seed: int) -> Trace:
        rng = generator(seed, FLUID_CUTS)
        chosen = kind or DRAWN[int(rng.integers(len(DRAWN)))]
        highest = max(LEVELS[0] * best_rps, min(LEVELS[1] * best_rps, MOST_SHARE * most_rps))
        level = mean_rps or _log_uniform(rng, (LEVELS[0] * best_rps, highest))
        return _drawn(chosen, seconds, level, seed, rng)

    return sample


def _drawn(kind: str, seconds: int, mean_rps: float, seed: int, rng: np.random.Generator) -> Trace:
    if kind == "bursty":
        return bursty(seconds, mean_rps, seed, 1.0, _log_uniform(rng, HEIGHTS))
    idc = 1.0 if kind == "mmpp" else float(rng.choice(DISPERSIONS))
    if kind == CALM:
        return generate("steps", seconds, mean_rps, seed, peak=1.0, idc=idc)
    peak, period_s = _log_uniform(rng, PEAKS), _log_uniform(rng, PERIODS_S)
    base_rps = mean_rps / (1 + (peak - 1) * MEANS[kind])
    whole = generate(kind, LONGER * seconds, base_rps, seed, peak=peak, idc=idc, period_s=period_s)
    return _cut(whole, int(rng.integers((LONGER - 1) * seconds)), seconds)


def _cut(trace: Trace, begin: int, seconds: int) -> Trace:
    """So many seconds of it, from a second on."""
    low, high = np.searchsorted(trace.starts_s, (begin, begin + seconds))
    if not trace.exact:
        return Trace(trace.name, trace.starts_s[low:high] - begin, trace.counts[low:high], trace.bin_s, trace.source)
    counts = np.bincount(trace.starts_s[low:high].astype(np.int64) - begin, minlength=seconds)
    return Trace(trace.name, np.arange(seconds, dtype=np.float64), counts, 1.0, trace.source)


def _log_uniform(rng: np.random.Generator, ends: tuple[float, float]) -> float:
    return exp(rng.uniform(log(ends[0]), log(ends[1])))
