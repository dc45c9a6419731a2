"""From what workers took in a plane to a profile as served: the statistics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import chain
from statistics import median

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Plan
from loki_rl.files.config import PipelineFile
from loki_rl.files.profile_file import Capacity, Load, ProfileFile, Timing
from loki_rl.serving.engines.engine import EngineError
from loki_rl.serving.profiling.worker_log import Batch, WorkerLog

# After the loads of a round, until the queues are as they stay.
SETTLE_S = 0.5
# Fewer batches of a variant say less than those of its whole task.
LEAST = 10
# Runs on one quiet host differ by this share; a plan must hold in the slower ones.
MARGIN = 1.05
# A task as busy as this beside the busiest one is as much at its limit (the queue between them may still grow).
ALWAYS = 0.95

Model = tuple[int, int]  # task, variant
Span = tuple[float, float]


class Round(Struct, frozen=True):
    """What was served for a while. variants: the one of each task. per_request: mean items of each task per request."""

    plan: Plan
    variants: tuple[int, ...]
    per_request: tuple[float, ...]


class Factor(Struct, frozen=True):
    """How a variant is slowed: a batch takes extra_s [s], and its percentiles are multiples of the median in isolation."""

    extra_s: float
    p50: float
    p95: float
    p99: float


def rescaled(
    file: PipelineFile, rounds: Sequence[Round], spans: Sequence[Span], log: WorkerLog, neighbours: float = 0.0
) -> ProfileFile:
    """The profile of `file` with times as served. Raises EngineError if the plane served too little to say."""
    assert file.measured is not None
    pipeline, old = file.pipeline, file.measured
    steady = [steady_batches(one, span, log) for one, span in zip(rounds, spans, strict=True)]
    factors = find_factors(pipeline, list(chain.from_iterable(steady)))
    # A profile may be older than the file: of variants that the file no longer has, nothing was served.
    known = {(task.name, variant.name) for task in pipeline.tasks for variant in task.variants}
    timings = tuple(_timing(pipeline, row, factors) for row in old.variants if (row.task, row.variant) in known)
    return replace(
        old,
        as_served=True,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=f"{old.command} --as-served",
        provenance=f"{old.provenance}; {_provenance(pipeline, steady, neighbours)}",
        variants=timings,
        loads=tuple(_load(pipeline, row, log) for row in old.loads if (row.task, row.variant) in known),
        capacity=Capacity(
            servers=pipeline.servers,
            most_accurate_rps=round(completed_rps(rounds[0], steady[0]), 3),
            cheapest_rps=round(completed_rps(rounds[-1], steady[-1]), 3),
            neighbours=round(neighbours, 3),
        ),
    )


def steady_batches(served: Round, span: Span, log: WorkerLog) -> list[Batch]:
    """Batches of the round's own variants, run while nothing was loaded and the queues had settled."""
    begin, end = span
    start = max([begin, *(load.end for load in log.loads if begin <= load.end < end)]) + SETTLE_S
    return [
        batch
        for batch in log.batches
        if start <= batch.begin and batch.end <= end and served.variants[batch.task] == batch.variant
    ]


def completed_rps(served: Round, batches: Sequence[Batch]) -> float:
    """Requests per second at the plane's limit: what its slowest task completed while it was always busy, by its items. With
    the profile's items per request, the few pictures of one round do not decide. Raises EngineError if there are too few
    batches."""
    done: dict[int, list[Batch]] = defaultdict(list)
    for batch in sorted(batches, key=lambda batch: batch.end):
        done[batch.task].append(batch)
    busy = {task: _busy(mine) for task, mine in done.items() if len(mine) >= LEAST}
    if not busy:
        raise EngineError("the plane served too little to measure it; is the machine busy with something else?")
    limits = [task for task, share in busy.items() if share >= ALWAYS * max(busy.values())]
    return min(_items_per_s(done[task]) / served.per_request[task] for task in limits)


