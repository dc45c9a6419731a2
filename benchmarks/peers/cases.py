"""What is measured of each contestant, a case at a time. Owns the cases and their demand; must not start anything."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from benchmarks.load import poisson
from benchmarks.peers.analyzer import Protocol, analyze
from benchmarks.peers.closed_loop import closed_loop
from benchmarks.peers.contestants import Contestant
from benchmarks.peers.process import spent_between
from loki_rl.serving.load.replay import replay_over
from loki_rl.traces.arrivals import arrivals
from loki_rl.traces.trace import TraceOptions, load_trace

Figures = dict[str, float]
Measure = Callable[[Contestant], Figures]

CONCURRENCIES = 1, 16, 64
# perf_analyzer's three windows take so many seconds of a case's.
WINDOWS = 3
OVERLOAD = 1.5
CROWD = "flash_crowd"
# The crowd's base, as a share of what the peer can do with its best models; its peak is 4.7 times that. It lasts as long
# as so many other cases.
CROWD_BASE, CROWD_CASES = 0.6, 6
# Of the seconds in which the crowd's trace is at its base.
BASE_S = 60
TIMEOUT_S = 30.0
# What a server can do in time shows with one, two or three requests in flight for each core: one that batches does more with
# more, until all are late.
CORES = len(os.sched_getaffinity(0))
CLOSED = {f"{each * CORES} in flight": each * CORES for each in (1, 2, 3)}


class Case(Struct):
    """name: what the report calls it. measure: its figures of one contestant."""

    name: str
    measure: Measure


def null_cases(seconds: float, grpc: bool, standard: bool) -> list[Case]:
    """So many requests in flight. standard: whether perf_analyzer can ask both sides, else our own client does."""
    protocols: list[Protocol] = ["http", "grpc"] if grpc else ["http"]
    return [
        Case(f"{protocol}, {concurrency} in flight", _null(protocol, concurrency, seconds, standard))
        for protocol in protocols
        for concurrency in CONCURRENCIES
    ]


def _null(protocol: Protocol, concurrency: int, seconds: float, standard: bool) -> Measure:
    def measure(contestant: Contestant) -> Figures:
        port = contestant.ports.http if protocol == "http" else contestant.ports.grpc
        if not standard:
            return _looped(contestant, concurrency, seconds, TIMEOUT_S)
        seen = analyze(contestant.work.kind, protocol, port, concurrency, seconds / WINDOWS)
        return {"rps": seen.rps, "p50_ms": seen.p50_ms, "p99_ms": seen.p99_ms}

    return lambda contestant: _with_cpu(contestant, measure)


def idle(seconds: float) -> Case:
    """What a contestant spends while nobody asks it."""

    def measure(contestant: Contestant) -> Figures:
        before = contestant.tree.spent_s()
        time.sleep(seconds)
        return {"cores": spent_between(before, contestant.tree.spent_s()) / seconds}

    return Case("idle", measure)


def closed(seconds: float) -> list[Case]:
    """What a contestant can do within the SLO."""

    def measure(contestant: Contestant, concurrency: int) -> Figures:
        return _with_cpu(contestant, lambda one: _looped(one, concurrency, seconds, one.work.slo_s))

    return [Case(name, partial(measure, concurrency=concurrency)) for name, concurrency in CLOSED.items()]


def _looped(contestant: Contestant, concurrency: int, seconds: float, limit_s: float) -> Figures:
    with closing(contestant.sender(limit_s)) as sender:
        seen = closed_loop(sender, concurrency, seconds, limit_s)
    figures = {"rps": seen.served / seconds, "served": seen.served, "failed": seen.failed}
    return figures | ({"p50_ms": seen.p50_ms, "p99_ms": seen.p99_ms} if seen.served else {})


def offered(name: str, rps: float, seconds: float, seed: int) -> Case:
    """Poisson arrivals at a rate that does not change."""
    return _open(name, poisson(rps, seconds, seed), seconds)


def crowd(capacity_rps: float, seconds: float, seed: int) -> Case:
    """The flash crowd that ships, in a shorter time."""
    trace, length = load_trace(CROWD), CROWD_CASES * seconds
    compress = (trace.to_s - trace.from_s) / length
    base_rps = float(trace.counts[:BASE_S].mean())
    options = TraceOptions(compress=compress, rate_scale=CROWD_BASE * capacity_rps / (base_rps * compress))
    return _open("flash crowd", arrivals(trace, options, seed), length)


def _open(name: str, times: NDArray[np.float64], seconds: float) -> Case:
    def measure(contestant: Contestant) -> Figures:
        slo_s = contestant.work.slo_s
        seen = replay_over(contestant.sender(slo_s), times, slo_s)
        figures = seen.figures
        # Others do not say what served a request, but it is always the same.
        accuracy = contestant.work.accuracy if figures.accuracy is None else figures.accuracy
        found = {
            "offered_rps": len(times) / seconds,
            "rps": figures.ok / seconds,
            "served": figures.ok,
            "accuracy": accuracy,
            "exact_rps": accuracy * figures.ok / seconds,
            "client_lag_p99_ms": seen.lag.p99_ms,
        }
        answered = figures.ok + figures.late
        return found | ({"p50_ms": figures.p50_ms, "p99_ms": figures.p99_ms} if answered else {})

    return Case(name, lambda contestant: _with_cpu(contestant, measure))


def _with_cpu(contestant: Contestant, measure: Measure) -> Figures:
    """The figures, and the processor time of the contestant's processes for each request that was answered well."""
    before, began = contestant.tree.spent_s(), time.monotonic()
    figures = measure(contestant)
    spent_s = spent_between(before, contestant.tree.spent_s())
    # perf_analyzer tells a rate alone, of windows that are nearly all of its time.
    served = figures.get("served", figures["rps"] * (time.monotonic() - began))
    return figures | ({"cpu_us": 1e6 * spent_s / served} if served else {})
