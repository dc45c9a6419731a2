"""Measuring service times: warm-up, interleaved rounds, percentiles, and how sure they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, cycle, islice
from math import ceil
from statistics import median

import numpy as np
from msgspec import Struct

from loki_rl.core.pipeline import Latency
from loki_rl.serving.engines.adapter import Array
from loki_rl.serving.engines.core_time import ThreadTime, thread_time_of_now

RunBatch = Callable[[list[Array]], object]
Clock = Callable[[], ThreadTime]
Round = list[ThreadTime]
# Neighbours that share a cache make whole rounds slower, and none faster: the lower quartile is what the model needs.
QUIET = 25


class Effort(Struct, frozen=True):
    """How long to measure one batch size: `warmup` unmeasured runs, then runs for `budget_s`, at least `least` and at most
    `most` of them, spread over so many rounds. Two warm-up runs at least: ONNX Runtime lays out its memory in the second run
    of a shape (measured: 3 times as slow), not in the first."""

    budget_s: float = 0.3
    least: int = 16
    most: int = 200
    warmup: int = 2
    rounds: int = 4


class Measurement(Struct, frozen=True):
    """latency: percentiles of the time [s] without what was waited for a core. error: standard error of the median, as a
    share of it. waited: share of the wall time that was waited."""

    latency: Latency
    error: float
    waited: float


def measure_latencies(
    run_batch: RunBatch, payloads: Sequence[Array], sizes: Sequence[int], effort: Effort, clock: Clock = thread_time_of_now
) -> dict[int, Measurement]:
    """Batch size -> the time of `run_batch`, each call with the next payloads of an endless cycle. All sizes have their turn
    in each round, so that what disturbs a while disturbs a round of each and not one size alone."""
    supply = cycle(payloads)
    rounds: dict[int, list[Round]] = {size: [] for size in sizes}
    for number in range(effort.rounds):
        for size, done in rounds.items():

            def run(size: int = size) -> object:
                return run_batch(list(islice(supply, size)))

            done.append(_round(run, effort, 1 if number else effort.warmup, clock))
    return {size: summarised(done) for size, done in rounds.items()}


def _round(run: Callable[[], object], effort: Effort, warmup: int, clock: Clock) -> Round:
    for _ in range(warmup):
        run()
    least, most = ceil(effort.least / effort.rounds), ceil(effort.most / effort.rounds)
    times: Round = []
    spent = 0.0
    while len(times) < most and (len(times) < least or spent < effort.budget_s / effort.rounds):
        start = clock()
        run()
        times.append(clock().since(start))
        spent += times[-1].wall
    return times


def summarised(rounds: Sequence[Round]) -> Measurement:
    """The level of the quiet rounds, with the spread that runs have within their rounds."""
    own = [[one.own for one in done] for done in rounds]
    medians = [median(done) for done in own]
    level = float(np.percentile(medians, QUIET))
    shape = [one / middle for done, middle in zip(own, medians, strict=True) for one in done]
    p50, p95, p99 = (level * float(share) for share in np.percentile(shape, (50, 95, 99)))
    runs = list(chain.from_iterable(rounds))
    waited = sum(one.waited for one in runs) / sum(one.wall for one in runs)
    return Measurement(Latency(p50, p95, p99), standard_error(medians), min(1.0, waited))


def standard_error(medians: Sequence[float]) -> float:
    """Of the mean of such medians, as a share of it; 0 of a single one, which tells nothing of the others."""
    if len(medians) < 2:
        return 0.0
    return float(np.std(medians, ddof=1) / len(medians) ** 0.5 / np.mean(medians))
