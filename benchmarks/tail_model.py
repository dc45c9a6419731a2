"""Does a plan keep the SLO at the capacity that it states? Plays steady Poisson demand against fixed plans in the event
twin, over pipelines, cluster sizes, accuracy floors and demands, and prints what was missed."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from loki_rl.control.allocator.allocate import allocate, capacity
from loki_rl.control.formulation.request import Request
from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Plan
from loki_rl.core.requests.ledger import Summary
from loki_rl.env.simulate import simulate
from loki_rl.files.config import ConfigError, load_pipeline

PIPELINES = Path(__file__).parents[1] / "pipelines"
REQUESTS = 4000
LIMIT = 0.01


def steady(pipeline: Pipeline, plan: Plan, rps: float, servers: int, requests: int, seed: int) -> Summary:
    """Poisson demand against one plan that is never changed."""
    seconds = requests / rps
    rng = np.random.default_rng(seed)
    times = np.sort(rng.random(rng.poisson(requests)) * seconds)
    cluster = ClusterOptions(pipeline, servers, seed=seed, interval_s=10 * seconds)
    return simulate(cluster, lambda _: plan, times, seconds).summary


def plans(pipeline: Pipeline, servers: int) -> Iterator[Plan]:
    """Plans for demands from 10 requests/s to capacity, and those of most capacity at a high floor."""
    most = capacity(pipeline, servers).capacity_rps
    for rps in sorted({min(10.0, most), *(most * share for share in (0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 1.0))}):
        yield allocate(pipeline, Request(rps * (1 - 1e-6), servers))
    for floor in (0.9, 1.0):
        yield capacity(pipeline, servers, min_accuracy=floor * pipeline.best_accuracy)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pipelines", nargs="*", default=["traffic", "traffic-published", "social", "reading"])
    parser.add_argument("--servers", nargs="*", type=int, default=[4, 6, 10, 20, 40])
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(
        f"{'pipeline':18} {'servers':>7} {'demand':>8} {'mode':>9} {'used':>4} {'accuracy':>8} {'missed':>7} {'p99/SLO':>7}"
    )
    missed = []
    for name in options.pipelines:
        try:
            pipeline = load_pipeline(PIPELINES / f"{name}.yaml").pipeline
        except ConfigError as error:
            print(f"{name:18} skipped: {error}")
            continue
        for servers in options.servers:
            for plan in plans(pipeline, servers):
                if plan.mode == "infeasible":
                    print(f"{name:18} {servers:7} {plan.reasons[0]}")
                    continue
                rps = plan.capacity_rps
                found = steady(pipeline, plan, rps, servers, options.requests, options.seed)
                missed.append(found.slo_violation_ratio)
                print(
                    f"{name:18} {servers:7} {rps:8.1f} {plan.mode:>9} {plan.servers:4} {plan.accuracy:8.4f} "
                    f"{found.slo_violation_ratio:7.2%} {found.p99_ms / 1000 / pipeline.slo_s:7.2f}"
                    f"{'  <- misses' if found.slo_violation_ratio > LIMIT else ''}"
                )
    over = sum(ratio > LIMIT for ratio in missed)
    print(f"{over} of {len(missed)} plans miss more than {LIMIT:.0%}; mean {np.mean(missed):.2%}, worst {max(missed):.2%}")


if __name__ == "__main__":
    main()
