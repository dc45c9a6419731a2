"""What a lost host costs: traffic with 20 emulated workers on three hosts of a Ray cluster (addresses of loopback on this
machine), at .6 of what they can serve. One is lost, then one joins: violations of every second, and how many serve."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
from msgspec.structs import replace
from ray.cluster_utils import Cluster

from loki_rl.control.allocator.allocate import capacity
from loki_rl.core.messages import Outcome
from loki_rl.core.options import ClusterOptions
from loki_rl.core.requests.ledger import Tally
from loki_rl.files.config import load_pipeline
from loki_rl.serving.gateway.client import Client, Inference
from loki_rl.serving.process.launch import LocalPlane
from loki_rl.serving.process.ray_launcher import RayLauncher

SERVERS, HOSTS = 20, 3
# So much of the cores of each host is held by others that its share of the workers fits, on the first one controller and
# routers too: what is lost waits for a host.
HELD = 0.75


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=30, help="before the loss, between both, and after")
    parser.add_argument("--load", type=float, default=0.6, help="share of what all servers can serve")
    chosen = parser.parse_args()
    seconds: int = chosen.seconds
    options = replace(ClusterOptions(load_pipeline("traffic").pipeline, SERVERS), interval_s=1.0)
    rps = chosen.load * capacity(options.pipeline, SERVERS).capacity_rps
    cluster = Cluster()
    hosts = [join(cluster, number) for number in range(HOSTS)]
    launcher = RayLauncher(options, cluster.address)
    held = [hold(number) for number in range(HOSTS)]
    plane = LocalPlane(options, policy_options={"initial_rps": rps}, launcher=launcher, worker_processes=HOSTS)
    with plane, ThreadPoolExecutor(1) as clients:
        traffic = clients.submit(ask, plane, rps, 3 * seconds)
        # Here, for Ray has hosts made by the main thread alone.
        time.sleep(seconds)
        cluster.remove_node(hosts[-1], False)
        time.sleep(seconds)
        join(cluster, HOSTS)
        held.append(hold(HOSTS))
        sent, answers, tally = traffic.result()
    for number, second in sorted(tally.seconds.items()):
        lost = sum(second.outcomes) - second.outcomes[Outcome.OK]
        share = 100 * lost / max(1, second.arrivals)
        print(f"{number:4} s  {second.arrivals:5} requests  {share:6.2f} % violations  {second.servers} servers")
    print(f"{sent} sent at {rps:.0f}/s, {len(answers)} answered, {answers.total() - len(answers)} twice")
    ray.shutdown()
    cluster.shutdown()


def ask(plane: LocalPlane, rps: float, seconds: float) -> tuple[int, Counter[int], Tally]:
    """How many requests were sent, how often each was answered, and what the gateway counted."""
    sent, answers = 0, Counter[int]()
    with Client(plane.front) as client:
        began = client.begin_run()
        while (age := time.monotonic() - began) < seconds:
            while sent < age * rps:
                client.submit()
                sent += 1
            answers.update(one.id for one in client.poll(0.002) if isinstance(one, Inference))
        plane.drain()
        answers.update(one.id for one in client.poll(1.0) if isinstance(one, Inference))
        return sent, answers, client.ledger().tally


def join(cluster: Cluster, number: int) -> object:
    return cluster.add_node(node_ip_address=address(number), num_cpus=1 if number else 2, include_dashboard=False)


def address(number: int) -> str:
    return f"127.0.0.{number + 2}"


class Other:
    """Whatever else runs there."""


def hold(number: int) -> Any:
    return ray.remote(Other).options(num_cpus=HELD, resources={f"node:{address(number)}": 0.001}).remote()


if __name__ == "__main__":
    main()
