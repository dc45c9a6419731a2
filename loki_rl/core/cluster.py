"""The actors of a cluster by address, and what the world around them tells whom. Twin, plane and journal build them here and
nowhere else, so that all three run the same decisions."""

from __future__ import annotations

from loki_rl.core.actor import Actor
from loki_rl.core.controller import Controller
from loki_rl.core.effects import Send
from loki_rl.core.gateway import Gateway
from loki_rl.core.messages import CONTROLLER, GATEWAY, Begin, WorkerGone, routers, worker
from loki_rl.core.options import ClusterOptions as ClusterOptions
from loki_rl.core.routing.pull_router import PullRouter
from loki_rl.core.routing.table_router import TableRouter
from loki_rl.core.worker import Worker


def addresses(options: ClusterOptions) -> list[str]:
    """Every actor of the cluster."""
    return [GATEWAY, CONTROLLER, *routers(options.pipeline), *map(worker, range(options.servers))]


def begin_run(options: ClusterOptions, origin: float) -> list[Send]:
    """What a driver tells when trace time 0 is at `origin` [s]: everybody who counts."""
    return [Send(address, Begin(origin)) for address in (GATEWAY, CONTROLLER, *routers(options.pipeline))]


def lose_worker(options: ClusterOptions, number: int, reason: str) -> list[Send]:
    """What a driver tells when a worker's process has ended: those who plan with it and those who gave it batches."""
    return [Send(address, WorkerGone(number, reason)) for address in (CONTROLLER, *routers(options.pipeline))]


def build(address: str, options: ClusterOptions, incarnation: int = 0) -> Actor:
    """A fresh actor for an address. incarnation: the life of its process, above 0 where another had the address before.
    Raises ValueError for an address no cluster has."""
    kind, _, number = address.partition(":")
    if address == GATEWAY:
        return Gateway(options, incarnation)
    if address == CONTROLLER:
        return Controller(options, incarnation)
    if kind == "router":
        return (TableRouter if options.routing == "table" else PullRouter)(options, int(number), incarnation)
    if kind == "worker":
        return Worker(options, int(number), incarnation)
    raise ValueError(f"no actor has the address '{address}'")
