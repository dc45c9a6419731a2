"""Synthetic demand: its kinds, and how a rate becomes whole requests. Reads no file and knows no pipeline."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite, pi

import numpy as np
from numpy.typing import NDArray

from loki_rl.core.draws import BURSTY, GENERATE
from loki_rl.traces.arrivals import MAX_ARRIVALS, generator
from loki_rl.traces.demand import Trace, TraceError

PEAK = 4.7
BIN_S = 1.0
ON_SHARE = 0.25
GENERATED = "generated"

Rates = NDArray[np.float64]
Shape = Callable[[Rates, float, float, np.random.Generator], Rates]


def generate(
    kind: str,
    seconds: int,
    base_rps: float,
    seed: int,
    *,
    peak: float = PEAK,
    idc: float = 1.0,
    period_s: float | None = None,
) -> Trace:
    """Make a trace of `seconds` bins of 1 s whose rate moves between base_rps and peak x base_rps [requests/s]; of exact
    arrivals where the kind is "mmpp", and around base_rps where it is "bursty".

    kind: "flash_crowd" (base for a third, peak within 30 s, held for a third, down within 10 s), "diurnal" (one smooth wave
    a period), "ramp" (steady rise), "bursts" (on and off, exponential durations, on for a quarter of the mean period),
    "steps" (random levels, one a period), "mmpp" (a Poisson process that switches between base and peak at any instant,
    with exponential stays, at the peak for a quarter of the mean period: burstiness inside the second as well), "bursty"
    (what agents are trained on, see `bursty`). period_s: default the whole trace for diurnal, a sixth of it for bursts and
    steps, a sixtieth for mmpp. idc: variance over mean of the counts given the rate; 1 is Poisson, below 1 smoother, above 1
    clumped; mmpp has its own. bursty has its own of all three.
    Raises TraceError for an unknown kind or a number out of range.
    """
    if kind not in KINDS:
        raise TraceError(f"unknown kind of demand '{kind}'; known are {', '.join(KINDS)}")
    period = seconds * KINDS[kind] if period_s is None else period_s
    for name, value in (("seconds", seconds), ("base_rps", base_rps), ("peak", peak), ("idc", idc), ("period_s", period)):
        if not (isfinite(value) and value > 0):
            raise TraceError(f"{name} must be above 0, not {value:g}")
    if kind == "bursty":
        if (peak, idc, period_s) != (PEAK, 1.0, None):
            raise TraceError("bursty draws its own bursts around the base rate; leave peak, idc and period_s out")
        return bursty(seconds, base_rps, seed)
    rng = generator(seed, GENERATE)
    if kind == "mmpp":
        return _mmpp(seconds, base_rps, peak, period, idc, rng)
    starts = np.arange(seconds, dtype=np.float64) * BIN_S
    level = SHAPES[kind](starts, float(seconds), period, rng)
    rates: Rates = base_rps * (1 + (peak - 1) * level)
    return Trace(kind, starts, _counts(rates * BIN_S, idc, rng), BIN_S, GENERATED)


def _mmpp(seconds: int, base_rps: float, peak: float, period_s: float, idc: float, rng: np.random.Generator) -> Trace:
    if idc != 1:
        raise TraceError(f"the burstiness of mmpp follows from peak and period_s; leave idc at 1 instead of {idc:g}")
    most = seconds * base_rps * max(peak, 1.0)
    if most > MAX_ARRIVALS:
        raise TraceError(f"up to {most:.3g} arrivals are more than {MAX_ARRIVALS:g}; make it shorter")
    means_s = (1 - ON_SHARE) * period_s, ON_SHARE * period_s
    times = switching((base_rps, peak * base_rps), means_s, float(seconds), rng)
    if not len(times):
        raise TraceError(f"no request arrived in {seconds} s at {base_rps:g} requests/s; raise one of them")
    return Trace("mmpp", times, np.ones(len(times), np.int64), 0.0, GENERATED)


def switching(
    rates: tuple[float, float], means_s: tuple[float, float], seconds: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Times [s] in [0, seconds), sorted, of Markov-modulated Poisson arrivals: two states take turns, each for an
    exponential time of its own mean [s], with arrivals at its own rate [1/s]. It starts in the long run's mix of states."""
    first = int(rng.random() >= means_s[0] / sum(means_s))
    ends: list[float] = []
    now, state = 0.0, first
    while now < seconds:
        now += float(rng.exponential(means_s[state]))
        ends.append(min(now, seconds))
        state = 1 - state
    stays = np.diff(ends, prepend=0.0)
    counts = rng.poisson(np.array(rates)[(np.arange(len(ends)) + first) % 2] * stays)
    starts = np.array([0.0, *ends[:-1]])
    times = np.repeat(starts, counts) + np.repeat(stays, counts) * rng.random(int(counts.sum()))
    sorted_times: NDArray[np.float64] = np.sort(times)
    return sorted_times


