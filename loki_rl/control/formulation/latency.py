"""Latency models: what a configuration costs of the latency budget, how many items per second it is rated for, and what must
stay idle beside it. They know no demand, so that the allocator stays linear."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from loki_rl.control.formulation.request import Queueing
from loki_rl.core.draws import mean_s
from loki_rl.core.pipeline import Pipeline

MICRO = 1_000_000

Amount = TypeVar("Amount", float, NDArray[np.float64])


class LatencyModel(Protocol):
    """How one name of `Request.queueing` judges a configuration. Integer microseconds: sums have no float edge."""

    budget_us: int  # what the configurations along any path may cost together

    def cost_us(self, task: int, variant: int, batch: int) -> int:
        """Microseconds of the budget that one stage takes, its queue included."""

    def rate(self, task: int, variant: int, batch: int) -> float:
        """Items per second that one server is rated for."""

    def reserve(self, task: int, variant: int, batch: int) -> float:
        """Servers that must stay idle in a busy pool, per item that arrives at once, if all are served like this."""


class HalfSlo:
    """Loki's model (HPDC'24, section 5): medians along a path may take half the SLO, the other half is for queueing; a
    server is rated for its full throughput."""

    def __init__(self, pipeline: Pipeline, slo_s: float) -> None:
        self._rows = pipeline.latencies
        self.budget_us = int(slo_s / 2 * MICRO + 0.5)

    def cost_us(self, task: int, variant: int, batch: int) -> int:
        return round(self._rows[task][variant][batch].p50 * MICRO)

    def rate(self, task: int, variant: int, batch: int) -> float:
        return batch / self._rows[task][variant][batch].p50

    def reserve(self, task: int, variant: int, batch: int) -> float:  # noqa: ARG002  (half the SLO is all it reserves)
        return 0.0


class Tail:
    """Slow batches (p99) and hops in a part of the SLO, the rest an allowance for the task's queue that idle servers must
    make good.

    One queue feeds the whole pool. In heavy traffic its work is exponential (Kingman 1961): where X items of s seconds
    arrive at once and a share u of the pool is busy, a wait beyond w has probability exp(-2 w idle / (u X s)), whatever the
    size of the pool. So it needs idle = URGENCY u X s / w servers, hardly more for a large pool than for a small one. X is
    what one item of the parent makes (1 + its mean, for Poisson counts), s the time per item at full batches. A stage may
    so exceed its allowance in exp(-2 URGENCY) of the cases: two stages seldom do at once, and what one leaves the next may
    use. The constants are chosen in the event twin (benchmarks/tail_model.py).
    """

    WAITING = 0.4
    URGENCY = 2.0

    def __init__(self, pipeline: Pipeline, slo_s: float) -> None:
        self._rows = pipeline.latencies
        self._hop_s = 3 * pipeline.hop_s
        self._wait_s = [self.WAITING * slo_s / depth for depth in depths(pipeline)]
        self.budget_us = max(0, int((slo_s - pipeline.hop_s) * MICRO))

    def cost_us(self, task: int, variant: int, batch: int) -> int:
        return round((self._hop_s + self._rows[task][variant][batch].p99 + self._wait_s[task]) * MICRO)

    def rate(self, task: int, variant: int, batch: int) -> float:
        return batch / mean_s(self._rows[task][variant][batch])

    def reserve(self, task: int, variant: int, batch: int) -> float:
        return self.URGENCY * mean_s(self._rows[task][variant][batch]) / batch / self._wait_s[task]


def with_idle(busy: Amount, reserve: Amount) -> Amount:
    """Servers of a pool that keeps `busy` of them busy: the solution of idle = reserve x busy / (busy + idle)."""
    root: Amount = (busy * (busy + 4 * reserve)) ** 0.5
    return (busy + root) / 2


def depths(pipeline: Pipeline) -> list[int]:
    """[task] = tasks on the longest path through it."""
    lines = [pipeline.lines[leaf] for leaf in pipeline.leaves]
    return [max(len(line) for line in lines if task in line) for task in range(len(pipeline.tasks))]


MODELS: dict[Queueing, Callable[[Pipeline, float], LatencyModel]] = {"tail": Tail, "half-slo": HalfSlo}


def latency_model(name: Queueing, pipeline: Pipeline, slo_s: float) -> LatencyModel:
    """The model of that name for an SLO."""
    return MODELS[name](pipeline, slo_s)
