"""What a lost host costs: traffic with 20 emulated workers on three hosts of a Ray cluster (addresses of loopback on this
machine), at .6 of what they can serve. One is lost, then one joins: violations of every second, and how many serve."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from threading import Thread

import ray
from msgspec.structs import replace
from ray.cluster_utils import Cluster

from loki_rl.control.allocator.allocate import capacity
from loki_rl.core.messages import Outcome
from loki_rl.core.options import ClusterOptions
from loki_rl.files.config import load_pipeline
from loki_rl.serving.gateway.client import Client, Inference
from loki_rl.serving.process.launch import LocalPlane
from loki_rl.serving.process.ray_launcher import RayLauncher

SERVERS, HOSTS = 20, 3


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
    plane = LocalPlane(options, policy_options={"initial_rps": rps}, launcher=launcher, worker_processes=HOSTS)
    with plane, Client(plane.front) as client:
        began = client.begin_run()
        sent, answers = 0, Counter[int]()
        left = [seconds, 2 * seconds]
        while (age := time.monotonic() - began) < 3 * seconds:
            if len(left) == 2 and age > left[0]:
                Thread(target=cluster.remove_node, args=(hosts[-1], False)).start()
                left.pop(0)
            elif left and age > left[0]:
                Thread(target=join, args=(cluster, HOSTS)).start()  # takes seconds, and clients go on
                left.pop(0)
            while sent < age * rps:
                client.submit()
                sent += 1
            answers.update(one.id for one in client.poll(0.002) if isinstance(one, Inference))
        plane.drain()
        answers.update(one.id for one in client.poll(1.0) if isinstance(one, Inference))
        tally = client.ledger().tally
    for number, second in sorted(tally.seconds.items()):
        lost = sum(second.outcomes) - second.outcomes[Outcome.OK]
        share = 100 * lost / max(1, second.arrivals)
        print(f"{number:4} s  {second.arrivals:5} requests  {share:6.2f} % violations  {second.servers} servers")
    print(f"{sent} sent at {rps:.0f}/s, {len(answers)} answered, {answers.total() - len(answers)} twice")
    ray.shutdown()
    cluster.shutdown()


def join(cluster: Cluster, number: int) -> object:
    return cluster.add_node(node_ip_address=f"127.0.0.{number + 2}", num_cpus=1, include_dashboard=False)


if __name__ == "__main__":
    main()
