"""Bursty synthetic demand for training and tests: a slow wave, bursts with ramps, autocorrelated noise. Owns the generator
and the ranges it draws from (version 0; a change of either is a new environment version); knows no pipeline."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from loki_rl.core.draws import FLUID_DEMAND
from loki_rl.traces.arrivals import generator
from loki_rl.traces.trace import Trace

BIN_S = 1.0

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

Rates = NDArray[np.float64]


def bursty(seconds: int, mean_rps: float, seed: int, bursts: float = 1.0, heights: float = 1.0) -> Trace:
    """A trace of `seconds` bins of 1 s around mean_rps [requests/s], Poisson given the rate; the same for the same seed.

    bursts, heights: multiply how often bursts come and how high they are (0 bursts: none).
    """
    rng = generator(seed, FLUID_DEMAND)
    times = np.arange(seconds, dtype=np.float64) * BIN_S
    shape = _wave(times, rng) * _bursts(times, rng, bursts, heights) * _noise(seconds, rng)
    counts = rng.poisson(mean_rps * shape / shape.mean() * rng.uniform(0.8, 1.2))
    return Trace("bursty", times, counts.astype(np.int64), BIN_S)


def _wave(times: Rates, rng: np.random.Generator) -> Rates:
    amplitude, period, phase = rng.uniform(*AMPLITUDE), rng.uniform(*PERIOD_S), rng.uniform(0, 2 * np.pi)
    wave: Rates = 1 + amplitude * np.sin(2 * np.pi * times / period + phase)
    return wave


def _bursts(times: Rates, rng: np.random.Generator, often: float, heights: float) -> Rates:
    level = np.ones(len(times))
    between, start = rng.uniform(*BETWEEN_S), 0.0
    while often > 0:
        start += rng.exponential(between / often)
        if start >= times[-1]:
            break
        rise = 1.0 if rng.random() < SUDDEN else rng.uniform(*RAMP_S)
        corners = start + np.cumsum([0.0, rise, rng.uniform(*HOLD_S), rng.uniform(*FALL_S)])
        level += np.interp(times, corners, [0.0, 1.0, 1.0, 0.0]) * rng.uniform(*HEIGHT) * heights
    return level


def _noise(seconds: int, rng: np.random.Generator) -> Rates:
    shocks = rng.normal(0.0, NOISE * np.sqrt(1 - MEMORY**2), seconds)
    values = np.empty(seconds)
    last = 0.0
    for second, shock in enumerate(shocks):
        last = MEMORY * last + shock
        values[second] = last
    return np.exp(values)
