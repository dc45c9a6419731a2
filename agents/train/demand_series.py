"""Demand to learn a forecaster from, as counts per second: windows of traces and of every kind that is generated. Owns which
seconds of a trace are for training, for validation and for test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
from msgspec import Struct

from loki_rl.control.demand.estimators import Floats
from loki_rl.core.draws import FORECASTER
from loki_rl.traces.arrivals import arrivals, expected, generator
from loki_rl.traces.generate import KINDS, generate
from loki_rl.traces.trace import Trace, TraceError, TraceOptions

# A trace is cut into six: which of them are for what. Between two, so much is left out [s, in the trace's own time].
PARTS = {"train": (0, 3, 5), "validation": (2,), "test": (1, 4)}
SIXTHS, GAP_S = 6, 600.0
# Seconds of a window as it is replayed, and how much slower than fits a sixth of the trace its time may run.
WINDOW_S, SHORTEST_S, SLOWER = 700, 120, 16.0
LEVELS_RPS = (10.0, 1500.0)
# Of generated demand: peak over base, variance over mean where half of it is Poisson, share of the window of a period.
PEAKS, NOISE, PERIODS = (1.0, 60.0), (1.0, 20.0), (0.01, 0.5)


class Series(Struct, frozen=True, eq=False):
    """counts [n] per second of one family of demand."""

    family: str
    counts: Floats


def from_trace(trace: Trace, part: str, windows: int, seed: int) -> list[Series]:
    """Windows from one part of a trace at random levels and speeds. Raises TraceError if the part is too short."""
    spans, rng = spans_of(trace, part), generator(seed, FORECASTER)
    if not spans:
        raise TraceError(
            f"trace '{trace.name}' is too short to learn from: of {SIXTHS} parts with {GAP_S:g} s between them none for "
            f"{part} lasts {SHORTEST_S} s; leave it out"
        )
    found = list[Series]()
    for _ in range(windows):
        options = _drawn(trace, spans, rng)
        # Of a night without requests there is nothing to learn.
        if expected(trace, options) > 0:
            found.append(Series(trace.name, _counted(arrivals(trace, options, int(rng.integers(1 << 30))))))
    return found


def spans_of(trace: Trace, part: str) -> list[tuple[float, float]]:
    """From where to where a part goes in a trace [s], neighbouring sixths as one."""
    sixth = (trace.to_s - trace.from_s) / SIXTHS
    runs = [[place for _, place in run] for _, run in groupby(enumerate(PARTS[part]), lambda pair: pair[1] - pair[0])]
    spans = [
        (
            trace.from_s + sixth * run[0] + GAP_S * (run[0] > 0),
            trace.from_s + sixth * (run[-1] + 1) - GAP_S * (run[-1] < SIXTHS - 1),
        )
        for run in runs
    ]
    return [(low, high) for low, high in spans if high - low >= SHORTEST_S]


def _drawn(trace: Trace, spans: Sequence[tuple[float, float]], rng: np.random.Generator) -> TraceOptions:
    lengths = np.array([high - low for low, high in spans])
    low, high = spans[int(rng.choice(len(spans), p=lengths / lengths.sum()))]
    fastest = max(1.0, min((trace.to_s - trace.from_s) / SIXTHS / 300, (high - low) / SHORTEST_S))
    compress = _between(rng, max(1.0, fastest / SLOWER), fastest)
    lasts = min(WINDOW_S * compress, high - low)
    start = float(rng.uniform(low, high - lasts))
    return TraceOptions(from_s=start, to_s=start + lasts, compress=compress, mean_rps=_between(rng, *LEVELS_RPS))


def generated(windows: int, first_seed: int) -> Iterator[Series]:
    """So many windows of each kind, with drawn parameters."""
    for place, kind in enumerate(KINDS):
        for number in range(first_seed, first_seed + windows):
            yield _generated(kind, generator(number * len(KINDS) + place, FORECASTER))


def _generated(kind: str, rng: np.random.Generator) -> Series:
    """The seed is drawn too: what is generated with the same one elsewhere has the same shape."""
    seed, seconds, base = int(rng.integers(1 << 30)), int(rng.integers(SHORTEST_S, WINDOW_S)), _between(rng, *LEVELS_RPS)
    options: dict[str, float] = {} if kind == "bursty" else _shape(kind, seconds, rng)
    trace = generate(kind, seconds, base / options.get("peak", 1.0) ** 0.5, seed, **options)
    return Series(kind, _counted(arrivals(trace, TraceOptions(), seed)))


def _shape(kind: str, seconds: int, rng: np.random.Generator) -> dict[str, float]:
    options = {"peak": _between(rng, *PEAKS)}
    if kind in ("bursts", "steps", "mmpp"):
        options["period_s"] = seconds * _between(rng, *PERIODS)
    if kind != "mmpp" and rng.random() < 0.5:
        options["idc"] = _between(rng, *NOISE)
    return options


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    """Each order of magnitude is as likely as another."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _counted(times: Floats) -> Floats:
    return np.bincount(times.astype(np.int64)).astype(np.float64)
