"""Fan-outs as they were counted. Owns the histogram's file and how a pipeline takes it up; draws nothing."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator
from io import StringIO
from math import isfinite
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from loki_rl.core.pipeline import Pipeline
from loki_rl.files.calibration_file import Calibration
from loki_rl.files.tables import ConfigError, read_text

COLUMNS = ["task", "variant", "child", "count", "weight"]
MAX_COUNT = 10_000


class FanoutRow(Struct, frozen=True, forbid_unknown_fields=True):
    """How often a variant made 0, 1, 2 ... children of a task: weights of any sum."""

    task: str
    variant: str
    child: str
    weights: tuple[float, ...]


def read_histogram(path: Path) -> tuple[FanoutRow, ...]:
    """Read a CSV file with the columns task,variant,child,count,weight. Raises ConfigError with file and line."""
    rows = _rows(path)
    if next(rows, (1, None))[1] != COLUMNS:
        raise ConfigError(f"{path}, line 1: expected the columns {','.join(COLUMNS)}")
    found: defaultdict[tuple[str, str, str], dict[int, float]] = defaultdict(dict)
    for line, cells in rows:
        where = f"{path}, line {line}"
        if len(cells) != len(COLUMNS):
            raise ConfigError(f"{where}: expected {len(COLUMNS)} values, got {len(cells)}")
        count, weight = _numbers(cells, where)
        if count in found[cells[0], cells[1], cells[2]]:
            raise ConfigError(f"{where}: the count {count} of {cells[1]} stands twice")
        found[cells[0], cells[1], cells[2]][count] = weight
    return tuple(FanoutRow(*key, tuple(w.get(n, 0.0) for n in range(max(w) + 1))) for key, w in found.items())


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Cells of each row, and the line where it ends."""
    rows = csv.reader(StringIO(read_text(path)))
    try:
        for cells in rows:
            yield rows.line_num, cells
    except csv.Error as error:
        raise ConfigError(f"{path}, line {rows.line_num}: is not CSV ({error}); check the line") from None


def _numbers(cells: list[str], where: str) -> tuple[int, float]:
    try:
        count, weight = int(cells[3]), float(cells[4])
    except ValueError:
        raise ConfigError(f"{where}: '{cells[3]},{cells[4]}' is not a whole number and a weight") from None
    if not (0 <= count <= MAX_COUNT and isfinite(weight) and weight >= 0):
        raise ConfigError(f"{where}: need a count of 0 to {MAX_COUNT} and a weight of at least 0")
    return count, weight


def counted(calibration: Calibration) -> tuple[FanoutRow, ...]:
    """What a calibration has counted."""
    return tuple(FanoutRow(row.task, row.variant, row.child, row.items) for row in calibration.fanouts)


def with_counts(pipeline: Pipeline, rows: tuple[FanoutRow, ...]) -> Pipeline:
    """The same pipeline whose variants make children as these rows counted them. The means stay, so that planners know no
    more than before; what no row names stays Poisson. Of two rows for the same the last counts."""
    counts: defaultdict[tuple[str, str], dict[str, tuple[float, ...]]] = defaultdict(dict)
    for row in rows:
        counts[row.task, row.variant][row.child] = row.weights
    tasks = tuple(
        replace(
            task,
            variants=tuple(replace(variant, fanout_counts=counts[task.name, variant.name]) for variant in task.variants),
        )
        for task in pipeline.tasks
    )
    return replace(pipeline, tasks=tasks)
