"""Hosts of a Ray cluster, as far as one machine can be several: each has an address of loopback, but not 127.0.0.1, of which
Ray makes this host's own."""

from __future__ import annotations

import warnings
from typing import Any

import ray
from ray._private.ray_constants import PROCESS_TYPE_RAY_CLIENT_SERVER
from ray.cluster_utils import Cluster

from loki_rl.ray_cluster import connect
from tests.serving.driving import eventually, held_port

# Of the launcher's host, which is the first, and of each of the others.
HOME_CORES, CORES = 2.0, 1.0
# A resource: room for two workers of such servers.
SLOTS = 2.0


class Held:
    """Takes what it is given."""

    def here(self) -> bool:
        return True


class RayHosts:
    """others: addresses of all but the launcher's. front: of the server for Ray's clients, at the launcher's host."""

    def __init__(self) -> None:
        ray.shutdown()
        self._port = held_port()
        self.cluster = Cluster()
        self._nodes: dict[str, Any] = {}
        self._last = 1
        self.home = self.add(HOME_CORES)
        connect(self.address)
        self.add()

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    @property
    def front(self) -> str:
        return f"ray://{self.home}:{self._port}"

    @property
    def others(self) -> list[str]:
        return [address for address in self._nodes if address != self.home]

    def add(self, cores: float = CORES) -> str:
        """The address of one that joins."""
        self._last += 1
        address = f"127.0.0.{self._last}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # of log files that Ray leaves to be closed
            self._nodes[address] = self.cluster.add_node(
                node_ip_address=address,
                num_cpus=cores,
                include_dashboard=False,
                resources={"slot": SLOTS},
                ray_client_server_port=None if self._nodes else self._port,
            )
        return address

    def lose(self, address: str) -> None:
        """Without a word, as when its power fails."""
        self.cluster.remove_node(self._nodes.pop(address), allow_graceful=False)

    def lose_front(self) -> None:
        """Whoever came through it has lost the cluster."""
        (server,) = self.cluster.head_node.all_processes[PROCESS_TYPE_RAY_CLIENT_SERVER]
        server.process.kill()

    def keep(self, count: int) -> None:
        """Lose all other hosts but these, until Ray knows."""
        for address in self.others[count:]:
            self.lose(address)
        eventually(lambda: sum(host["Alive"] for host in ray.nodes()) == 1 + count, "a lost host is not missed")

    def hold(self, address: str) -> Any:
        """Leave no core of it to others, until what this returns is killed."""
        cores = HOME_CORES if address == self.home else CORES
        held = ray.remote(Held).options(num_cpus=cores, resources={f"node:{address}": 0.001}).remote()
        ray.get(held.here.remote(), timeout=60)
        return held

    def close(self) -> None:
        ray.shutdown()
        self.cluster.shutdown()
