"""Quantile regression on features of the recent demand, with the trained network that is shipped."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from msgspec import Struct

from loki_rl.control.demand.estimators import FLOOR_RPS, Floats, smoothed
from loki_rl.control.demand.forecast import FORECASTERS, Forecast, Forecaster, deviations
from loki_rl.control.demand.tanh_network import Layers, forward, layers_in, named
from loki_rl.control.formulation.request import RequestError

DATA = Path(__file__).resolve().parent / "data"
SHIPPED = DATA / "quantiles.npz"

# Widths [s] of the bins of recent demand, newest first: fine near now, a minute in all.
BINS = (1, 1, 1, 1, 2, 2, 2, 5, 5, 5, 5, 10, 10, 10)
WINDOW_S = sum(BINS)
FEATURES = len(BINS) + 3
CLIP = 2.0


def binned(counts: Floats) -> tuple[Floats, Floats]:
    """Smoothed level [n] and log ratios [n, 14] of the bins to it; a history shorter than a minute is continued backwards
    by its mean."""
    if counts.shape[1] < WINDOW_S:
        missing = WINDOW_S - counts.shape[1]
        counts = np.concatenate((np.repeat(counts.mean(axis=1, keepdims=True), missing, axis=1), counts), axis=1)
    level = np.maximum(smoothed(counts), FLOOR_RPS)
    edges = np.concatenate(([0], np.cumsum(BINS)))
    newest = counts[:, ::-1]
    rates = np.stack([newest[:, a:b].mean(axis=1) for a, b in pairwise(edges)], axis=1)
    return level, np.log((rates + FLOOR_RPS) / (level[:, None] + FLOOR_RPS)).clip(-CLIP, CLIP)


def features(counts: Floats, lead_s: float) -> tuple[Floats, Floats]:
    """Level [n] and features [n, FEATURES], free of scale: bins, deviation, Poisson noise, lead."""
    level, bins = binned(counts)
    noise = deviations(counts, level) / level
    lead = np.full(len(level), np.log(max(lead_s, 1.0) / 15.0))
    return level, np.column_stack((bins, noise.clip(0.0, CLIP), np.sqrt(1 / level).clip(0.0, CLIP), lead))


class QuantileNet(Struct, frozen=True, eq=False):
    """weights, biases of each layer; the last one gives the log ratio to the level of the mean, of the lowest quantile, and
    of every step to the next (through a softplus, so that quantiles never cross). error: pinball error relative to demand on
    validation days. note: what it was trained on."""

    weights: Layers
    biases: Layers
    error: float
    note: str

    def __call__(self, counts: Floats, lead_s: float) -> Forecast:
        level, seen = features(counts, lead_s)
        raw = forward(self.weights, self.biases, seen)
        steps = np.concatenate((raw[:, 1:2], np.logaddexp(0.0, raw[:, 2:])), axis=1)
        return Forecast(level * np.exp(raw[:, 0]), level[:, None] * np.exp(np.cumsum(steps, axis=1)))

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {"error": np.array(self.error), "note": np.array(self.note)}
        np.savez_compressed(path, **named(self.weights, self.biases), **about)  # type: ignore[arg-type]


def load_net(path: Path) -> QuantileNet:
    """Read a network. Raises OSError or ValueError if the file is missing or damaged."""
    with np.load(path, allow_pickle=False) as file:
        return QuantileNet(*layers_in(file, np.float64), float(file["error"]), str(file["note"]))


@cache
def shipped_net() -> QuantileNet:
    """The network that comes with the package."""
    return load_net(SHIPPED)


def make_forecaster(name: str) -> Forecaster:
    """The forecaster of that name; `quantile` is the trained one. Raises RequestError for a name that does not exist."""
    if name == "quantile":
        return shipped_net()
    if name not in FORECASTERS:
        near = get_close_matches(name, [*FORECASTERS, "quantile"], n=1, cutoff=0.0)
        raise RequestError(f"there is no forecaster '{name}'; did you mean '{near[0]}'?")
    return FORECASTERS[name]
