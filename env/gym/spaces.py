"""Spaces of the cluster environments and the figures in `info`. Owns names and bounds; knows no dynamics."""

from __future__ import annotations

from operator import index
from typing import Any, cast

import numpy as np
from gymnasium.error import InvalidAction
from gymnasium.spaces import Box, Space
from numpy.typing import NDArray

from loki_rl.control.demand.belief import CUTS
from loki_rl.control.demand.estimators import Floats
from loki_rl.control.learned.observation import ACTIONS, BINS
from loki_rl.env.fluid.dynamics import ACCURACY, ARRIVALS, LOADS, LOST, OK, USED

STATE_NAMES = (
    "capacity_ready", "capacity_planned", "loading_share", "longest_load", "load_time", "backlog", "used_share",
    "last_multiplier", "last_odds", "servers_share", "metric_age", "room_above",
)  # fmt: skip
NAMES = (
    *(f"demand_bin_{number}_{width}s" for number, width in enumerate(BINS)),
    "noise", "held", "level",
    *(f"slice_{number}" for number in range(len(CUTS))), *(f"rarity_{number}" for number in range(len(CUTS))),
    "mean", "horizon", *STATE_NAMES,
)  # fmt: skip
LOG, SHARE, DOUBLE = (-2.0, 2.0), (0.0, 1.0), (0.0, 2.0)
BOUNDS = {
    "noise": DOUBLE, "held": SHARE, "level": (-4.0, 4.0), "horizon": DOUBLE, "loading_share": SHARE, "longest_load": SHARE,
    "load_time": SHARE, "backlog": SHARE, "used_share": SHARE, "servers_share": DOUBLE, "metric_age": DOUBLE,
    **{f"rarity_{number}": DOUBLE for number in range(len(CUTS))},
}  # fmt: skip


def observation_space() -> Space[NDArray[np.float32]]:
    """float32 [len(NAMES)]; see ClusterEnv for the meaning of each."""
    bounds = np.array([BOUNDS.get(name, LOG) for name in NAMES], np.float32)
    return cast(Space[NDArray[np.float32]], Box(bounds[:, 0], bounds[:, 1], dtype=np.float32))


def known_action(action: Any) -> int:
    """The action of one cluster. Raises InvalidAction for anything outside of its space."""
    try:
        known = index(action)
    except TypeError:
        known = -1
    if not 0 <= known < ACTIONS:
        raise InvalidAction(f"an action must be a whole number from 0 to {ACTIONS - 1}, not {action!r}")
    return known


def known_actions(actions: Any, number: int) -> NDArray[np.int64]:
    """The same of so many clusters."""
    given = np.asarray(actions)
    if given.shape != (number,) or given.dtype.kind not in "iu" or given.min() < 0 or given.max() >= ACTIONS:
        raise InvalidAction(f"actions must be {number} whole numbers from 0 to {ACTIONS - 1}, not {actions!r}")
    return given.astype(np.int64)


def flat_info(figures: Floats) -> dict[str, Any]:
    """Figures [E, FIGURES] of the last interval, one array [E] each."""
    arrivals, ok = figures[:, ARRIVALS], figures[:, OK]
    return {
        "arrivals": arrivals.copy(),
        "slo_violation_ratio": figures[:, LOST] / np.maximum(arrivals, 1.0),
        "accuracy": np.divide(figures[:, ACCURACY], ok, out=np.zeros_like(ok), where=ok > 0),
        "servers": figures[:, USED].copy(),
        "switches": figures[:, LOADS].copy(),
    }


def single_info(figures: Floats) -> dict[str, float]:
    """The same of one cluster [FIGURES] as plain numbers; arrays of one number would take longer than the step itself."""
    row = figures.tolist()
    return {
        "arrivals": row[ARRIVALS],
        "slo_violation_ratio": row[LOST] / max(row[ARRIVALS], 1.0),
        "accuracy": row[ACCURACY] / row[OK] if row[OK] > 0 else 0.0,
        "servers": row[USED],
        "switches": row[LOADS],
    }