def _counts(means: Rates, idc: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Whole numbers with the given means and variance = idc x mean (for idc < 1 as near as a binomial comes)."""
    if idc == 1:
        return rng.poisson(means)
    if idc < 1:
        trials = np.ceil(means / (1 - idc)).astype(np.int64)
        return rng.binomial(trials, means / np.maximum(trials, 1))
    return rng.negative_binomial(means / (idc - 1), 1 / idc)


# -- shapes: level 0 (base) .. 1 (peak) at each time ----------------------------------------------------------------------


def _flash_crowd(times: Rates, seconds: float, _: float, __: np.random.Generator) -> Rates:
    rise, fall = min(30.0, seconds / 6), min(10.0, seconds / 18)
    start, hold = seconds / 3, seconds / 3
    corners = np.cumsum([start, rise, hold, fall])
    return np.interp(times, corners, [0.0, 1.0, 1.0, 0.0])


def _diurnal(times: Rates, _: float, period_s: float, __: np.random.Generator) -> Rates:
    wave: Rates = (1 - np.cos(2 * pi * times / period_s)) / 2
    return wave


def _ramp(times: Rates, seconds: float, _: float, __: np.random.Generator) -> Rates:
    return np.interp(times, [0.0, max(seconds - BIN_S, BIN_S)], [0.0, 1.0])


def _bursts(times: Rates, seconds: float, period_s: float, rng: np.random.Generator) -> Rates:
    # Twice the mean number of phases, and a few more, covers the trace; the last one lasts as long as it is needed.
    phases = 2 * (2 * int(seconds / period_s) + 8)
    means = np.where(np.arange(phases) % 2 == 0, (1 - ON_SHARE) * period_s, ON_SHARE * period_s)
    ends = np.cumsum(rng.exponential(means))
    level: Rates = (np.searchsorted(ends, times, side="right") % 2).astype(np.float64)
    return level


def _steps(times: Rates, seconds: float, period_s: float, rng: np.random.Generator) -> Rates:
    levels = rng.random(int(seconds / period_s) + 1)
    held: Rates = levels[(times / period_s).astype(np.int64)]
    return held


SHAPES: dict[str, Shape] = {
    "flash_crowd": _flash_crowd,
    "diurnal": _diurnal,
    "ramp": _ramp,
    "bursts": _bursts,
    "steps": _steps,
}
# Kind -> default period as a share of the trace.
KINDS = {"flash_crowd": 1.0, "diurnal": 1.0, "ramp": 1.0, "bursts": 1 / 6, "steps": 1 / 6, "mmpp": 1 / 60, "bursty": 1.0}


# -- bursty: a change of the generator or of a range is a new version of the environments -----------------------------------

# Ranges, uniform unless said: wave of +-10 to 50 % over 300 to 1200 s; a burst every 60 to 180 s on average, +30 to 120 %,
# 30 % of them within a second and the others over 8 to 40 s, held 10 to 60 s, gone over 10 to 60 s; AR(1) noise of 5 %.
AMPLITUDE = (0.1, 0.5)
PERIOD_S = (300.0, 1200.0)
BETWEEN_S = (60.0, 180.0)
HEIGHT = (0.3, 1.2)
SUDDEN = 0.3
RAMP_S = (8.0, 40.0)
HOLD_S = (10.0, 60.0)
FALL_S = (10.0, 60.0)
NOISE, MEMORY = 0.05, 0.95


def bursty(seconds: int, mean_rps: float, seed: int, bursts: float = 1.0, heights: float = 1.0) -> Trace:
    """What agents are trained on: a slow wave, bursts with ramps, autocorrelated noise. `seconds` bins of 1 s around
    mean_rps [requests/s], Poisson given the rate; the same for the same seed.

    bursts, heights: multiply how often bursts come and how high they are (0 bursts: none).
    """
    rng = generator(seed, BURSTY)
    times = np.arange(seconds, dtype=np.float64) * BIN_S
    shape = _wave(times, rng) * _surges(times, rng, bursts, heights) * _noise(seconds, rng)
    counts = rng.poisson(mean_rps * shape / shape.mean() * rng.uniform(0.8, 1.2))
    return Trace("bursty", times, counts.astype(np.int64), BIN_S, GENERATED)


def _wave(times: Rates, rng: np.random.Generator) -> Rates:
    amplitude, period, phase = rng.uniform(*AMPLITUDE), rng.uniform(*PERIOD_S), rng.uniform(0, 2 * np.pi)
    wave: Rates = 1 + amplitude * np.sin(2 * np.pi * times / period + phase)
    return wave


def _surges(times: Rates, rng: np.random.Generator, often: float, heights: float) -> Rates:
    level = np.ones(len(times))
    for corners, height in _drawn(float(times[-1]), rng, often, heights):
        level += np.interp(times, corners, [0.0, 1.0, 1.0, 0.0]) * height
    return level


def _drawn(seconds: float, rng: np.random.Generator, often: float, heights: float) -> list[tuple[Rates, float]]:
    """Every burst: when it begins, has risen, begins to fall and is over [s], and its height."""
    found: list[tuple[Rates, float]] = []
    between, start = rng.uniform(*BETWEEN_S), 0.0
    while often > 0:
        start += rng.exponential(between / often)
        if start >= seconds:
            break
        rise = 1.0 if rng.random() < SUDDEN else rng.uniform(*RAMP_S)
        corners = start + np.cumsum([0.0, rise, rng.uniform(*HOLD_S), rng.uniform(*FALL_S)])
        found.append((corners, float(rng.uniform(*HEIGHT) * heights)))
    return found


def begun(seconds: int, seed: int, ahead_s: tuple[int, ...], bursts: float = 1.0, heights: float = 1.0) -> Rates:
    """[seconds, ahead_s] of a `bursty` trace what nobody can see: by how much the bursts that have begun by each second will
    raise demand so many seconds later, as a share of what it is without any."""
    rng, times = generator(seed, BURSTY), np.arange(seconds, dtype=np.float64) * BIN_S
    _wave(times, rng)
    found = np.zeros((seconds, len(ahead_s)))
    for corners, height in _drawn(float(times[-1]), rng, bursts, heights):
        later = np.interp(times[:, None] + np.array(ahead_s), corners, [0.0, 1.0, 1.0, 0.0]) * height
        found += np.where(times[:, None] >= corners[0], later, 0.0)
    return found


def _noise(seconds: int, rng: np.random.Generator) -> Rates:
    shocks = rng.normal(0.0, NOISE * np.sqrt(1 - MEMORY**2), seconds)
    values = np.empty(seconds)
    last = 0.0
    for second, shock in enumerate(shocks):
        last = MEMORY * last + shock
        values[second] = last
    return np.exp(values)
