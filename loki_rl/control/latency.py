"""Latency models: what a configuration costs of the latency budget and how many items per second it is rated for. Owns the
queueing allowance; knows neither demand nor plans, so that the cost stays additive and the allocator linear."""

from __future__ import annotations

from typing import Protocol

from loki_rl.control.request import Queueing
from loki_rl.core.pipeline import Latency, Pipeline

MICRO = 1_000_000


class LatencyModel(Protocol):
    """How one name of `Request.queueing` judges a configuration. Integer microseconds: sums have no float edge."""

    def budget_us(self, slo_s: float) -> int:
        """Microseconds that the configurations along any path may cost together."""

    def cost_us(self, task: int, variant: int, batch: int) -> int:
        """Microseconds of the budget that one stage takes."""

    def rate(self, task: int, variant: int, batch: int) -> float:
        """Items per second that one server is rated for."""


class HalfSlo:
    """Loki's model (HPDC'24, section 5): medians along a path may take half the SLO, the other half is for queueing; a
    server is rated for its full throughput."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._rows = pipeline.latencies

    def budget_us(self, slo_s: float) -> int:
        return int(slo_s / 2 * MICRO + 0.5)

    def cost_us(self, task: int, variant: int, batch: int) -> int:
        return round(self._rows[task][variant][batch].p50 * MICRO)

    def rate(self, task: int, variant: int, batch: int) -> float:
        return batch / self._rows[task][variant][batch].p50


class Tail:
    """Slow batches (p99) plus hops plus a wait for the shared queue, against the whole SLO.

    The queue of a task is served by its whole pool, so a free server comes every service time / pool size; a batch of the
    parent brings its children at once, which then need several batches. The pool size is that of an all-accurate plan on
    the whole cluster: a figure of the request, not of the plan, hence the same for every candidate.
    """

    UTILISATION = 0.9
    WAITS = 2.0

    def __init__(self, pipeline: Pipeline, servers: int) -> None:
        self._rows = pipeline.latencies
        self._hop_s = pipeline.hop_s
        self._pools = pool_sizes(pipeline, servers)

    def budget_us(self, slo_s: float) -> int:
        return max(0, int((slo_s - self._hop_s) * MICRO))

    def cost_us(self, task: int, variant: int, batch: int) -> int:
        row = self._rows[task][variant][batch]
        wait = self.WAITS * row.p95 / self._pools[task]
        return round((self._hop_s + row.p99 + wait) * MICRO)

    def rate(self, task: int, variant: int, batch: int) -> float:
        return self.UTILISATION * batch / mean_s(self._rows[task][variant][batch])


def mean_s(row: Latency) -> float:
    """Mean service time [s] of the distribution that twin and emulated engine draw from (core.draws.service_s)."""
    return 0.725 * row.p50 + 0.245 * row.p95 + 0.03 * row.p99


def pool_sizes(pipeline: Pipeline, servers: int) -> tuple[float, ...]:
    """[task] = servers of a cluster that would work for the task if only the most accurate variants were used."""
    items = [task.entry for task in pipeline.tasks]
    work = []
    for position in range(len(pipeline.tasks)):
        best = pipeline.most_accurate[position]
        for child, fanout in zip(pipeline.children[position], pipeline.fanouts[position][best], strict=True):
            items[child] = items[position] * fanout
        rows = pipeline.latencies[position][best]
        work.append(items[position] * min(mean_s(rows[batch]) / batch for batch in range(1, len(rows))))
    total = sum(work)
    return tuple(max(1.0, servers * share / total) for share in work)


def latency_model(name: Queueing, pipeline: Pipeline, servers: int) -> LatencyModel:
    """The model of that name for a cluster of `servers`."""
    return HalfSlo(pipeline) if name == "half-slo" else Tail(pipeline, servers)
