"""Quantile regression on features of the recent demand: features, and inference of a small trained network in numpy. Owns
the file of weights; knows nothing of how it was trained."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from msgspec import Struct

from loki_rl.control.demand.estimators import FLOOR_RPS
from loki_rl.control.demand.forecast import Floats, Forecast, deviation, smoothed

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
    noise = deviation(counts, level) / level
    lead = np.full(len(level), np.log(max(lead_s, 1.0) / 15.0))
    return level, np.column_stack((bins, noise.clip(0.0, CLIP), np.sqrt(1 / level).clip(0.0, CLIP), lead))


class QuantileNet(Struct, frozen=True, eq=False):
    """weights, biases of each layer; the last one gives the log ratio to the level of the mean, of the lowest quantile, and
    of every step to the next (through a softplus, so that quantiles never cross). error: pinball error relative to demand on
    validation days. note: what it was trained on."""

    weights: tuple[Floats, ...]
    biases: tuple[Floats, ...]
    error: float
    note: str

    def __call__(self, counts: Floats, lead_s: float) -> Forecast:
        level, hidden = features(counts, lead_s)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            hidden = np.tanh(hidden @ weight + bias)
        raw = hidden @ self.weights[-1] + self.biases[-1]
        steps = np.concatenate((raw[:, 1:2], np.logaddexp(0.0, raw[:, 2:])), axis=1)
        return Forecast(level * np.exp(raw[:, 0]), level[:, None] * np.exp(np.cumsum(steps, axis=1)))

    def save(self, path: Path) -> None:
        layers = {f"w{i}": w for i, w in enumerate(self.weights)} | {f"b{i}": b for i, b in enumerate(self.biases)}
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **layers, error=np.array(self.error), note=np.array(self.note))  # type: ignore[arg-type]


def load_net(path: Path) -> QuantileNet:
    """Read a network. Raises OSError or ValueError if the file is missing or damaged."""
    with np.load(path, allow_pickle=False) as file:
        depth = sum(name.startswith("w") for name in file.files)
        weights = tuple(file[f"w{i}"].astype(np.float64) for i in range(depth))
        biases = tuple(file[f"b{i}"].astype(np.float64) for i in range(depth))
        return QuantileNet(weights, biases, float(file["error"]), str(file["note"]))


@lru_cache(maxsize=1)
def shipped_net() -> QuantileNet:
    """The network that comes with the package."""
    return load_net(SHIPPED)
