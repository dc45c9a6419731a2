"""What a cluster is made of: the options every driver shares and the actor behind each address. Twin, plane and journal
build their actors here and nowhere else."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from loki_rl.core.messages import CONTROLLER, GATEWAY, Actor, router, worker
from loki_rl.core.pipeline import Pipeline

DropPolicy = Literal["none", "last-task", "per-task", "reroute"]


class ClusterOptions(Struct, frozen=True):
    """Everything an actor's decisions depend on, beside the events it is told.

    seed: of the keyed draws. keyed: fan-outs are drawn by key (twin, emulated engine), so that the leaves a lost request
    would have had are known. interval_s: time between plans. grace_s: a request unanswered this long after its deadline
    is late (default one SLO). lead_s: a worker gives its next credit this long before its batch should end.
    lease: a batch is given to another worker after this many times its profiled p99 (plus 50 ms). max_inflight: requests
    in the cluster, more are rejected. parallel_loads: model loads at once, 0 = no limit.
    """

    pipeline: Pipeline
    servers: int
    seed: int = 0
    keyed: bool = True
    interval_s: float = 10.0
    drop: DropPolicy = "reroute"
    grace_s: float | None = None
    lead_s: float = 0.002
    lease: float = 3.0
    max_inflight: int = 100_000
    parallel_loads: int = 0


def addresses(options: ClusterOptions) -> list[str]:
    """Every actor of the cluster."""
    tasks = range(len(options.pipeline.tasks))
    return [GATEWAY, CONTROLLER, *map(router, tasks), *map(worker, range(options.servers))]


def build(address: str, options: ClusterOptions, incarnation: int = 0) -> Actor:
    """A fresh actor for an address. Raises ValueError for an address no cluster has."""
    from loki_rl.core.controller import Controller
    from loki_rl.core.gateway import Gateway
    from loki_rl.core.router import Router
    from loki_rl.core.worker import Worker

    kind, _, number = address.partition(":")
    if address == GATEWAY:
        return Gateway(options)
    if address == CONTROLLER:
        return Controller(options)
    if kind == "router":
        return Router(options, int(number))
    if kind == "worker":
        return Worker(options, int(number), incarnation)
    raise ValueError(f"no actor has the address '{address}'")
