"""Windows cut from a trace. Owns which of its seconds are for training, for validation and for test: no window of one has
a second of another, whatever their seeds."""

from __future__ import annotations

import numpy as np

from loki_rl.core.draws import FLUID_CUTS
from loki_rl.env.fluid.demands import Sampler
from loki_rl.traces.arrivals import arrivals, duration_s, generator
from loki_rl.traces.trace import Trace, TraceError, TraceOptions

PARTS = ("train", "validation", "test")
DAY_S = 86_400.0
# Of three days and more, one in so many is for validation and as many for test, at least one each.
HELD_OUT = 5
# Left out between two parts, as what comes now resembles what came just before: as long as a controller remembers, but not
# much of a short trace.
GAP_S = 300.0
GAP_SHARE = 0.05


def part_of(split: str, lasts_s: float, day_s: float) -> tuple[int, int]:
    """Where the part of a split begins and ends in a trace [s], both as it is replayed. A trace of two days or more is cut
    between days (of two days, the second one in halves for validation and test), a shorter one into thirds."""
    place = PARTS.index(split)
    marks = _marks(lasts_s, day_s)
    half = min(GAP_S, GAP_SHARE * lasts_s) / 2
    low, high = marks[place], marks[place + 1]
    return round(low + half * (low > 0)), round(high - half * (high < lasts_s))


def _marks(lasts_s: float, day_s: float) -> tuple[float, ...]:
    days = int(lasts_s // day_s)
    if days < 2:
        return 0.0, lasts_s / 3, 2 * lasts_s / 3, lasts_s
    if days == 2:
        return 0.0, day_s, (day_s + lasts_s) / 2, lasts_s
    held = max(1, days // HELD_OUT)
    return 0.0, (days - 2 * held) * day_s, (days - held) * day_s, lasts_s


def trace_sampler(trace: Trace, options: TraceOptions, split: str) -> Sampler:
    """Windows cut at random from the part of a split, the trace scaled as a whole. Raises TraceError if the part is too
    short."""
    times = arrivals(trace, options, 0)
    counts = np.bincount(times.astype(np.int64), minlength=int(duration_s(trace, options)))
    low, high = part_of(split, len(counts), DAY_S / options.compress)

    def cut(seconds: int, seed: int) -> Trace:
        room = high - low - seconds
        if room < 0:
            raise TraceError(
                f"trace '{trace.name}' lasts {len(counts)} s, of which {high - low} s are for {split}; an episode needs "
                f"{seconds} s: take fewer intervals or a longer trace"
            )
        start = low + int(generator(seed, FLUID_CUTS).integers(room + 1))
        return Trace(trace.name, np.arange(seconds, dtype=np.float64), counts[start : start + seconds], 1.0)

    return cut
