"""Forecasts of demand as quantiles, from the requests counted per second: classical forecasters, and their error."""

from __future__ import annotations

from statistics import NormalDist
from typing import Protocol

import numpy as np
from msgspec import Struct

from loki_rl.control.demand.estimators import FLOOR_RPS, PEAK_S, Floats, busiest, deviation, mean, smoothed

QUANTILES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
TARGET = QUANTILES.index(0.9)
HISTORY_S = 300
SMOOTHING = 0.8  # of errors
# How far the peak of some ten seconds of noise lies above its mean, in standard deviations of a second's count.
PEAK_SIGMAS = 1.0


class Forecast(Struct, frozen=True, eq=False):
    """For n histories: mean [n] demand [1/s] over the lead, and quantiles [n, 6] of its busiest PEAK_S seconds [1/s]."""

    mean: Floats
    quantiles: Floats


class Forecaster(Protocol):
    """Counts per second [n, H], oldest first and without gaps, to a forecast for the next lead_s [s]; H >= 1."""

    def __call__(self, counts: Floats, lead_s: float) -> Forecast: ...


def outcome(counts: Floats) -> tuple[float, float]:
    """What a forecast is about, once the lead [K] is over: its mean and its busiest PEAK_S seconds [1/s]."""
    return mean(counts, len(counts)), busiest(counts, PEAK_S)


def pinball(quantiles: Floats, actual: Floats) -> Floats:
    """Mean pinball loss [n] of quantile forecasts [n, 6] (Koenker and Bassett 1978), in the unit of the demand."""
    error = actual[:, None] - quantiles
    levels = np.array(QUANTILES)
    loss: Floats = np.maximum(levels * error, (levels - 1) * error).mean(axis=1)
    return loss


def relative_error(quantiles: Floats, mean_rps: Floats, peak_rps: Floats) -> Floats:
    """Pinball error [n] of quantile forecasts [n, 6] of the peak, relative to demand [n]."""
    return pinball(quantiles, peak_rps) / np.maximum(mean_rps, FLOOR_RPS)


class Tracker:
    """Relative error of past forecasts, exponentially smoothed: how far the forecaster is off of late."""

    def __init__(self) -> None:
        self.error: float | None = None
        self._due: list[tuple[int, float, Floats]] = []

    def made(self, second: int, lead_s: float, forecast: Forecast) -> None:
        """Remember a forecast made at the end of this second."""
        self._due.append((second + round(lead_s), lead_s, forecast.quantiles))

    def observe(self, second: int, counts: Floats) -> None:
        """Settle the forecasts whose lead is over by the end of this second; counts: [H] up to it."""
        for due, lead_s, quantiles in [row for row in self._due if row[0] <= second]:
            end = len(counts) - (second - due)
            seen = counts[max(0, end - round(lead_s)) : end]
            if len(seen):
                mean_rps, peak_rps = outcome(seen)
                error = float(relative_error(quantiles, np.array([mean_rps]), np.array([peak_rps]))[0])
                self.error = error if self.error is None else SMOOTHING * self.error + (1 - SMOOTHING) * error
        self._due = [row for row in self._due if row[0] > second]


# -- classical forecasters ------------------------------------------------------------------------------------------------


def deviations(counts: Floats, level: Floats) -> Floats:
    """`deviation` [n] of n histories around their levels [n]."""
    return np.array([deviation(row, one) for row, one in zip(counts, level, strict=True)])


def around(level: Floats, counts: Floats) -> Forecast:
    """A level [n] with the noise of the recent counts around it."""
    sigma = deviations(counts, level) / np.sqrt(PEAK_S)
    scores = np.array([NormalDist().inv_cdf(q) for q in QUANTILES])
    return Forecast(level, level[:, None] + (PEAK_SIGMAS + scores) * sigma[:, None])


def persistence(counts: Floats, lead_s: float) -> Forecast:  # noqa: ARG001  (as it was, for any lead)
    """The last seconds go on."""
    return around(counts[:, -PEAK_S:].mean(axis=1), counts)


def ewma(counts: Floats, lead_s: float) -> Forecast:  # noqa: ARG001
    """The exponentially weighted mean goes on."""
    return around(smoothed(counts), counts)


def holt(counts: Floats, lead_s: float, alpha: float = 0.3, beta: float = 0.1, damping: float = 0.9) -> Forecast:
    """Level and damped trend (Gardner and McKenzie 1985), at the end of the lead or now, whichever is higher."""
    level, trend = counts[:, :5].mean(axis=1), np.zeros(len(counts))
    for count in counts.T:
        before = level
        level = alpha * count + (1 - alpha) * (level + damping * trend)
        trend = beta * (level - before) + (1 - beta) * damping * trend
    ahead = damping * (1 - damping**lead_s) / (1 - damping)
    return around(np.maximum(level, level + trend * ahead).clip(0.0), counts)


def seasonal(counts: Floats, lead_s: float, period_s: int = 240) -> Forecast:
    """The same stretch one period ago, scaled to the present level; persistence where the history is shorter."""
    lead = round(lead_s)
    start = counts.shape[1] - period_s
    if start < PEAK_S:
        return persistence(counts, lead_s)
    then = counts[:, start - PEAK_S : start].mean(axis=1)
    scale = counts[:, -PEAK_S:].mean(axis=1) / np.maximum(then, FLOOR_RPS)
    return around(counts[:, start : start + lead].mean(axis=1) * scale.clip(0.5, 2.0), counts)


def envelope(counts: Floats, lead_s: float, window_s: int = 60) -> Forecast:
    """The busiest stretch of the last minute over several widths, up at once and down slowly (InferLine, SoCC'20)."""
    recent = counts[:, -window_s:]
    widths = [w for w in (5, 10, 20) if w <= recent.shape[1]] or [recent.shape[1]]
    peaks = np.array([max(busiest(row, width) for width in widths) for row in recent])
    return Forecast(ewma(counts, lead_s).mean, around(peaks, counts).quantiles)


FORECASTERS: dict[str, Forecaster] = {
    "persistence": persistence,
    "ewma": ewma,
    "holt": holt,
    "seasonal": seasonal,
    "envelope": envelope,
}
