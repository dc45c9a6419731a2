"""Fan-outs resampled from measured counts. Owns the histogram's file and the keyed draw from it; knows no event and no
server."""

from __future__ import annotations

import csv
from bisect import bisect_right
from collections import defaultdict
from io import StringIO
from itertools import accumulate
from math import isfinite
from pathlib import Path

from msgspec import Struct

from loki_rl.core.draws import poisson, uniform
from loki_rl.core.pipeline import Pipeline
from loki_rl.tables import ConfigError, read_text

COLUMNS = ["task", "variant", "child", "count", "weight"]
MAX_COUNT = 10_000

Cdf = tuple[float, ...]


class FanoutRow(Struct, frozen=True, forbid_unknown_fields=True):
    """How often a variant made 0, 1, 2 ... children of a task: weights of any sum."""

    task: str
    variant: str
    child: str
    weights: tuple[float, ...]


def read_histogram(path: Path) -> tuple[FanoutRow, ...]:
    """Read a CSV file with the columns task,variant,child,count,weight. Raises ConfigError with file and line."""
    rows = csv.reader(StringIO(read_text(path)))
    if next(rows, None) != COLUMNS:
        raise ConfigError(f"{path}, line 1: expected the columns {','.join(COLUMNS)}")
    found: defaultdict[tuple[str, str, str], dict[int, float]] = defaultdict(dict)
    for cells in rows:
        where = f"{path}, line {rows.line_num}"
        if len(cells) != len(COLUMNS):
            raise ConfigError(f"{where}: expected {len(COLUMNS)} values, got {len(cells)}")
        count, weight = _numbers(cells, where)
        if count in found[cells[0], cells[1], cells[2]]:
            raise ConfigError(f"{where}: the count {count} of {cells[1]} stands twice")
        found[cells[0], cells[1], cells[2]][count] = weight
    return tuple(FanoutRow(*key, tuple(w.get(n, 0.0) for n in range(max(w) + 1))) for key, w in found.items())


def _numbers(cells: list[str], where: str) -> tuple[int, float]:
    try:
        count, weight = int(cells[3]), float(cells[4])
    except ValueError:
        raise ConfigError(f"{where}: '{cells[3]},{cells[4]}' is not a whole number and a weight") from None
    if not (0 <= count <= MAX_COUNT and isfinite(weight) and weight >= 0):
        raise ConfigError(f"{where}: need a count of 0 to {MAX_COUNT} and a weight of at least 0")
    return count, weight


class Resampler:
    """Keyed draws from histograms: the same uniform as the Poisson draw of core.draws, so a variant that tends to make more
    children makes more for the same item. What no row names stays Poisson around the profile's mean."""

    def __init__(self, rows: tuple[FanoutRow, ...], pipeline: Pipeline, seed: int) -> None:
        self.pipeline = pipeline
        self.seed = seed
        self.cdfs: dict[tuple[int, int, int], Cdf] = {}
        for row in rows:
            task = pipeline.index[row.task]
            total = sum(row.weights)
            cdf = tuple(below / total for below in accumulate(row.weights))
            self.cdfs[task, pipeline.variant_index[task][row.variant], pipeline.index[row.child]] = cdf

    def draw(self, item: int, task: int, variant: int) -> tuple[int, ...]:
        """Children of an item, one count per child task."""
        room, counts = self.pipeline.max_children, []
        for place, child in enumerate(self.pipeline.children[task]):
            u = uniform(self.seed, item, child)
            cdf = self.cdfs.get((task, variant, child))
            mean = self.pipeline.fanouts[task][variant][place]
            drawn = poisson(u, mean) if cdf is None else min(bisect_right(cdf, u), len(cdf) - 1)
            counts.append(min(room, drawn))
            room -= counts[-1]
        return tuple(counts)