def _items_per_s(batches: Sequence[Batch]) -> float:
    """From end to end: what the first batch did is the work of before."""
    return sum(batch.items for batch in batches[1:]) / (batches[-1].end - batches[0].end)


def _busy(batches: Sequence[Batch]) -> float:
    """Mean busy servers of a task per server that it has."""
    workers = {batch.worker for batch in batches}
    length = max(batch.end for batch in batches) - min(batch.begin for batch in batches)
    return sum(batch.seconds for batch in batches) / (length * len(workers))


def find_factors(pipeline: Pipeline, batches: Iterable[Batch]) -> dict[Model, Factor]:
    """Of each variant; one that was not served gets the medians of its task's others. Raises EngineError if a task ran
    nothing."""
    ran: dict[Model, list[Batch]] = defaultdict(list)
    for batch in batches:
        ran[batch.task, batch.variant].append(batch)
    factors: dict[Model, Factor] = {}
    for position, task in enumerate(pipeline.tasks):
        mine = {model: found for model, found in ran.items() if model[0] == position and len(found) >= LEAST}
        if not mine:
            raise EngineError(f"task '{task.name}' ran too few batches to measure it as served")
        extra_s = _extra_s(pipeline, list(mine.values()))
        known = {model: _factor(pipeline, found, extra_s) for model, found in mine.items()}
        other = Factor(*(median(getattr(factor, name) for factor in known.values()) for name in Factor.__struct_fields__))
        for variant in range(len(task.variants)):
            factors[position, variant] = known.get((position, variant), other)
    return factors


def _extra_s(pipeline: Pipeline, of_variants: Sequence[Sequence[Batch]]) -> float:
    """What any batch of a task takes beyond its model, however small it is [s]: from the batches of different sizes of one
    variant, so that what differs between variants has no say."""
    above = below = 0.0
    for batches in of_variants:
        sizes: dict[int, list[float]] = defaultdict(list)
        for batch in batches:
            sizes[batch.items].append(batch.seconds)
        isolated = np.array([_isolated_s(pipeline, batches[0], size) for size in sizes])
        weight = np.array([len(found) for found in sizes.values()], np.float64)
        slowed = np.array([median(found) for found in sizes.values()]) / isolated
        x = 1 / isolated - np.average(1 / isolated, weights=weight)
        above += float((weight * x * (slowed - np.average(slowed, weights=weight))).sum())
        below += float((weight * x * x).sum())
    return max(0.0, above / below) if below > 0 else 0.0


def _factor(pipeline: Pipeline, batches: Sequence[Batch], extra_s: float) -> Factor:
    slowed = [max(0.0, batch.seconds - extra_s) / _isolated_s(pipeline, batch, batch.items) for batch in batches]
    return Factor(extra_s, *(float(share) for share in np.percentile(slowed, (50, 95, 99))))


def _isolated_s(pipeline: Pipeline, batch: Batch, items: int) -> float:
    return pipeline.service_s[batch.task][batch.variant][items]


def _timing(pipeline: Pipeline, row: Timing, factors: dict[Model, Factor]) -> Timing:
    factor = factors[pipeline.positions(row.task, row.variant)]
    slowed = (factor.p50, factor.p95, factor.p99)
    p50, p95, p99 = (round(MARGIN * (1000 * factor.extra_s + row.p50_ms * share), 4) for share in slowed)
    return Timing(row.task, row.variant, row.batch, p50, p95, p99)


def _load(pipeline: Pipeline, row: Load, log: WorkerLog) -> Load:
    """A load beside running batches takes longer than alone."""
    model = pipeline.positions(row.task, row.variant)
    seen = [load.end - load.begin for load in log.loads if (load.task, load.variant) == model]
    return replace(row, load_s=round(median(seen), 4)) if seen else row


def _provenance(pipeline: Pipeline, steady: Sequence[Sequence[Batch]], neighbours: float) -> str:
    count = sum(map(len, steady))
    return (
        f"rescaled by {count} batches of a plane at its limit with {pipeline.servers} servers, client included, while other "
        f"programs took {neighbours:.0%} of the cores"
    )
