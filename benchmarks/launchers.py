"""What Ray costs a request: the null chain as in benchmarks.hops, its workers started here and by a Ray cluster of this host
alone, in turns. Both ways from actor to actor go over ipc; with Ray nothing passes through it."""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import ray
from ray.cluster_utils import Cluster

from benchmarks.hops import Run, measure
from benchmarks.peers.work import null_chain
from loki_rl.core.options import ClusterOptions
from loki_rl.files.config import load_pipeline
from loki_rl.serving.process.ray_launcher import RayLauncher


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False})
    with TemporaryDirectory() as folder:
        file = load_pipeline(null_chain(Path(folder)).pipeline)
        placed = RayLauncher(ClusterOptions(file.pipeline, 2), cluster.address)
        pairs = [
            (measure(file, "spread", chosen.requests), measure(file, "spread", chosen.requests, placed))
            for _ in range(chosen.rounds)
        ]
    report([here for here, _ in pairs], [there for _, there in pairs])
    ray.shutdown()
    cluster.shutdown()


def report(local: list[Run], placed: list[Run]) -> None:
    print(f"a request alone, medians of {len(local)} rounds [us]\n{'':26}{'local':>8}{'ray':>8}{'more':>8}")
    for name in local[0].ways_us:
        here, there = (median(run.ways_us[name] for run in runs) for runs in (local, placed))
        print(f"{name:26}{here:8.0f}{there:8.0f}{there - here:+8.0f}")


if __name__ == "__main__":
    main()
