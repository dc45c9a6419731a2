"""A pipeline and its types of servers as service has shown them to be: with measured figures, and without what cannot be
loaded."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.core.plan import Drift, Exclusion
from loki_rl.core.servers.server_type import Figures, ServerType, TypeProfile, as_run_by

Pool = tuple[ServerType, ...]
Key = tuple[str, str]  # task, variant


def as_measured(
    pipeline: Pipeline, pool: Pool, drift: Iterable[Drift], exclusions: Iterable[Exclusion] = ()
) -> tuple[Pipeline, Pool]:
    """Both with measured instead of profiled figures, and with excluded variants as such that do not run. pool: empty where
    servers are alike. Fan-outs are of models and what they see, not of servers: of several types the last that drifted
    counts."""
    found, gone = tuple(drift), tuple(exclusions)
    if not found and not gone:
        return pipeline, pool
    types = tuple(
        _type(
            pipeline,
            kind,
            {_key(one): one for one in found if one.server_type == kind.name},
            {_key(one) for one in gone if one.server_type == kind.name},
        )
        for kind in pool
    )
    by_variant, nowhere = {_key(one): one for one in found}, set() if pool else {_key(one) for one in gone}
    tasks = tuple(_task(task, by_variant, nowhere, alike=not pool) for task in pipeline.tasks)
    return replace(pipeline, tasks=tasks), types


def _key(known: Drift | Exclusion) -> Key:
    return known.task, known.variant


def _task(task: Task, drift: dict[Key, Drift], gone: set[Key], alike: bool) -> Task:
    variants = []
    for variant in task.variants:
        key = (task.name, variant.name)
        found = _variant(variant, drift.get(key), alike)
        variants.append(replace(found, runnable=False) if key in gone else found)
    return replace(task, variants=tuple(variants))


def _variant(variant: Variant, drift: Drift | None, alike: bool) -> Variant:
    if drift is None:
        return variant
    latency = _slowed(variant.latency, drift.slowdown) if alike else variant.latency
    fanout = variant.fanout | drift.fanout
    # Counts of children were drawn around the profiled mean.
    counts = variant.fanout_counts if fanout == variant.fanout else {}
    return replace(variant, latency=latency, fanout=fanout, fanout_counts=counts)


def _type(pipeline: Pipeline, kind: ServerType, drift: dict[Key, Drift], gone: set[Key]) -> ServerType:
    """A type with a profile of its own where its figures drift or a variant cannot be loaded."""
    if not drift and not gone:
        return kind
    here = as_run_by(pipeline, kind)
    figures = {
        (task.name, variant.name): _figures(variant, drift.get((task.name, variant.name)))
        for task in here.tasks
        for variant in task.variants
        if variant.runnable and (task.name, variant.name) not in gone
    }
    return replace(kind, profiles=kind.profiles | {pipeline.name: TypeProfile(figures, here.padded)})


def _figures(variant: Variant, drift: Drift | None) -> Figures:
    slowdown = 1.0 if drift is None else drift.slowdown
    return Figures(_slowed(variant.latency, slowdown), variant.load_s, variant.memory_mb)


def _slowed(latency: dict[int, Latency], slowdown: float) -> dict[int, Latency]:
    return {batch: Latency(slowdown * row.p50, slowdown * row.p95, slowdown * row.p99) for batch, row in latency.items()}
