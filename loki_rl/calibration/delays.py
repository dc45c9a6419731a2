"""What messages, hand-overs, timers and plans took, out of the rows of a recording."""

from __future__ import annotations

import numpy as np

from loki_rl.calibration.batches import Floats
from loki_rl.files.calibration_file import Delay
from loki_rl.flight.columns import Flight

# Backlogs are told on the stroke of every second of trace time. One that is later than this tells nothing of a timer.
LATEST_S = 0.5


def delays_of(flight: Flight) -> dict[Delay, Floats]:
    """Of each kind what was seen [s]."""
    batches = flight.services
    after, idle_since = _before(flight)
    over = np.maximum(0.0, batches["end"] - batches["begin"] - batches["seconds"])
    dispatch, result = _dispatches(flight, idle_since), _results(flight)
    return {
        "dispatch": dispatch,
        "result": result,
        "message": np.concatenate((dispatch, result)),
        "handover": over[~after],
        "handover_next": over[after],
        "timer": _timers(flight),
    }


def _before(flight: Flight) -> tuple[np.ndarray[tuple[int], np.dtype[np.bool_]], Floats]:
    """Of each batch: whether its worker ended another one at that moment, and since when it has been idle otherwise [s]."""
    batches = flight.services
    order = np.lexsort((batches["begin"], batches["worker"]))
    idle_since = np.full(len(batches), -np.inf)
    same = batches["worker"][order][1:] == batches["worker"][order][:-1]
    idle_since[order[1:][same]] = batches["end"][order[:-1][same]]
    return idle_since == batches["begin"], idle_since


def _dispatches(flight: Flight, idle_since: Floats) -> Floats:
    """From a router to a worker that was idle by then: it begins at once what reaches it."""
    handed, batches = flight.handed, flight.services
    at = _matched(handed["batch"], handed["at"], batches["batch"], batches["begin"])
    known = np.isfinite(at) & (idle_since < at)
    return np.maximum(0.0, (batches["begin"] - at)[known])


def _results(flight: Flight) -> Floats:
    batches, returned = flight.services, flight.returned
    ended = _matched(batches["batch"], batches["end"], returned["batch"], returned["at"])
    found: Floats = np.maximum(0.0, (returned["at"] - ended)[np.isfinite(ended)])
    return found


def _matched(keys: Floats, times: Floats, wanted: Floats, limits: Floats) -> Floats:
    """For each wanted key the latest time of the same key that is not after its limit [s]; not finite without one. A batch
    is given again where a worker was lost."""
    order = np.lexsort((times, keys))
    keys, times = keys[order], times[order]
    found = np.full(len(wanted), np.nan)
    last = np.searchsorted(keys, wanted, side="right") - 1
    if len(keys):
        there = (last >= 0) & (keys[last] == wanted) & (times[last] <= limits)
        found[there] = times[last[there]]
    return found


def _timers(flight: Flight) -> Floats:
    if flight.origin is None or not flight.queues:
        return np.zeros(0)
    since = np.array([row.at for row in flight.queues]) - flight.origin
    late = since - np.floor(since + 1e-6)
    found: Floats = np.maximum(0.0, late[(since > 0) & (late < LATEST_S)])
    return found


def plans_of(flight: Flight) -> Floats:
    """From question to plan [s]."""
    return np.array([row.answered - row.asked for row in flight.plans])
