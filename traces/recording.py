"""What a plane was asked, of the recording that it kept (loki_rl/flight): a trace like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from loki_rl.core.requests.items import MAX_PRIORITY
from loki_rl.flight.columns import read_flight
from loki_rl.flight.file import MAGIC, FlightError, Head
from loki_rl.flight.packing import Columns
from loki_rl.flight.rows import Arrival, Begun
from loki_rl.traces.demand import Trace, TraceError, Wishes
from loki_rl.traces.rows import stem
from loki_rl.traces.sources import clock_of

# Further apart are no two times that clocks of microseconds show of one moment [s].
SAME_S = 1e-6


def is_recording(file: Path) -> bool:
    """Whether it begins as one."""
    try:
        with file.open("rb") as stream:
            return stream.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def read_recording(file: Path) -> Trace:
    """The requests since its run began, as they came. Raises TraceError."""
    try:
        head, flight = read_flight(file, (Begun, Arrival))
    except FlightError as error:
        raise TraceError(str(error)) from error
    if flight.origin is None:
        raise TraceError(f"{file}: no run has begun in it: it was cut off before; record one to its end")
    arrivals = flight.arrivals[np.searchsorted(flight.arrivals["at"], flight.origin) :]
    if not len(arrivals):
        raise TraceError(f"{file}: nobody asked for anything while it was recorded; record a run that has requests")
    times = arrivals["at"] - flight.origin
    clock_s = clock_of(head.unix_s + flight.origin - head.clock_s)
    ones = np.ones(len(times), np.int64)
    return Trace(stem(file), times, ones, 0.0, "recorded", wishes=_wishes(file, arrivals, head), clock_s=clock_s)


def _wishes(file: Path, arrivals: Columns, head: Head) -> Wishes | None:
    """None where nobody asked for more than to be served within the SLO that was in force then."""
    timeouts = arrivals["timeout_s"].copy()
    timeouts[np.abs(timeouts - head.cluster.pipeline.slo_s) <= SAME_S] = 0.0
    floors, priorities = arrivals["min_accuracy"].copy(), arrivals["priority"].astype(np.int64)
    ranges = ((timeouts, np.inf), (floors, 1.0), (priorities, MAX_PRIORITY))
    if not all(np.all((column >= 0) & (column <= most)) for column, most in ranges):
        raise TraceError(f"{file}: a request asks for what no client can; the recording is damaged")
    if not any(column.any() for column, _ in ranges):
        return None
    return Wishes(priorities, floors, np.zeros(len(arrivals), np.int64), timeouts)
