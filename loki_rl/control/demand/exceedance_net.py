"""A trained network that corrects how likely demand is believed to exceed each level."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from msgspec import Struct

from loki_rl.control.demand.estimators import Floats
from loki_rl.control.demand.exceedance_features import RARE, features, log_odds
from loki_rl.control.demand.tanh_network import Layers, forward, layers_in, named

SHIPPED = Path(__file__).resolve().parent / "data" / "exceedance.npz"
# Levels outside of these times the mean, and what lies between every so many, are not looked at one by one.
LOWEST, HIGHEST, EVERY = 0.02, 12.0, 2
# Standardised features end here, and corrections, in log-odds.
CLIP, MOST = 5.0, 9.0


class ExceedanceNet(Struct, frozen=True, eq=False):
    """weights, biases of each layer; the last one gives what to add to the log-odds of a belief at one level. center, spread
    of each feature in training. error: log loss on validation windows as a share of the belief's own; note: what it was
    trained on."""

    weights: Layers
    biases: Layers
    center: Floats
    spread: Floats
    error: float
    note: str

    def __call__(self, counts: Floats, levels: Floats, above: Floats, mean_rps: float, lead_s: float) -> Floats:
        """How likely demand exceeds each level [n, ascending] after these counts per second [H >= 1] within the lead [s],
        where `above` [n] is believed; falls with the level. mean_rps: of the long run [1/s]."""
        chosen = np.flatnonzero((levels > LOWEST * mean_rps) & (levels < HIGHEST * mean_rps))[::EVERY]
        if not len(chosen):
            return above
        rows = features(counts, levels[chosen], above[chosen], mean_rps, lead_s)
        added = np.interp(np.log(levels), np.log(levels[chosen]), self.correction(rows), right=0.0)
        chance = np.minimum.accumulate(1 / (1 + np.exp(-log_odds(above) - added)))
        found: Floats = np.where(chance > 2 * RARE, chance, 0.0)
        return found

    def correction(self, rows: Floats) -> Floats:
        """Log-odds to add [n] at levels with these features [n, FEATURES]."""
        standard = np.clip((rows - self.center) / self.spread, -CLIP, CLIP)
        found: Floats = np.clip(forward(self.weights, self.biases, standard)[:, 0], -MOST, MOST)
        return found

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {"center": self.center, "spread": self.spread, "error": np.array(self.error), "note": np.array(self.note)}
        np.savez_compressed(path, **named(self.weights, self.biases), **about)  # type: ignore[arg-type]


def load_exceedance(path: Path) -> ExceedanceNet:
    """Read a network. Raises OSError, KeyError or ValueError if the file is missing or damaged."""
    with np.load(path, allow_pickle=False) as file:
        scales = file["center"], file["spread"]
        return ExceedanceNet(*layers_in(file, np.float64), *scales, float(file["error"]), str(file["note"]))


@cache
def shipped_exceedance() -> ExceedanceNet:
    """The network that comes with the package."""
    return load_exceedance(SHIPPED)
