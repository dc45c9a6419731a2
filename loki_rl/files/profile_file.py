"""The profile file: what `loki-rl profile` measured on one device."""

from __future__ import annotations

import os
from collections import defaultdict
from os.path import isfile
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from loki_rl.core.pipeline import Latency
from loki_rl.decoding import UNREADABLE
from loki_rl.files.tables import ConfigError, convert, keyed, read_text

Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Fraction = Annotated[float, Meta(ge=0, le=1)]


class Timing(Struct, frozen=True, forbid_unknown_fields=True):
    """Service time of one batch size [ms]. error: standard error of the median, as a share of it. waited: share of the wall
    time in which the thread had no core: left out of a time measured in isolation, part of one as served. None: not known.
    """

    task: str
    variant: str
    batch: Annotated[int, Meta(ge=1)]
    p50_ms: Positive
    p95_ms: Positive
    p99_ms: Positive
    error: NotNegative | None = None
    waited: Fraction | None = None


class Load(Struct, frozen=True, forbid_unknown_fields=True):
    """Time from the order to the first batch [s] and memory while resident [MB]. sample_ms: of its adapter's sample item
    alone, without waiting for a core [ms]: what a worker that loads the variant compares with. None: not known."""

    task: str
    variant: str
    load_s: NotNegative
    memory_mb: NotNegative
    sample_ms: Positive | None = None


class StageAccuracy(Struct, frozen=True, forbid_unknown_fields=True):
    """Accuracy 0..1 of a variant on its own."""

    task: str
    variant: str
    accuracy: Fraction


class Fanout(Struct, frozen=True, forbid_unknown_fields=True):
    """Mean items of a child task per item that the variant processed."""

    task: str
    variant: str
    child: str
    mean: NotNegative


class PathAccuracy(Struct, frozen=True, forbid_unknown_fields=True):
    """Accuracy 0..1 end to end of one variant per task, entry task first."""

    path: tuple[str, ...]
    accuracy: Fraction


class Capacity(Struct, frozen=True, forbid_unknown_fields=True):
    """What a whole plane of `servers` servers on this host completed at its limit [requests/s], with the most accurate
    variants and with the fastest ones. neighbours: share of all cores that other programs took meanwhile."""

    servers: Annotated[int, Meta(ge=1)]
    most_accurate_rps: Positive
    cheapest_rps: Positive
    neighbours: Fraction = 0.0


class ProfileFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One measurement of a pipeline's variants. It holds for one device, execution provider and ONNX Runtime version.

    padded: the engine pads a batch to the next size in `variants`. as_served: measured with gateway, routers and client
    running on the same host. created: ISO 8601. command: what was run. provenance: measured on what, in words. capacity:
    only where as_served. neighbours, steal: shares of all cores that other programs and the hypervisor took while models
    were measured one by one; None where nobody counted.
    """

    device: str
    provider: str
    ort_version: str
    padded: bool
    as_served: bool
    created: str
    command: str
    provenance: str
    variants: tuple[Timing, ...]
    loads: tuple[Load, ...] = ()
    accuracies: tuple[StageAccuracy, ...] = ()
    fanouts: tuple[Fanout, ...] = ()
    paths: tuple[PathAccuracy, ...] = ()
    capacity: Capacity | None = None
    neighbours: Fraction | None = None
    steal: Fraction | None = None

    @classmethod
    def load(cls, path: Path) -> ProfileFile:
        """Read a profile. Raises ConfigError if the file is missing, malformed or holds an unknown key."""
        try:
            data = msgspec.json.decode(read_text(path))
        except UNREADABLE as error:
            raise ConfigError(f"{path}: {error}; measure it again with 'loki-rl profile'") from error
        keyed(data, str(path))
        return convert(data, cls, str(path), _KEYS)

    def save(self, path: Path) -> None:
        """Write the profile as JSON in one step: a reader sees the old file or the new one, never a part."""
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")
        draft.replace(path)


_KEYS = {
    key
    for kind in (ProfileFile, Timing, Load, StageAccuracy, Fanout, PathAccuracy, Capacity)
    for key in kind.__struct_encode_fields__
}


def load_profile(path: Path, where: str, pipeline: str) -> ProfileFile:
    """The profile that a file names. where: the start of a sentence about it; pipeline: name or file that `loki-rl profile`
    would be given. Raises ConfigError."""
    if not isfile(path):
        raise ConfigError(f"{where}: its profile {path} does not exist; run 'loki-rl profile {pipeline}'")
    return ProfileFile.load(path)


class Measured(Struct):
    """What a profile says of one variant; None where it says nothing. latency: batch -> service time [s]; fanout: child task
    -> mean items."""

    latency: dict[int, Latency] = {}
    fanout: dict[str, float] = {}
    accuracy: float | None = None
    load_s: float | None = None
    memory_mb: float | None = None
    sample_s: float = 0.0


def by_variant(profile: ProfileFile) -> dict[tuple[str, str], Measured]:
    """The figures of every (task, variant)."""
    found: defaultdict[tuple[str, str], Measured] = defaultdict(Measured)
    for row in profile.variants:
        seconds = Latency(row.p50_ms / 1000, row.p95_ms / 1000, row.p99_ms / 1000)
        found[row.task, row.variant].latency[row.batch] = seconds
    for mean in profile.fanouts:
        found[mean.task, mean.variant].fanout[mean.child] = mean.mean
    for stage in profile.accuracies:
        found[stage.task, stage.variant].accuracy = stage.accuracy
    for load in profile.loads:
        one = found[load.task, load.variant]
        one.load_s, one.memory_mb, one.sample_s = load.load_s, load.memory_mb, (load.sample_ms or 0.0) / 1000
    return found
