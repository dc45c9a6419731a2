"""The crowd of the demo: calm, a rise, its height, and where it is given the time also its end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from msgspec import Struct

from loki_rl.core.draws import GENERATE
from loki_rl.traces.arrivals import generator
from loki_rl.traces.demand import Trace
from loki_rl.traces.generate import BIN_S, GENERATED
from loki_rl.traces.trace import save_trace

SEED = 7


class Crowd(Struct, frozen=True):
    """Mean demand stays at base_rps, rises to height_rps, is held there, falls back and stays again [1/s, s]."""

    base_rps: float
    height_rps: float
    calm_s: int
    rise_s: int
    held_s: int
    fall_s: int = 0
    after_s: int = 0

    @property
    def height_from_s(self) -> int:
        return self.calm_s + self.rise_s

    @property
    def height_to_s(self) -> int:
        return self.height_from_s + self.held_s

    def save(self, folder: Path) -> Path:
        """Its requests, drawn by a seed: a trace file that can be played again."""
        corners = np.cumsum([self.calm_s, self.rise_s, self.held_s, self.fall_s, self.after_s])
        starts = np.arange(corners[-1], dtype=np.float64) * BIN_S
        means = np.interp(starts, corners, [self.base_rps, self.height_rps, self.height_rps, self.base_rps, self.base_rps])
        path = folder / "crowd.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_trace(Trace("crowd", starts, generator(SEED, GENERATE).poisson(means), BIN_S, GENERATED), path)
        return path

    def __str__(self) -> str:
        times = self.height_rps / self.base_rps
        return f"from {self.base_rps:.1f} to {self.height_rps:.1f} requests/s (x{times:.1f}) within {self.rise_s} s"
