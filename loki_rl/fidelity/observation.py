"""What was seen of a run, as sums over short spans of time: whatever is compared is a function of such sums, so that spans
can be drawn anew. Reads recordings; compares nothing."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loki_rl.core.messages import Outcome
from loki_rl.core.pipeline import Pipeline, Task
from loki_rl.errors import UserError
from loki_rl.flight.columns import Flight
from loki_rl.flight.packing import Columns

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# Name -> [spans, width] of a run, or [draws, width] of sums of spans that were drawn.
Sums = Mapping[str, Floats]

# A longer run has longer spans than a second, no more of them than this.
MOST_SPANS = 1800
# Bounds of the classes that latencies are counted in [s]: each a hundredth above the one before.
LATENCIES: Floats = np.geomspace(1e-4, 1e3, 1620)
# Queue lengths are counted one by one up to a hundred, then in classes a twentieth wide.
QUEUES: Floats = np.concatenate((np.arange(100.0), np.rint(np.geomspace(100, 1e6, 190))))


class ObservationError(UserError):
    """There is nothing in a recording to compare; the message says what is missing and what to do."""


class Span(Struct, frozen=True):
    """What of a recording is looked at: spans of `width_s` seconds from `origin` on, on the recording's clock [s]."""

    origin: float
    width_s: float
    count: int

    def place(self, times: Floats) -> Ints:
        """The span of each time; what comes after the last one belongs to it."""
        return np.minimum(((times - self.origin) // self.width_s).astype(np.int64), self.count - 1)


def span_of(flight: Flight) -> Span:
    """From when the run began to its last arrival. Raises ObservationError if nobody came."""
    if flight.origin is None:
        raise ObservationError("the recording has no begin of a run: it was cut off before; record a run to its end")
    times = flight.arrivals["at"]
    if not len(times) or times[-1] < flight.origin:
        raise ObservationError("the recording has no arrival after its run began; record a run that is asked something")
    length = max(1, ceil(float(times[-1]) - flight.origin + 1e-9))
    width = ceil(length / MOST_SPANS)
    return Span(flight.origin, float(width), ceil(length / width))


def observe(flight: Flight, pipeline: Pipeline, span: Span) -> Sums:
    """The sums of a run. An answer belongs to the span in which its request arrived, all else to when it happened."""
    found: dict[str, Floats] = {}
    came = flight.arrivals["at"]
    found["arrivals"] = _counts(span, came[came >= span.origin])
    answers = flight.answers
    asked = answers["at"] - answers["latency_s"]
    # Clocks of arrivals are exact to a nanosecond, their differences are not.
    inside = asked >= span.origin - 1e-9
    _answers(found, span, answers[inside], np.maximum(asked[inside], span.origin))
    _servers(found, span, flight.usage)
    for number, task in enumerate(pipeline.tasks):
        _task(found, flight, span, number, task)
    return found


def largest_batch(task: Task) -> int:
    """Items in it."""
    return max(max(variant.latency) for variant in task.variants)


def _answers(found: dict[str, Floats], span: Span, answers: Columns, asked: Floats) -> None:
    outcome = answers["outcome"]
    ok = outcome == Outcome.OK
    found["ok"] = _counts(span, asked[ok])
    found["accuracy"] = _counts(span, asked[ok], answers["accuracy"][ok])
    found["rejected"] = _counts(span, asked[outcome == Outcome.REJECTED])
    timed = outcome <= Outcome.LATE
    classes = np.searchsorted(LATENCIES, answers["latency_s"][timed])
    found["latency"] = _classes(span, asked[timed], classes, len(LATENCIES))


def _servers(found: dict[str, Floats], span: Span, usage: Columns) -> None:
    """Seconds of the run, which the last span may have fewer of."""
    inside = usage[(usage["second"] >= 0) & (usage["second"] < span.count * span.width_s)]
    middle = span.origin + inside["second"] + 0.5
    found["servers"] = _counts(span, middle, inside["servers"])
    found["loads"] = _counts(span, middle, inside["loads"])
    found["sampled"] = _counts(span, middle)


def _task(found: dict[str, Floats], flight: Flight, span: Span, number: int, task: Task) -> None:
    name = task.name
    handed = _of(flight.handed, number, span)
    found[f"batch {name}"] = _classes(span, handed["at"], handed["items"], largest_batch(task) + 1)
    lost = _of(flight.lost, number, span)
    lost = lost[lost["outcome"] == Outcome.DROPPED]
    found[f"drops {name}"] = _counts(span, lost["at"], lost["items"])
    rows = [row for row in flight.queues if row.task == number and row.at >= span.origin]
    at = np.array([row.at for row in rows], np.float64)
    queued = np.array([row.queued for row in rows], np.float64)
    found[f"queue {name}"] = _classes(span, at, np.searchsorted(QUEUES, queued), len(QUEUES))
    found[f"items {name}"] = _counts(span, at, np.array([row.arrived for row in rows], np.float64))


def _of(rows: Columns, task: int, span: Span) -> Columns:
    found: Columns = rows[(rows["task"] == task) & (rows["at"] >= span.origin)]
    return found


def _counts(span: Span, times: Floats, weights: Floats | None = None) -> Floats:
    return np.bincount(span.place(times), weights, span.count).astype(np.float64)[:, None]


def _classes(span: Span, times: Floats, classes: Ints, width: int) -> Floats:
    places = span.place(times) * width + np.minimum(classes, width - 1)
    return np.bincount(places, minlength=span.count * width).astype(np.float64).reshape(span.count, width)
