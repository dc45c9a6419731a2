"""Measuring service times: warm-up, repetitions, percentiles."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice

import numpy as np
from msgspec import Struct

from loki_rl.core.pipeline import Latency
from loki_rl.serving.engines.adapter import Array

RunBatch = Callable[[list[Array]], object]


class Effort(Struct, frozen=True):
    """How long to measure one batch size: `warmup` unmeasured runs, then runs for `budget_s`, at least `least` and at most
    `most` of them. Two warm-up runs at least: ONNX Runtime lays out its memory in the second run of a shape (measured: 3
    times as slow), not in the first."""

    budget_s: float = 0.3
    least: int = 12
    most: int = 200
    warmup: int = 2


def measure_latencies(
    run_batch: RunBatch,
    payloads: Sequence[Array],
    sizes: Sequence[int],
    effort: Effort,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[int, Latency]:
    """Batch size -> percentiles of the time [s] of `run_batch`, each call with the next payloads of an endless cycle.

    clock: `time.thread_time` instead leaves out what other processes took, where all work happens in this thread.
    """
    supply = cycle(payloads)
    return {size: _latency(lambda size=size: run_batch(list(islice(supply, size))), effort, clock) for size in sizes}  # type: ignore[misc]


def _latency(run: Callable[[], object], effort: Effort, clock: Callable[[], float]) -> Latency:
    for _ in range(effort.warmup):
        run()
    times: list[float] = []
    while len(times) < effort.most and (len(times) < effort.least or sum(times) < effort.budget_s):
        start = clock()
        run()
        times.append(clock() - start)
    p50, p95, p99 = np.percentile(times, (50, 95, 99))
    return Latency(float(p50), float(p95), float(p99))
