"""Keyed draws: every random quantity is a function of (seed, what it belongs to), so that two policies meet the same
fan-outs and the emulated engine and the twin agree. Holds no state and no generator."""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache
from math import exp

from loki_rl.core.pipeline import Latency, Pipeline

_MASK = (1 << 64) - 1
_SCALE = 1.0 / (1 << 53)


def uniform(seed: int, key: int, stream: int) -> float:
    """A number in [0, 1) that depends on nothing but its arguments (two rounds of splitmix64, Steele et al. 2014)."""
    x = (seed * 0x9E3779B97F4A7C15 + key * 0xD1342543DE82EF95 + stream * 0xBF58476D1CE4E5B9 + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    x ^= x >> 31
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    return ((x ^ (x >> 27)) >> 11) * _SCALE


@lru_cache(maxsize=4096)
def _poisson_cdf(mean: float) -> tuple[float, ...]:
    term = exp(-mean)
    total, cdf, count = term, [term], 0
    while total < 1 - 1e-12 and count < 10 * mean + 60:
        count += 1
        term *= mean / count
        total += term
        cdf.append(total)
    return tuple(cdf)


def poisson(u: float, mean: float) -> int:
    """The u-quantile of a Poisson distribution; rises with both arguments."""
    return bisect_right(_poisson_cdf(mean), u)


def rounded(u: float, mean: float) -> int:
    """floor(mean) or one more, with the right mean: a mix such as 'half of the requests'."""
    whole = int(mean)
    return whole + (u < mean - whole)


def service_s(latency: Latency, u: float) -> float:
    """The u-quantile [s] of a service time known by three percentiles: flat to the median, then linear, capped at p99."""
    if u < 0.5:
        return latency.p50
    if u < 0.95:
        return latency.p50 + (u - 0.5) / 0.45 * (latency.p95 - latency.p50)
    return latency.p95 + min(1.0, (u - 0.95) / 0.04) * (latency.p99 - latency.p95)


def mean_s(latency: Latency) -> float:
    """Mean service time [s] of the distribution that `service_s` draws from."""
    return 0.725 * latency.p50 + 0.245 * latency.p95 + 0.03 * latency.p99


# Every stream of random numbers there is, so that no two are the same. Those of `uniform` keep draws that share a key apart:
# child tasks use their position, entry tasks ENTRY and theirs, the others start above any position.
SERVICE = 1 << 20
ENTRY = 1 << 21
NOISE = 1 << 22
DEAL = 1 << 23
SAMPLE = 1 << 24
RETRY = 1 << 25
SPAN, ROOT_SPAN, TRACE_HIGH, TRACE_LOW = (1 << bit for bit in range(26, 30))
LOADS = 1 << 30
# Those of whole generators (traces.arrivals.generator).
ARRIVALS, GENERATE, BURSTY, FLUID_WINDOWS, FLUID_CUTS, FORECASTER, MOOD = 1, 2, 7, 8, 9, 10, 11
# A stream for each kind of delay, from this one on.
DELAYS = 32


def fanouts(seed: int, pipeline: Pipeline, item: int, task: int, variant: int) -> tuple[int, ...]:
    """Children of an item, one count per child task: Poisson around the variant's means (or as they were counted, where the
    variant says so), one uniform for all variants, so that a variant with a larger mean never makes fewer."""
    room = pipeline.max_children
    counts = []
    means, cdfs = pipeline.fanouts[task][variant], pipeline.fanout_cdfs[task][variant]
    for child, mean, cdf in zip(pipeline.children[task], means, cdfs, strict=True):
        u = uniform(seed, item, child)
        count = min(room, poisson(u, mean) if cdf is None else bisect_right(cdf, u))
        room -= count
        counts.append(count)
    return tuple(counts)


def entry_counts(seed: int, pipeline: Pipeline, root: int) -> tuple[int, ...]:
    """Items of each entry task that a request starts with."""
    return tuple([_entries(seed, root, task, pipeline.tasks[task].entry) for task in pipeline.entries])


def _entries(seed: int, root: int, task: int, mean: float) -> int:
    return int(mean) if mean.is_integer() else rounded(uniform(seed, root, ENTRY + task), mean)


def leaves_below(seed: int, pipeline: Pipeline, item: int, task: int) -> int:
    """Leaves that an item would have had, had the most accurate variants served it (1 at a leaf task)."""
    if not pipeline.children[task]:
        return 1
    counts = fanouts(seed, pipeline, item, task, pipeline.most_accurate[task])
    total, number = 0, 0
    for child, count in zip(pipeline.children[task], counts, strict=True):
        for _ in range(count):
            total += leaves_below(seed, pipeline, pipeline.child_id(item, child, number), child)
            number += 1
    return total


def root_leaves(seed: int, pipeline: Pipeline, root: int) -> int:
    """Leaves that a whole request would have had."""
    total, number = 0, 0
    for task, count in zip(pipeline.entries, entry_counts(seed, pipeline, root), strict=True):
        for _ in range(count):
            total += leaves_below(seed, pipeline, pipeline.entry_id(root, number), task)
            number += 1
    return total


def batch_seconds(seed: int, pipeline: Pipeline, batch: int, task: int, variant: int, n: int) -> float:
    """Service time [s] of a batch of n items, noise keyed by the batch."""
    return service_s(pipeline.latencies[task][variant][n], uniform(seed, batch, SERVICE))
