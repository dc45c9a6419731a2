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
from loki_rl.serving.dominance import Figures, dominated
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


class Factors(Struct, frozen=True):
    """What multiplies a median measured in isolation. medians: of each variant. p95, p99: of each task, on top."""

    medians: dict[Model, float]
    p95: list[float]
    p99: list[float]


def rescaled(file: PipelineFile, rounds: Sequence[Round], spans: Sequence[Span], log: WorkerLog) -> ProfileFile:
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
        provenance=f"{old.provenance}; {_provenance(pipeline, steady)}",
        variants=timings,
        loads=tuple(_load(pipeline, row, log) for row in old.loads if (row.task, row.variant) in known),
        dominated=dominated(file.tree, Figures(timings, old.accuracies, old.fanouts, old.paths)),
        capacity=Capacity(
            servers=pipeline.servers,
            most_accurate_rps=round(completed_rps(rounds[0], steady[0]), 3),
            cheapest_rps=round(completed_rps(rounds[-1], steady[-1]), 3),
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


def find_factors(pipeline: Pipeline, batches: Iterable[Batch]) -> Factors:
    """Medians for each variant, since contention weighs more on short batches; the spread for each task, from more
    batches than one variant has. Raises EngineError if a task ran nothing."""
    ratios: dict[Model, list[float]] = defaultdict(list)
    for batch in batches:
        isolated = pipeline.service_s[batch.task][batch.variant][batch.items]
        ratios[batch.task, batch.variant].append(batch.seconds / isolated)
    known = {model: median(found) for model, found in ratios.items() if len(found) >= LEAST}
    medians: dict[Model, float] = {}
    p95, p99 = [], []
    for position, task in enumerate(pipeline.tasks):
        mine = [model for model in known if model[0] == position]
        if not mine:
            raise EngineError(f"task '{task.name}' ran too few batches to measure it as served")
        other = median(known[model] for model in mine)
        medians |= {(position, variant): known.get((position, variant), other) for variant in range(len(task.variants))}
        spread = [ratio / known[model] for model in mine for ratio in ratios[model]]
        p95.append(float(np.percentile(spread, 95)))
        p99.append(float(np.percentile(spread, 99)))
    return Factors(medians, p95, p99)


def _timing(pipeline: Pipeline, row: Timing, factors: Factors) -> Timing:
    task, variant = _model(pipeline, row.task, row.variant)
    p50 = row.p50_ms * factors.medians[task, variant]
    return Timing(
        row.task,
        row.variant,
        row.batch,
        round(p50, 4),
        round(p50 * factors.p95[task], 4),
        round(p50 * factors.p99[task], 4),
    )


def _load(pipeline: Pipeline, row: Load, log: WorkerLog) -> Load:
    """A load beside running batches takes longer than alone."""
    task, variant = _model(pipeline, row.task, row.variant)
    seen = [load.end - load.begin for load in log.loads if (load.task, load.variant) == (task, variant)]
    return replace(row, load_s=round(median(seen), 4)) if seen else row


def _model(pipeline: Pipeline, task: str, variant: str) -> Model:
    position = pipeline.index[task]
    return position, pipeline.variant_index[position][variant]


def _provenance(pipeline: Pipeline, steady: Sequence[Sequence[Batch]]) -> str:
    count = sum(map(len, steady))
    return f"rescaled by {count} batches of a plane at its limit with {pipeline.servers} servers, client included"
