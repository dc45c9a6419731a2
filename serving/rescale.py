"""From what workers took in a plane to a profile as served. Owns the statistics; measures nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import chain
from statistics import median

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from loki_rl.config import PipelineFile
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Plan
from loki_rl.profile_file import Capacity, Load, ProfileFile, Timing
from loki_rl.serving.engine import EngineError
from loki_rl.serving.worker_log import Batch, WorkerLog

# After the loads of a round, until the queues are as they stay.
SETTLE_S = 0.5
# Fewer batches of a variant say less than those of its whole task.
LEAST = 10
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
    """Percentiles as served, as multiples of the median measured in isolation."""

    p50: float
    p95: float
    p99: float


def rescaled(
    file: PipelineFile, rounds: Sequence[Round], spans: Sequence[Span], log: WorkerLog, neighbours: float = 0.0
) -> ProfileFile:
    """The profile of `file` with times as served; what is dominated stays judged by times in isolation, since variants are
    served beside different others. Raises EngineError if the plane served too little to say."""
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
    """Of each variant, since contention weighs more on short batches; one that was not served gets the medians of its
    task's others. Raises EngineError if a task ran nothing."""
    ratios: dict[Model, list[float]] = defaultdict(list)
    for batch in batches:
        isolated = pipeline.service_s[batch.task][batch.variant][batch.items]
        ratios[batch.task, batch.variant].append(batch.seconds / isolated)
    known = {model: _factor(found) for model, found in ratios.items() if len(found) >= LEAST}
    factors: dict[Model, Factor] = {}
    for position, task in enumerate(pipeline.tasks):
        mine = [factor for model, factor in known.items() if model[0] == position]
        if not mine:
            raise EngineError(f"task '{task.name}' ran too few batches to measure it as served")
        other = Factor(*(median(getattr(factor, name) for factor in mine) for name in Factor.__struct_fields__))
        for variant in range(len(task.variants)):
            factors[position, variant] = known.get((position, variant), other)
    return factors


def _factor(ratios: Sequence[float]) -> Factor:
    return Factor(*(float(share) for share in np.percentile(ratios, (50, 95, 99))))


def _timing(pipeline: Pipeline, row: Timing, factors: dict[Model, Factor]) -> Timing:
    factor = factors[_model(pipeline, row.task, row.variant)]
    p50, p95, p99 = (round(row.p50_ms * share, 4) for share in (factor.p50, factor.p95, factor.p99))
    return Timing(row.task, row.variant, row.batch, p50, p95, p99)


def _load(pipeline: Pipeline, row: Load, log: WorkerLog) -> Load:
    """A load beside running batches takes longer than alone."""
    task, variant = _model(pipeline, row.task, row.variant)
    seen = [load.end - load.begin for load in log.loads if (load.task, load.variant) == (task, variant)]
    return replace(row, load_s=round(median(seen), 4)) if seen else row


def _model(pipeline: Pipeline, task: str, variant: str) -> Model:
    position = pipeline.index[task]
    return position, pipeline.variant_index[position][variant]


def _provenance(pipeline: Pipeline, steady: Sequence[Sequence[Batch]], neighbours: float) -> str:
    count = sum(map(len, steady))
    return (
        f"rescaled by {count} batches of a plane at its limit with {pipeline.servers} servers, client included, while other "
        f"programs took {neighbours:.0%} of the cores"
    )
