"""Types of servers: how many there are of each, what they cost, hold and run how fast."""

from __future__ import annotations

from math import inf

from msgspec import Struct
from msgspec.structs import replace

from loki_rl.core.pipeline import Latency, Pipeline, Variant


class Figures(Struct, frozen=True):
    """One variant on one type of server. latency: batch size -> service time. load_s, memory_mb: the pipeline's if None.
    sample_s: as in Variant."""

    latency: dict[int, Latency]
    load_s: float | None = None
    memory_mb: float | None = None
    sample_s: float = 0.0


class TypeProfile(Struct, frozen=True):
    """A pipeline's variants as measured on one type. figures: (task, variant) -> figures; what is not here cannot run there.
    padded: the engine pads a batch to the next profiled size."""

    figures: dict[tuple[str, str], Figures]
    padded: bool = True


class ServerType(Struct, frozen=True):
    """`count` servers that are alike. A server runs one variant at a time.

    price: of one server, in any unit that all types share. memory_mb: a variant that needs more cannot run. profiles: by
    the pipeline's name; one without runs `speed` times as fast as its own figures say, or not at all where that is None.
    devices: what the servers are called where they are served from.
    """

    name: str = ""
    count: int = 1
    price: float = 1.0
    memory_mb: float = inf
    speed: float | None = 1.0
    profiles: dict[str, TypeProfile] = {}
    devices: tuple[str, ...] = ()


def types_of(pool: tuple[ServerType, ...], servers: int) -> tuple[ServerType, ...]:
    """The types of which there are servers; without a pool all are alike."""
    return tuple(kind for kind in pool if kind.count) or (ServerType(count=servers),)


def as_run_by(pipeline: Pipeline, kind: ServerType) -> Pipeline:
    """The pipeline with the latencies, load times and memory that it has on a type; what cannot run there is not `runnable`.

    Made once per pipeline and type (whatever its count and price); the pipeline itself where nothing differs. Raises
    PipelineError for figures that contradict themselves.
    """
    profile = kind.profiles.get(pipeline.name)
    key = (kind.speed, kind.memory_mb, id(profile))
    if key not in pipeline.as_run:
        # The profile is kept with it, so that its id cannot be taken over by another.
        pipeline.as_run[key] = (profile, _derived(pipeline, kind, profile))
    return pipeline.as_run[key][1]


def _derived(pipeline: Pipeline, kind: ServerType, profile: TypeProfile | None) -> Pipeline:
    tasks = tuple(
        replace(task, variants=tuple(_variant(task.name, variant, kind, profile) for variant in task.variants))
        for task in pipeline.tasks
    )
    padded = pipeline.padded if profile is None else profile.padded
    return (
        pipeline if (tasks, padded) == (pipeline.tasks, pipeline.padded) else replace(pipeline, tasks=tasks, padded=padded)
    )


def _variant(task: str, variant: Variant, kind: ServerType, profile: TypeProfile | None) -> Variant:
    known = _sped(variant, kind.speed) if profile is None else profile.figures.get((task, variant.name))
    if known is None:
        return replace(variant, runnable=False)
    memory_mb = variant.memory_mb if known.memory_mb is None else known.memory_mb
    return replace(
        variant,
        latency=known.latency,
        load_s=variant.load_s if known.load_s is None else known.load_s,
        memory_mb=memory_mb,
        sample_s=known.sample_s,
        runnable=variant.runnable and memory_mb <= kind.memory_mb,
    )


def _sped(variant: Variant, speed: float | None) -> Figures | None:
    if speed is None or speed == 1:
        return None if speed is None else Figures(variant.latency, sample_s=variant.sample_s)
    rows = variant.latency.items()
    times = {batch: Latency(row.p50 / speed, row.p95 / speed, row.p99 / speed) for batch, row in rows}
    return Figures(times, sample_s=variant.sample_s / speed)
