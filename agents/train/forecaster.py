"""Training of the quantile forecaster with torch; its features and inference are in control/demand/forecast_learned.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.lib.stride_tricks import sliding_window_view

from loki_rl.control.demand.estimators import FLOOR_RPS, PEAK_S, Floats, together
from loki_rl.control.demand.forecast import QUANTILES, Forecaster, relative_error
from loki_rl.control.demand.forecast_learned import FEATURES, QuantileNet, features
from loki_rl.control.demand.tanh_network import layers_of
from loki_rl.core.draws import FORECASTER
from loki_rl.traces.arrivals import arrivals, generator
from loki_rl.traces.generate import bursty
from loki_rl.traces.trace import Trace, TraceError, TraceOptions

HIDDEN = 48
HISTORY_S = 120
LEADS_S = (10.5, 12.0, 15.0, 20.0, 30.0)
# What part of a trace's time is for what.
SHARES = {"train": (0.0, 0.6), "validation": (0.6, 0.8), "test": (0.8, 1.0)}


class ForecastData(Struct, frozen=True, eq=False):
    """histories [n, H] counts per second, lead [n] [s], mean [n] and peak [n] of what followed [1/s]."""

    histories: Floats
    lead: Floats
    mean: Floats
    peak: Floats


def synthetic(windows: int, first_seed: int, seconds: int = 900, every_s: int = 7) -> ForecastData:
    """Samples from the bursty generator at levels of 5 to 1000 requests/s, with every window's own lead."""
    rows = []
    for seed in range(first_seed, first_seed + windows):
        rng = generator(seed, FORECASTER)
        counts = bursty(seconds, float(np.exp(rng.uniform(np.log(5), np.log(1000)))), seed).counts.astype(np.float64)
        rows.append(samples(counts, float(rng.choice(LEADS_S)), every_s))
    return joined(rows)


def joined(sets: Sequence[ForecastData]) -> ForecastData:
    """All samples of several sets, in their order."""
    return ForecastData(*(np.concatenate([getattr(one, name) for one in sets]) for name in ForecastData.__struct_fields__))


def from_trace(trace: Trace, part: str, every_s: int = 7) -> ForecastData:
    """Samples from one part of a trace, for every lead: it is cut by time, so that no part has seconds of another. Raises
    TraceError if the part is too short."""
    counts = np.bincount(arrivals(trace, TraceOptions(), 0).astype(np.int64)).astype(np.float64)
    low, high = (round(share * len(counts)) for share in SHARES[part])
    if high - low < HISTORY_S + 2 * max(LEADS_S):
        raise TraceError(f"trace '{trace.name}' is too short to learn from: {high - low} s for {part}")
    return joined([samples(counts[low:high], lead_s, every_s * len(LEADS_S)) for lead_s in LEADS_S])


def samples(counts: Floats, lead_s: float, every_s: int) -> ForecastData:
    """Histories and what followed, every so many seconds of one series."""
    lead = round(lead_s)
    ends = np.arange(HISTORY_S, len(counts) - lead, every_s)
    ahead = sliding_window_view(counts, lead)[ends]
    peaks = sliding_window_view(together(counts, PEAK_S), lead - PEAK_S + 1)[ends].max(axis=1)
    histories = sliding_window_view(counts, HISTORY_S)[ends - HISTORY_S]
    return ForecastData(histories.copy(), np.full(len(ends), lead_s), ahead.mean(axis=1), peaks)


def error_of(forecaster: Forecaster, data: ForecastData) -> float:
    """Mean pinball error relative to demand."""
    errors = []
    for lead in np.unique(data.lead):
        mine = data.lead == lead
        found = forecaster(data.histories[mine], float(lead))
        errors.append(relative_error(found.quantiles, data.mean[mine], data.peak[mine]))
    return float(np.concatenate(errors).mean())


def train_forecaster(
    train: ForecastData, validation: ForecastData, note: str, epochs: int = 30, seed: int = 0
) -> QuantileNet:
    """A network of two hidden layers, by Adam on pinball loss and the relative error of the mean; the best epoch by
    validation."""
    import torch

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    x, y = (torch.tensor(part, dtype=torch.float32) for part in _inputs(train))
    net = torch.nn.Sequential(
        torch.nn.Linear(FEATURES, HIDDEN), torch.nn.Tanh(), torch.nn.Linear(HIDDEN, HIDDEN), torch.nn.Tanh(),
        torch.nn.Linear(HIDDEN, 1 + len(QUANTILES)),
    )  # fmt: skip
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    best: QuantileNet | None = None
    for _ in range(epochs):
        for chosen in torch.split(torch.randperm(len(x)), 512):
            optimiser.zero_grad()
            _loss(torch, net(x[chosen]), y[chosen]).backward()
            optimiser.step()
        schedule.step()
        found = QuantileNet(*layers_of(list(net), np.float64), 0.0, note)
        error = error_of(found, validation)
        if best is None or error < best.error:
            best = replace(found, error=error)
    assert best is not None
    return best


def _inputs(data: ForecastData) -> tuple[Floats, Floats]:
    """Features, and log ratios of mean and peak to the level."""
    x, y = np.empty((len(data.lead), FEATURES)), np.empty((len(data.lead), 2))
    for lead in np.unique(data.lead):
        mine = data.lead == lead
        level, x[mine] = features(data.histories[mine], float(lead))
        y[mine] = np.log(np.maximum(np.column_stack((data.mean, data.peak))[mine], FLOOR_RPS) / level[:, None])
    return x, y


def _loss(torch: Any, raw: Any, y: Any) -> Any:
    steps = torch.cat((raw[:, 1:2], torch.nn.functional.softplus(raw[:, 2:])), dim=1)
    quantiles = torch.exp(torch.cumsum(steps, dim=1))
    error = torch.exp(y[:, 1:2]) - quantiles
    levels = torch.tensor(QUANTILES)
    loss = torch.maximum(levels * error, (levels - 1) * error).mean()
    return loss + 0.2 * ((torch.exp(raw[:, 0]) - torch.exp(y[:, 0])) ** 2).mean()
