"""A recorded run, and the twin's plays of what it was asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from loki_rl.control.allocator.allocate import capacity
from loki_rl.control.policies.named import make_policy
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.core.options import ClusterOptions
from loki_rl.decoding import UNREADABLE
from loki_rl.env.simulate import simulate
from loki_rl.fidelity.observation import Span, span_of
from loki_rl.flight.columns import Collector, Flight, read_flight
from loki_rl.flight.file import FlightError
from loki_rl.flight.packing import Columns
from loki_rl.flight.rows import AnyRow
from loki_rl.flight.sifter import Sifter
from loki_rl.runs.options import RunOptions, read_options
from loki_rl.runs.recording import RECORDING
from loki_rl.runs.run import policy_of, prepare
from loki_rl.traces.demand import Wishes

# Demand is looked at over so long [s] when asking whether it was more than the servers can serve.
BUSY_S = 10


class Recorded(Struct):
    """A run as its recording has it. arrivals: those of the run itself, which begins at span.origin."""

    options: RunOptions
    cluster: ClusterOptions
    flight: Flight
    span: Span
    arrivals: Columns

    @property
    def times(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Of arrivals, since the run began [s]."""
        times: np.ndarray[tuple[int], np.dtype[np.float64]] = self.arrivals["at"] - self.span.origin
        return times

    @property
    def length_s(self) -> float:
        """From the begin of the run to the end of its last arrival's second [s]."""
        return float(np.floor(self.times[-1]) + 1.0)


def read_run(run: Path) -> Recorded:
    """The run of a folder with a recording, or of a recording by itself. Raises FlightError or ObservationError."""
    path = run / RECORDING if run.is_dir() else run
    head, flight = read_flight(path)
    try:
        options = read_options(head.run.encode())
    except UNREADABLE as error:
        raise FlightError(f"{path} does not say what was run ({error}), so that no twin can play it") from error
    return recorded(options, head.cluster, flight)


def recorded(options: RunOptions, cluster: ClusterOptions, flight: Flight) -> Recorded:
    """Raises ObservationError if there is nothing to compare."""
    span = span_of(flight)
    return Recorded(options, cluster, flight, span, flight.arrivals[flight.arrivals["at"] >= span.origin])


def play(run: Recorded, seed: int) -> Flight:
    """What the twin does with the run's arrivals, its own draws made with this seed."""
    cluster = replace(run.cluster, seed=seed)
    policy = make_policy(run.options.policy, cluster.pipeline, _policy(run))
    rows: list[AnyRow] = []
    record, faults = Sifter(rows.append, cluster.pipeline).record, run.options.faults
    simulate(cluster, policy.decide, run.times, run.length_s, record, faults=faults, wishes=_wishes(run.arrivals))
    collector = Collector()
    collector.add(rows)
    return collector.flight()


def overloaded(run: Recorded) -> bool:
    """Whether more was asked in the busiest seconds than the best models can serve: from there on accuracy, or requests, are
    given up."""
    counts = np.bincount(run.times.astype(np.int64))
    window = min(BUSY_S, len(counts))
    busiest = np.convolve(counts, np.ones(window) / window, "valid").max()
    cluster, best = run.cluster, run.cluster.pipeline.best_accuracy
    most = capacity(cluster.pipeline, cluster.servers, min_accuracy=best, pool=cluster.pool).capacity_rps
    return bool(busiest > most)


def _policy(run: Recorded) -> PolicyOptions:
    """As the plane's was told, which knew the trace where there was one."""
    if run.options.trace == "live":
        return policy_of(run.options, run.cluster)
    return prepare(replace(run.options, driver="twin")).policy


def _wishes(arrivals: Columns) -> Wishes | None:
    if not (arrivals["priority"].any() or arrivals["min_accuracy"].any()):
        return None
    return Wishes(arrivals["priority"], arrivals["min_accuracy"], np.zeros(len(arrivals), np.int64))
