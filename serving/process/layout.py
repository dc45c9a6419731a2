"""Which processes a plane has, what each hosts, and where it is reached."""

from __future__ import annotations

from msgspec.structs import replace

from loki_rl.core.messages import CONTROLLER, GATEWAY, routers, worker
from loki_rl.core.options import ClusterOptions
from loki_rl.serving.engines.engine_factory import device_of
from loki_rl.serving.plane import EngineKind, Layout, NodeSpec, PlaneError, PlaneFile
from loki_rl.serving.transport.curve import make_key_pair
from loki_rl.serving.transport.listening import free_port

# Emulated workers need no core each; two processes keep the loss of one visible without losing all.
EMULATED_HOSTS = 2


def nodes_of(
    options: ClusterOptions,
    engine: EngineKind,
    device: str = "",
    worker_processes: int = EMULATED_HOSTS,
    kind: Layout = "spread",
) -> tuple[NodeSpec, ...]:
    """spread: one process each for gateway, controller and every router; compact: gateway and routers share one, so that a
    request changes processes only for its workers. A real engine has a process per worker; its device: see
    engine_factory.device_of. worker_processes: that emulated workers share."""
    tasks = routers(options.pipeline)
    if kind == "compact":
        nodes = [NodeSpec(GATEWAY, (GATEWAY, *tasks)), NodeSpec(CONTROLLER, (CONTROLLER,))]
    else:
        nodes = [NodeSpec(GATEWAY, (GATEWAY,)), NodeSpec(CONTROLLER, (CONTROLLER,))]
        nodes += [NodeSpec(f"router-{task}", (address,)) for task, address in enumerate(tasks)]
    if engine == "emulated":
        hosts = min(options.servers, worker_processes)
        dealt = (tuple(map(worker, range(host, options.servers, hosts))) for host in range(hosts))
        nodes += [NodeSpec(f"workers-{host}", workers) for host, workers in enumerate(dealt)]
    else:
        nodes += [
            NodeSpec(f"workers-{number}", (worker(number),), device=device_of(options, device, number))
            for number in range(options.servers)
        ]
    return tuple(nodes)


def reachable(plane: PlaneFile, address: str) -> PlaneFile:
    """With keys, and a port for each node that stays here, where others have to reach it at this address. Raises
    PlaneError."""
    if not address:
        return plane
    try:
        nodes = tuple(replace(node, port=free_port(address)) if node.stays else node for node in plane.nodes)
        return replace(plane, nodes=nodes, address=address, port=free_port(address), keys=make_key_pair())
    except OSError as error:
        raise PlaneError(f"no port can be had at {address}, where other hosts would reach this one: {error}") from None
