"""Playing windows with a fixed rule or a trained one, all windows side by side, and what a window's result is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loki_rl.control.demand.tanh_network import Layers
from loki_rl.control.fast.model_arrays import Floats
from loki_rl.control.learned.agent import ILLEGAL, preferences
from loki_rl.control.learned.observation import NO_ADJUSTMENT
from loki_rl.env.fluid.batch import Batch, Pool
from loki_rl.env.fluid.dynamics import ACCURACY, ARRIVALS, FIGURES, LOADS, LOST, OK, USED

# observations [n, OBSERVATION], masks [n, ACTIONS] -> actions [n].
Decide = Callable[[NDArray[np.float32], NDArray[np.int8]], NDArray[np.int64]]


class Played(Struct, frozen=True, eq=False):
    """Per window [W]: cost J, share of requests lost, accuracy of the others, mean servers used, model loads."""

    cost_j: Floats
    slo_violation_ratio: Floats
    accuracy: Floats
    servers: Floats
    loads: Floats


class Means(Struct, frozen=True, kw_only=True):
    """The same over all windows."""

    cost_j: float
    slo_violation_ratio: float
    accuracy: float
    servers: float
    loads: float


def base(observations: NDArray[np.float32], masks: NDArray[np.int8]) -> NDArray[np.int64]:  # noqa: ARG001
    """The base of the pool, without adjustment."""
    return np.full(len(observations), NO_ADJUSTMENT)


def greedy(weights: Layers, biases: Layers, margin: float) -> Decide:
    """What the same network prefers in every cluster."""

    def decide(observations: NDArray[np.float32], masks: NDArray[np.int8]) -> NDArray[np.int64]:
        preferred = preferences(weights, biases, margin, observations)
        chosen: NDArray[np.int64] = np.argmax(np.where(masks.astype(np.bool_), preferred, ILLEGAL), axis=1)
        return chosen

    return decide


def play(pool: Pool, decide: Decide, deep: bool = False, windows: int | None = None) -> Played:
    """Every window of a pool (or the first `windows`) under one rule; the first interval, which the base's own first
    plan serves, is left out."""
    number = windows or pool.size
    everyone = np.arange(number)
    pool.ensure(everyone, costs=False)
    batch = Batch(pool, number, deep)
    batch.start(everyone, everyone)
    total, cost = np.zeros((number, FIGURES)), np.zeros(number)
    for _ in range(pool.options.intervals):
        batch.step(decide(batch.observations, batch.masks))
        total += batch.figures
        cost += batch.costs
    return Played(
        cost_j=cost / pool.options.intervals,
        slo_violation_ratio=total[:, LOST] / np.maximum(total[:, ARRIVALS], 1.0),
        accuracy=total[:, ACCURACY] / np.maximum(total[:, OK], 1e-9),
        servers=total[:, USED] / pool.options.intervals,
        loads=total[:, LOADS],
    )


def gathered(runs: Sequence[Played]) -> Played:
    """The windows of several plays, one after the other."""
    return Played(**{name: np.concatenate([getattr(run, name) for run in runs]) for name in Played.__struct_fields__})


def means(*runs: Played) -> Means:
    """Over the windows of all of them."""
    return Means(**{name: float(np.mean([getattr(run, name) for run in runs])) for name in Means.__struct_fields__})
