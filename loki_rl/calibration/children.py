"""How many children items made, where a Poisson distribution of the profiled mean does not tell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from loki_rl.calibration.batches import Floats
from loki_rl.core.pipeline import Pipeline
from loki_rl.files.calibration_file import Fanouts
from loki_rl.flight.columns import Flight

# Items of a variant that must have been counted.
ENOUGH = 200
# A mean this near the profiled one, and a variance this near the mean, as shares of it, are those of that distribution; and
# what lies within so many standard errors of them may be.
NEAR, ERRORS = 0.05, 4.0


def fit_children(flights: Sequence[Flight], pipeline: Pipeline) -> Iterable[Fanouts]:
    """Of every variant with enough items, for every child task."""
    rows = np.concatenate([flight.children for flight in flights])
    for place, task in enumerate(pipeline.tasks):
        for number, variant in enumerate(task.variants):
            for column, child in enumerate(pipeline.children[place]):
                mine = rows[(rows["task"] == place) & (rows["variant"] == number) & (rows["child"] == column)]
                mine = mine[(mine["children"] >= 0) & (mine["children"] <= pipeline.max_children) & (mine["items"] > 0)]
                if mine["items"].sum() >= ENOUGH:
                    items = np.bincount(mine["children"], weights=mine["items"]).astype(np.float64)
                    if not _poisson(items, pipeline.fanouts[place][number][column]):
                        counts = tuple(items.astype(np.int64).tolist())
                        yield Fanouts(task.name, variant.name, pipeline.tasks[child].name, counts)


def _poisson(items: Floats, profiled: float) -> bool:
    """Whether these may be so distributed."""
    number, values = items.sum(), np.arange(len(items))
    mean = float(items @ values / number)
    variance = float(items @ (values - mean) ** 2 / number)
    if mean == 0.0:
        return profiled == 0.0
    off_mean, off_variance = abs(mean - profiled) / mean, abs(variance - mean) / mean
    errors = np.sqrt(1 / (mean * number)), np.sqrt((2 + 1 / mean) / number)
    return bool(off_mean < max(NEAR, ERRORS * errors[0]) and off_variance < max(2 * NEAR, ERRORS * errors[1]))
