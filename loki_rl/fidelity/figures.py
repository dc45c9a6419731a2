"""The figures that plane and twin are compared by, each a function of sums of spans."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from msgspec import Struct

from loki_rl.core.pipeline import Pipeline, Task
from loki_rl.fidelity.observation import LATENCIES, QUEUES, Floats, Sums, largest_batch

# How a difference is told: of shares in percentage points, of counts as it is, of times and sizes relative to the twin's.
Unit = Literal["points", "count", "relative"]

MEDIAN = 0.5


class Figure(Struct, frozen=True):
    """of: sums [draws, width] -> the figure in each draw, NaN where there is none. classes: name of the sums by class that
    the figure is of, with the value of each class, where whole distributions can be compared."""

    name: str
    unit: Unit
    of: Callable[[Sums], Floats]
    scale: float = 1.0
    classes: str = ""
    values: tuple[float, ...] = ()

    def difference(self, plane: Floats, twin: Floats) -> Floats:
        """Plane less twin, in the figure's unit."""
        return _over(plane - twin, twin) if self.unit == "relative" else plane - twin


def figures(pipeline: Pipeline) -> list[Figure]:
    """Those of a run, and those of each of its tasks."""
    return [
        Figure("violations", "points", lambda sums: 1 - _ratio(sums, "ok", "arrivals"), 100),
        Figure("rejected", "points", lambda sums: _ratio(sums, "rejected", "arrivals"), 100),
        Figure("accuracy", "points", lambda sums: _ratio(sums, "accuracy", "ok"), 100),
        Figure("servers", "count", lambda sums: _ratio(sums, "servers", "sampled")),
        Figure("loads", "count", lambda sums: sums["loads"][:, 0]),
        *(_latency(share) for share in (MEDIAN, 0.95, 0.99)),
        *(figure for task in pipeline.tasks for figure in _of_task(task)),
    ]


def _latency(share: float) -> Figure:
    """A quantile of the latencies of answers in time or late."""
    classes, values = ("latency", tuple(1000 * LATENCIES)) if share == MEDIAN else ("", ())
    return Figure(f"p{100 * share:.0f}", "relative", lambda sums: _quantile(sums["latency"], share), 1000, classes, values)


def _of_task(task: Task) -> list[Figure]:
    batch, queue, drops, items = (f"{kind} {task.name}" for kind in ("batch", "queue", "drops", "items"))
    sizes = tuple(map(float, range(largest_batch(task) + 1)))
    return [
        Figure(batch, "relative", lambda sums: _mean(sums[batch], sizes), 1, batch, sizes),
        Figure(queue, "count", lambda sums: _mean(sums[queue], tuple(QUEUES)), 1, queue, tuple(QUEUES)),
        Figure(drops, "points", lambda sums: _ratio(sums, drops, items), 100),
    ]


def distance(plane: Floats, twin: Floats, values: tuple[float, ...]) -> float:
    """Wasserstein distance of two distributions, in the unit of the values; NaN if one of them is empty. plane, twin: how
    many there are in each class."""
    if not plane.sum() or not twin.sum():
        return float("nan")
    shares = np.cumsum(plane / plane.sum() - twin / twin.sum())[:-1]
    return float(np.abs(shares) @ np.diff(np.array(values[: len(plane)])))


def _ratio(sums: Sums, part: str, whole: str) -> Floats:
    return _over(sums[part][:, 0], sums[whole][:, 0])


def _mean(counts: Floats, values: tuple[float, ...]) -> Floats:
    return _over(counts @ np.array(values[: counts.shape[1]]), counts.sum(axis=1))


def _over(part: Floats, whole: Floats) -> Floats:
    shares: Floats = np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
    return shares


def _quantile(counts: Floats, share: float) -> Floats:
    """Between the bounds of the class that it falls in, evenly."""
    passed = counts.cumsum(axis=1)
    wanted = share * passed[:, -1]
    place = (passed >= wanted[:, None]).argmax(axis=1)
    rows = np.arange(len(counts))
    here = counts[rows, place]
    before = passed[rows, place] - here
    lower = LATENCIES[np.maximum(place - 1, 0)]
    inside = _over(wanted - before, here)
    found: Floats = lower + inside * (LATENCIES[place] - lower)
    return found
