"""The actors of a cluster by address. Twin, plane and journal build them here and nowhere else, so that all three run the
same decisions."""

from __future__ import annotations

from loki_rl.core.actor import Actor
from loki_rl.core.controller import Controller
from loki_rl.core.gateway import Gateway
from loki_rl.core.messages import CONTROLLER, GATEWAY, router, worker
from loki_rl.core.options import ClusterOptions as ClusterOptions
from loki_rl.core.routing.pull_router import PullRouter
from loki_rl.core.routing.table_router import TableRouter
from loki_rl.core.worker import Worker


def addresses(options: ClusterOptions) -> list[str]:
    """Every actor of the cluster."""
    tasks = range(len(options.pipeline.tasks))
    return [GATEWAY, CONTROLLER, *map(router, tasks), *map(worker, range(options.servers))]


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
