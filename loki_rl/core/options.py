"""The options that every driver and every actor of a cluster share."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from loki_rl.core.pipeline import Pipeline
from loki_rl.core.servers.server_type import ServerType

DropPolicy = Literal["none", "last-task", "per-task", "reroute"]
DROPS: tuple[DropPolicy, ...] = ("none", "last-task", "per-task", "reroute")
Routing = Literal["pull", "table"]


class ClusterOptions(Struct, frozen=True):
    """Everything an actor's decisions depend on, beside the events it is told.

    seed: of the keyed draws. interval_s: time between plans. grace_s: a request unanswered this long after its deadline
    is late (default one SLO). lead_s: a worker gives its next credit this long before its batch should end.
    lease: a batch is given to another worker after this many times its profiled p99 (plus 40 ms). max_inflight: requests
    in the cluster, max_inflight_bytes: of their payloads; more are rejected. parallel_loads: model loads at once, 0 = no
    limit. routing: workers pull from the queue of their task, or items are dealt to the queues of single workers by a
    routing table, as published.
    soft_deadlines: while a task is overloaded, stage deadlines decide what it drops; else root deadlines alone do. pool:
    types of the servers, if they are not alike (see servers.Servers).
    """

    pipeline: Pipeline
    servers: int
    seed: int = 0
    interval_s: float = 10.0
    drop: DropPolicy = "reroute"
    grace_s: float | None = None
    lead_s: float = 0.002
    lease: float = 2.0
    max_inflight: int = 100_000
    max_inflight_bytes: int = 512 << 20
    parallel_loads: int = 0
    routing: Routing = "pull"
    soft_deadlines: bool = True
    pool: tuple[ServerType, ...] = ()
