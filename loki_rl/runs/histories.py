"""Histories of demand made of traces."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np

from loki_rl.control.demand.history import History
from loki_rl.traces.arrivals import arrivals, clock_s, duration_s
from loki_rl.traces.trace import TraceOptions, load_trace


def fit_history(traces: Sequence[str], options: TraceOptions, seed: int) -> History:
    """What demand is like when these traces are replayed, one after the other. Raises TraceError."""
    found = History()
    for name in traces:
        trace = load_trace(name)
        seconds = np.floor(arrivals(trace, options, seed)).astype(np.int64)
        counts = np.bincount(seconds, minlength=ceil(duration_s(trace, options)))
        found.extend(counts.tolist(), round(clock_s(trace, options)))
    return found
