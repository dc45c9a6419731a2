"""Arrival times drawn from a trace: the one function that every driver calls, so that all replay the same requests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from loki_rl.core.draws import ARRIVALS
from loki_rl.traces.demand import Trace, TraceError, TraceOptions, Wishes, window

# Copies of an exactly known arrival are spread over its second: at the same instant they would be a batch, not demand.
COPY_BIN_S = 1.0
MAX_ARRIVALS = 10**8


def arrivals(trace: Trace, options: TraceOptions, seed: int) -> NDArray[np.float64]:
    """Arrival times [s since the start of the window, in replay time], sorted; see `requests`."""
    return requests(trace, options, seed)[0]


def requests(trace: Trace, options: TraceOptions, seed: int) -> tuple[NDArray[np.float64], Wishes | None]:
    """Arrival times [s since the start of the window, in replay time], sorted, and what each request asks for, where the
    trace says; the same bytes for the same arguments.

    Each request of the trace is kept or repeated independently to reach the wanted rate. Inside a bin times are uniform
    given the count, which is all that a count says. Raises TraceError if options and trace do not fit.
    """
    start, end = window(trace, options)
    low, high = _bins(trace, start, end)
    starts, counts = trace.starts_s[low:high], trace.counts[low:high]
    factor = scale(trace, options)
    if factor * float(counts.sum()) > MAX_ARRIVALS:
        raise TraceError(
            f"trace '{trace.name}': {factor * float(counts.sum()):.3g} arrivals are more than {MAX_ARRIVALS:g}; take a "
            "shorter window or a lower rate"
        )
    rng = generator(seed, ARRIVALS)
    kept = _kept(counts, factor, rng)
    times = _exact(starts, kept, rng) if trace.exact else _spread(starts, kept, trace.bin_s, rng)
    wishes = trace.wishes
    if wishes is None:
        times.sort()
    else:
        order = np.argsort(times, kind="stable")
        times, wishes = times[order], wishes.take(low + _originals(kept)[order])
    # A bin that the window cuts gives the share of its requests that falls inside.
    inside = slice(int(np.searchsorted(times, start)), int(np.searchsorted(times, end)))
    return (times[inside] - start) / options.compress, None if wishes is None else wishes.take(inside)


def duration_s(trace: Trace, options: TraceOptions) -> float:
    """Length of the replay [s]. Raises TraceError as `arrivals` does."""
    start, end = window(trace, options)
    return (end - start) / options.compress


def clock_s(trace: Trace, options: TraceOptions) -> float:
    """When the replay begins [s since Monday 00:00 UTC, in replay time]: one that is played faster has shorter weeks. Raises
    TraceError as `arrivals` does."""
    return (trace.clock_s + window(trace, options)[0]) / options.compress


def expected(trace: Trace, options: TraceOptions) -> float:
    """Requests of the trace inside the window, before any scaling; a bin that the window cuts counts by its share."""
    start, end = window(trace, options)
    low, high = _bins(trace, start, end)
    starts, counts = trace.starts_s[low:high], trace.counts[low:high]
    if trace.exact:
        return float(counts.sum())
    shares = (np.minimum(starts + trace.bin_s, end) - np.maximum(starts, start)) / trace.bin_s
    return float(np.dot(shares, counts))


def scale(trace: Trace, options: TraceOptions) -> float:
    """How many requests are made of one, on average."""
    if options.mean_rps is None:
        return 1.0 if options.rate_scale is None else options.rate_scale
    total = expected(trace, options)
    if total == 0:
        raise TraceError(f"trace '{trace.name}' has no request in the window, so no mean rate can be reached; move it")
    return options.mean_rps * duration_s(trace, options) / total


def made_up(trace: Trace, options: TraceOptions) -> str:
    """What about the arrivals of a replay was not observed, to be said beside every result; empty if all was. Raises
    TraceError as `arrivals` does."""
    factor = scale(trace, options)
    copied = f"each request of the trace stands for {factor:.3g}" if factor > 1 else ""
    if copied and trace.exact:
        copied += ", the copies drawn inside its second"
    return "; ".join(part for part in (trace.synthetic, copied) if part)


def generator(seed: int, stream: int) -> np.random.Generator:
    """A generator that depends on nothing but its key; streams of one seed are independent (core/draws.py has them all)."""
    if not 0 <= seed < 1 << 64:
        raise TraceError(f"the seed must lie between 0 and 2**64 - 1, not {seed}")
    return np.random.Generator(np.random.Philox(key=np.array([seed, stream], np.uint64)))


def _bins(trace: Trace, start: float, end: float) -> tuple[int, int]:
    """First and last + 1 bin that the window touches."""
    low = np.searchsorted(trace.starts_s + trace.bin_s, start, side="left" if trace.exact else "right")
    return int(low), int(np.searchsorted(trace.starts_s, end, side="left"))


def _kept(counts: NDArray[np.int64], factor: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Requests of each bin after thinning (factor < 1) or repetition: whole copies and a thinned extra one."""
    copies = int(factor)
    extra: NDArray[np.int64] = rng.binomial(counts, factor - copies)
    return counts * copies + extra


def _spread(
    starts: NDArray[np.float64], counts: NDArray[np.int64], bin_s: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    times: NDArray[np.float64] = np.repeat(starts, counts) + bin_s * rng.random(int(counts.sum()))
    return times


def _exact(times: NDArray[np.float64], kept: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float64]:
    """The first of each arrival's copies keeps its time, the others are drawn inside its second."""
    copies = np.maximum(kept - 1, 0)
    return np.concatenate((times[kept > 0], _spread(np.floor(times), copies, COPY_BIN_S, rng)))


def _originals(kept: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of which arrival each time of `_exact` is, in that order."""
    return np.concatenate((np.flatnonzero(kept), np.repeat(np.arange(len(kept)), np.maximum(kept - 1, 0))))
