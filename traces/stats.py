"""Statistics of a trace. Owns what mean, peak and burstiness mean here; knows no pipeline."""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loki_rl.traces.arrivals import arrivals, duration_s
from loki_rl.traces.demand import Trace, TraceOptions

LOCAL_S = 300.0
LOCAL_BINS = 10
# Counts in fewer windows say little about their variance.
LEAST_WINDOWS = 10
FINEST_S = 0.1


class WindowIdc(Struct, frozen=True):
    """Variance over mean of the requests in windows of this length (1 = Poisson; it rises with the window where demand comes
    in bursts that are longer)."""

    window_s: float
    idc: float


class TraceStats(Struct, frozen=True):
    """Of a replay. bin_s: width [s] of the bins behind peak and idc: the trace's own, 1 s of trace time for exact arrivals.

    idc: variance over mean of the counts (1 = Poisson). idc_local: median of it over windows of 5 minutes, or of 10 bins
    where those are longer; it leaves slow changes of the rate out. idc_windows: idc at growing windows, none shorter than
    what was observed. cv: standard deviation over mean of the time between arrivals. synthetic_inside_bin: times inside a
    bin, and so cv, are drawn and not observed. Figures that need requests are 0 without any.
    """

    name: str
    length_s: float
    requests: int
    bin_s: float
    mean_rps: float
    peak_rps: float
    peak_over_mean: float
    idc: float
    idc_local: float
    cv: float
    synthetic_inside_bin: bool
    source: str = ""
    idc_windows: tuple[WindowIdc, ...] = ()


def trace_stats(trace: Trace, options: TraceOptions | None = None, seed: int = 0) -> TraceStats:
    """Statistics of what `arrivals` makes of a trace. Raises TraceError as it does."""
    options = options or TraceOptions()
    times, length_s = arrivals(trace, options, seed), duration_s(trace, options)
    bin_s = (trace.bin_s or 1.0) / options.compress
    counts = _counts(times, bin_s, length_s)
    mean, peak = len(times) / length_s, float(counts.max()) / bin_s
    return TraceStats(
        name=trace.name,
        length_s=length_s,
        requests=len(times),
        bin_s=bin_s,
        mean_rps=mean,
        peak_rps=peak,
        peak_over_mean=peak / mean if mean else 0.0,
        idc=_idc(counts),
        idc_local=_local(counts, max(LOCAL_BINS, round(LOCAL_S / bin_s))),
        cv=_cv(times),
        synthetic_inside_bin=not trace.exact,
        source=trace.source,
        idc_windows=_idc_windows(times, (trace.bin_s or FINEST_S) / options.compress, length_s),
    )


def _idc_windows(times: NDArray[np.float64], finest_s: float, length_s: float) -> tuple[WindowIdc, ...]:
    found, window_s = [], finest_s
    while window_s * LEAST_WINDOWS <= length_s:
        found.append(WindowIdc(window_s, _idc(_counts(times, window_s, length_s))))
        window_s *= 10
    return tuple(found)


def _counts(times: NDArray[np.float64], bin_s: float, length_s: float) -> NDArray[np.int64]:
    # A window that ends inside a bin has a last, shorter one; it would pass for a lull, so only whole bins count.
    whole = max(1, int(length_s / bin_s + 1e-9))
    positions = (times / bin_s).astype(np.int64)
    return np.bincount(positions[positions < whole], minlength=whole)


def _idc(counts: NDArray[np.int64]) -> float:
    mean = float(counts.mean())
    return float(counts.var()) / mean if mean else 0.0


def _local(counts: NDArray[np.int64], width: int) -> float:
    pieces = [counts[start : start + width] for start in range(0, max(1, len(counts) - width + 1), width)]
    values = [_idc(piece) for piece in pieces if piece.any()]
    return float(np.median(values)) if values else 0.0


def _cv(times: NDArray[np.float64]) -> float:
    gaps = np.diff(times)
    return float(gaps.std() / gaps.mean()) if len(gaps) and gaps.any() else 0.0
