"""Demand over time: requests per bin, or the exact time of each, and the window of it that is replayed."""

from __future__ import annotations

from math import floor, isfinite
from typing import Annotated

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loki_rl.errors import UserError
from loki_rl.options import Help, MeanRate, Positive

# 1970 began on a Thursday: its first Monday was the fifth [s].
MONDAY_S = 4 * 86_400.0
# Every second of a replay is counted by itself: about four months.
MAX_REPLAY_S = 1e7


class TraceError(UserError):
    """A trace or the options to replay it are wrong; the message is one sentence: where, what, what to do."""


class Wishes(Struct, frozen=True, eq=False):
    """What single requests ask for, an entry each. priority, min_accuracy: as in QoS. retries: how often a client that is
    told when to come again does so. timeout_s: deadline [s], 0 where it is the pipeline's SLO; None where it always is."""

    priority: NDArray[np.int64]
    min_accuracy: NDArray[np.float64]
    retries: NDArray[np.int64]
    timeout_s: NDArray[np.float64] | None = None

    def take(self, rows: NDArray[np.int64] | slice) -> Wishes:
        """Those of some of the requests."""
        timeouts = None if self.timeout_s is None else self.timeout_s[rows]
        return Wishes(self.priority[rows], self.min_accuracy[rows], self.retries[rows], timeouts)


class Trace(Struct, frozen=True, eq=False):
    """Demand over time.

    name: in words. starts_s: [n] start of each bin [s], rising. counts: [n] requests in each. bin_s: width of every bin [s];
    0 means that `starts_s` are the exact times of arrivals, one request each. source: where the figures come from, in words.
    wishes: of exact arrivals, where any asks for anything. clock_s: when its time 0 was [s since Monday 00:00 UTC], 0 if
    nobody says.
    """

    name: str
    starts_s: NDArray[np.float64]
    counts: NDArray[np.int64]
    bin_s: float
    source: str = ""
    wishes: Wishes | None = None
    clock_s: float = 0.0

    @property
    def exact(self) -> bool:
        """Whether the time of every single arrival is known."""
        return self.bin_s == 0

    @property
    def synthetic(self) -> str:
        """What about its arrivals is made up, to be said beside every result; empty if nothing is."""
        if self.exact:
            return ""
        return f"times inside the bins of {self.bin_s:g} s are synthetic: drawn uniformly, not observed"

    @property
    def from_s(self) -> float:
        """Where the trace begins [s]: its first bin; 0 for exact arrivals, whose first one may come later."""
        return 0.0 if self.exact else float(self.starts_s[0])

    @property
    def to_s(self) -> float:
        """Where the trace ends [s]: the end of its last bin, or of the whole second of its last arrival."""
        last = float(self.starts_s[-1])
        return floor(last) + 1.0 if self.exact else last + self.bin_s


class TraceOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a trace is replayed; at most one of mean_rps and rate_scale."""

    from_s: Annotated[float | None, Help("Start of the window in the trace's own time [s] (default: its own).")] = None
    to_s: Annotated[float | None, Help("End of the window in the trace's own time [s] (default: its own).")] = None
    compress: Annotated[Positive, Help("Play the trace this many times faster, so that rates rise by it.")] = 1.0
    mean_rps: MeanRate = None
    rate_scale: Annotated[Positive | None, Help("Requests made of each one of the trace, on average.")] = None


def window(trace: Trace, options: TraceOptions) -> tuple[float, float]:
    """The window to replay [s, in the trace's own time]. Raises TraceError if the options contradict the trace or
    themselves."""
    for key in ("compress", "mean_rps", "rate_scale"):
        value = getattr(options, key)
        if value is not None and not (isfinite(value) and value > 0):
            raise TraceError(f"{key} must be above 0, not {value:g}")
    if options.mean_rps is not None and options.rate_scale is not None:
        raise TraceError("mean_rps and rate_scale exclude each other; give one of them")
    start = trace.from_s if options.from_s is None else options.from_s
    end = trace.to_s if options.to_s is None else options.to_s
    if not trace.from_s <= start < end <= trace.to_s:
        raise TraceError(
            f"trace '{trace.name}' runs from {trace.from_s:g} to {trace.to_s:g} s; the window {start:g} to {end:g} s does "
            "not lie in it"
        )
    if end - start > MAX_REPLAY_S * options.compress:
        raise TraceError(
            f"trace '{trace.name}': {(end - start) / options.compress:.3g} s are longer than a replay may last, "
            f"{MAX_REPLAY_S:.3g} s; take a window of it, or compress it"
        )
    return start, end
