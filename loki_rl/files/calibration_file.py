"""The calibration file: how a plane of one host differs from what the twin assumes, as `loki-rl calibrate` found it."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from loki_rl.core.pipeline import Pipeline
from loki_rl.core.validation import MAX_BATCH
from loki_rl.decoding import UNREADABLE
from loki_rl.files.tables import ConfigError, convert, keyed, nearest, read_text, require

VERSION = 1
# Where distributions are kept: dense in the upper tail, which is what deadlines meet.
LEVELS = (
    0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998,
    0.9995, 1.0,
)  # fmt: skip
MOST = 1e6

Count = Annotated[int, Meta(ge=0)]
Size = Annotated[int, Meta(ge=1)]
Amount = Annotated[float, Meta(ge=0, le=MOST)]
AboveZero = Annotated[float, Meta(gt=0, le=MOST)]
Share = Annotated[float, Meta(ge=0, le=1)]
Quantiles = Annotated[tuple[Amount, ...], Meta(min_length=len(LEVELS), max_length=len(LEVELS))]
Ratios = Annotated[tuple[AboveZero, ...], Meta(min_length=len(LEVELS), max_length=len(LEVELS))]
# Ways of a message: a batch from its router to a worker, its result back, any other. Hand-over of a batch between worker and
# engine, where the worker was idle before and where it ended another one at that moment. How late a timer goes off.
Delay = Literal["dispatch", "result", "message", "handover", "handover_next", "timer"]


class Median(Struct, frozen=True, forbid_unknown_fields=True):
    """Profiled service time of a batch size [ms]."""

    batch: Annotated[int, Meta(ge=1, le=MAX_BATCH)]
    p50_ms: AboveZero


class ServiceTimes(Struct, frozen=True, forbid_unknown_fields=True):
    """Service times of a variant while no other server of the host is busy, as quantiles (LEVELS) of their ratio to the
    profiled median of the same batch size. profiled: that median, of every profiled size. Without a variant: of all of the
    task; without a task: of all."""

    task: str | None
    variant: str | None
    batches: Size
    ratio: Ratios
    profiled: tuple[Median, ...] = ()


class LoadTimes(Struct, frozen=True, forbid_unknown_fields=True):
    """Load times of a variant while no server of the host is busy, as quantiles of seconds. Without a variant: of all, as
    quantiles of their ratio to the profiled one."""

    task: str | None
    variant: str | None
    loads: Size
    quantiles: Quantiles


class DelayTimes(Struct, frozen=True, forbid_unknown_fields=True):
    """Quantiles of a delay [s]."""

    kind: Delay
    events: Size
    seconds: Quantiles


class Fanouts(Struct, frozen=True, forbid_unknown_fields=True):
    """How often a variant made 0, 1, 2 ... children of a task, where that is not as in a Poisson distribution."""

    task: str
    variant: str
    child: str
    items: Annotated[tuple[Annotated[int, Meta(ge=0, le=1 << 40)], ...], Meta(min_length=1, max_length=10_001)]


class PlanTimes(Struct, frozen=True, forbid_unknown_fields=True):
    """Quantiles of the time from the question to the plan [s]. policy: None of all."""

    policy: str | None
    plans: Size
    seconds: Quantiles


class Contention(Struct, frozen=True, forbid_unknown_fields=True):
    """How fast one batch or load runs while 1, 2, ... of them run on the host, as a share of its speed alone. Beyond the
    last, each more adds to the host's throughput what that one added. met: how many there were on average while a batch ran,
    it included."""

    speeds: Annotated[tuple[Annotated[float, Meta(gt=0, le=1)], ...], Meta(min_length=1, max_length=4096)] = (1.0,)
    met: Annotated[float, Meta(ge=1)] = 1.0

    @property
    def alone(self) -> bool:
        """Whether nobody slows anybody."""
        return min(self.speeds) == 1.0

    def speed(self, busy: int) -> float:
        """With so many at once, at least one."""
        known = self.speeds
        if busy <= len(known):
            return known[busy - 1]
        last = len(known) * known[-1]
        gain = max(0.0, last - (len(known) - 1) * known[-2]) if len(known) > 1 else 1.0
        return (last + (busy - len(known)) * gain) / busy


class Mood(Struct, frozen=True, forbid_unknown_fields=True):
    """What slows all that runs on the host at the same time. share: of the variance of a batch's (normal) score that it has
    in common with one that begins at the same moment; memory_s: after which that has fallen to 1/e [s]."""

    share: Share = 0.0
    memory_s: AboveZero = 1.0


class Recorded(Struct, frozen=True, forbid_unknown_fields=True):
    """One of the recordings. seconds: from its first arrival to its last answer [s]."""

    file: str
    policy: str
    servers: Size
    seconds: float
    arrivals: Count
    batches: Count


class Calibration(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What batches, loads, messages, timers and plans of a pipeline's plane took on one host. It holds for this host, what
    else ran there, and these models. created: ISO 8601. command: what was run. host: in words."""

    version: int = VERSION
    pipeline: str
    host: str
    created: str
    command: str
    recordings: tuple[Recorded, ...]
    services: tuple[ServiceTimes, ...]
    loads: tuple[LoadTimes, ...] = ()
    fanouts: tuple[Fanouts, ...] = ()
    delays: tuple[DelayTimes, ...] = ()
    plans: tuple[PlanTimes, ...] = ()
    contention: Contention = Contention()
    mood: Mood = Mood()

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read a calibration. Raises ConfigError if the file is missing, malformed, or holds what cannot be."""
        try:
            data = msgspec.json.decode(read_text(path))
        except UNREADABLE as error:
            raise ConfigError(f"{path}: {error}; make it again with 'loki-rl calibrate'") from error
        version = keyed(data, str(path)).get("version")
        require(version == VERSION, str(path), f"is of version {version}, this program reads {VERSION}; calibrate again")
        found = convert(data, cls, str(path), _KEYS)
        of_all = [row for row in found.services if row.task is None and row.variant is None]
        require(len(of_all) == 1, str(path), "the services of all batches together are missing; make it again")
        rows: list[Row] = [*found.services, *found.loads, *found.delays, *found.plans]
        for row in rows:
            rising = all(low <= high for low, high in pairwise(_quantiles(row)))
            require(rising, str(path), f"quantiles must not fall, as those of {_named(row)} do; make it again")
        speeds = found.contention.speeds
        falling = speeds[0] == 1.0 and all(low >= high for low, high in pairwise(speeds))
        require(falling, str(path), "the speeds of contention must begin with 1 and not rise; make it again")
        return found

    def save(self, path: Path) -> None:
        """Write it as JSON in one step: a reader sees the old file or the new one, never a part."""
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")
        draft.replace(path)


_KEYS = {
    key
    for kind in (Calibration, Median, ServiceTimes, LoadTimes, Fanouts, DelayTimes, PlanTimes, Contention, Mood, Recorded)
    for key in kind.__struct_encode_fields__
}
Row = ServiceTimes | LoadTimes | DelayTimes | PlanTimes


def load_calibration(path: Path, pipeline: Pipeline) -> Calibration:
    """Read a calibration of this pipeline. Raises ConfigError."""
    found = Calibration.load(path)
    if found.pipeline != pipeline.name:
        raise ConfigError(
            f"{path}: is of pipeline '{found.pipeline}', not of '{pipeline.name}'; record that one and calibrate again"
        )
    rows: list[ServiceTimes | LoadTimes | Fanouts] = [*found.services, *found.loads, *found.fanouts]
    for row in rows:
        _check_names(row.task, row.variant, pipeline, str(path))
    for made in found.fanouts:
        _check_children(made, pipeline, str(path))
    return found


def _check_names(task: str | None, variant: str | None, pipeline: Pipeline, where: str) -> None:
    if task is None:
        return
    require(task in pipeline.index, where, f"the pipeline has no task '{task}'; calibrate again")
    known = pipeline.variant_index[pipeline.index[task]]
    if variant is not None and variant not in known:
        raise ConfigError(f"{where}: task '{task}' has no variant '{variant}'{nearest(variant, known)}; calibrate again")


def _check_children(made: Fanouts, pipeline: Pipeline, where: str) -> None:
    known = [pipeline.tasks[child].name for child in pipeline.children[pipeline.index[made.task]]]
    require(made.child in known, where, f"'{made.child}' is no child of task '{made.task}'; calibrate again")
    fits = sum(made.items) > 0 and len(made.items) <= pipeline.max_children + 1
    require(fits, where, f"no items, or too many children, of '{made.variant}' of '{made.task}'; calibrate again")


def _quantiles(row: Row) -> tuple[float, ...]:
    return row.ratio if isinstance(row, ServiceTimes) else row.quantiles if isinstance(row, LoadTimes) else row.seconds


def _named(row: Row) -> str:
    """For people."""
    if isinstance(row, DelayTimes):
        return f"the delay '{row.kind}'"
    if isinstance(row, PlanTimes):
        return f"the plans of '{row.policy}'"
    return f"'{row.variant}' of '{row.task}'"
