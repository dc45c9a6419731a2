"""What is written down of a run: when requests came and how they ended, how long batches, loads and plans took, how full
queues were. Times are those of the actors' clock [s], which all processes of a host share; `Begun` says when it was 0."""

from __future__ import annotations

from msgspec import Struct

from loki_rl.core.messages import Outcome
from loki_rl.core.plan import Drift, Mode, Placement


class Row(Struct, array_like=True, gc=False):
    """Base of all rows."""


class Begun(Row, tag="b"):
    """Trace time 0 was at `origin` [s]."""

    origin: float


class Arrival(Row, tag="a"):
    """A request reached the gateway. timeout_s: deadline it asked for [s], 0 for the pipeline's SLO; min_accuracy, priority:
    as in QoS."""

    at: float
    timeout_s: float
    min_accuracy: float
    priority: int


class Answer(Row, tag="r"):
    """The only reply of a request. latency_s: since its arrival [s]; accuracy: 0..1, 0 unless ok."""

    at: float
    outcome: Outcome
    latency_s: float
    accuracy: float


class Handed(Row, tag="h"):
    """A router gave a batch of a task to a worker."""

    at: float
    task: int
    batch: int
    variant: int
    items: int
    worker: int


class Service(Row, tag="s"):
    """A worker ran a batch. begin: its order to the engine; end: the engine's word that it ended; seconds: what the engine
    itself took [s]. failed: it ended without results."""

    worker: int
    task: int
    batch: int
    variant: int
    items: int
    begin: float
    end: float
    seconds: float
    failed: bool


class Returned(Row, tag="e"):
    """The result of a batch reached its router."""

    at: float
    task: int
    batch: int


class Lost(Row, tag="d"):
    """Items of a task ended without a result. late_s: how much too late they would have been [s], where that is why."""

    at: float
    task: int
    outcome: Outcome
    items: int
    late_s: float


class Queue(Row, tag="q"):
    """A task's queue, once a second. queued: items that wait; drain_s: predicted time to serve them [s]; arrived: items
    since the row before; drift: what is not as profiled."""

    at: float
    task: int
    queued: int
    drain_s: float
    arrived: int
    drift: list[Drift]


class ModelLoad(Row, tag="l"):
    """A worker loaded a model. seconds: what the engine itself took [s]. failed: it could not."""

    worker: int
    task: int
    variant: int
    begin: float
    end: float
    seconds: float
    failed: bool


class Planning(Row, tag="p"):
    """The policy was asked and answered. Of the answer, as in Plan; none if it failed."""

    asked: float
    answered: float
    mode: Mode | None
    servers: int
    accuracy: float
    served_fraction: float
    demand_rps: float
    capacity_rps: float
    placements: tuple[Placement, ...]


class Usage(Row, tag="u"):
    """Servers that pull or load, and loads begun, in a second of trace time."""

    second: int
    servers: int
    loads: int


AnyRow = Begun | Arrival | Answer | Handed | Service | Returned | Lost | Queue | ModelLoad | Planning | Usage
