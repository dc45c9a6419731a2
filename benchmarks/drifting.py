"""What a wrong profile costs: `exact` in the event twin with service times that are so many times the profiled ones, beside
a run whose profile is right; violations, accuracy and J by stretch of time. And how the test on service times behaves: false
alarms in draws of a profile, and batches until a change is believed."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import islice
from math import exp
from random import Random
from statistics import median, quantiles

import numpy as np
from msgspec.structs import replace

from loki_rl.control.allocator.allocate import capacity
from loki_rl.control.policies.named import make_policy
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.core.draws import ARRIVALS, service_s
from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Latency, Pipeline
from loki_rl.core.requests.ledger import Second, cost
from loki_rl.core.servers.slowdown import Slowdown
from loki_rl.env.faults import Faults, Slow
from loki_rl.env.simulate import Simulation, simulate
from loki_rl.files.config import load_pipeline
from loki_rl.traces.arrivals import generator

SERVERS = {"reading": 2, "traffic": 20}
SECONDS = 60
STRETCHES = ((0, 5), (5, 10), (10, 30), (30, 60))
TRUTHS = (1.0, 0.5, 0.7, 1.5, 2.0)
# Of what the most accurate models can do.
LOAD = 0.7
FACTORS = (0.6, 0.8, 1.25, 1.6, 3.0)
NOISES = (0.0, 0.1, 0.3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=300_000, help="drawn to count false alarms")
    asked = parser.parse_args()
    for name in SERVERS:
        for truth in TRUTHS:
            report(name, truth, [play(name, truth, seed) for seed in range(asked.seeds)])
    for name in SERVERS:
        for sigma in NOISES:
            detection(name, widest(name), sigma, asked.batches)


# -- what it costs ----------------------------------------------------------------------------------------------------------


def play(name: str, truth: float, seed: int) -> Simulation:
    """Batches take as long as the pipeline file says, and the policy's profile says 1 / truth times that."""
    right = load_pipeline(name).pipeline
    servers = SERVERS[name]
    rps = LOAD * capacity(right, servers, right.best_accuracy - 1e-6).capacity_rps
    wrong = scaled(right, 1 / truth)
    policy = make_policy("exact", wrong, PolicyOptions(servers, interval_s=1.0, initial_rps=rps))
    rng = generator(seed, ARRIVALS)
    times = np.sort(rng.random(rng.poisson(rps * SECONDS)) * SECONDS)
    faults = Faults(slow=tuple(Slow(server, truth) for server in range(servers)))
    options = ClusterOptions(wrong, servers, seed=seed, interval_s=1.0)
    return simulate(options, policy.decide, times, SECONDS, faults=faults)


def scaled(pipeline: Pipeline, factor: float) -> Pipeline:
    """With a profile so many times as long."""
    tasks = tuple(
        replace(task, variants=tuple(replace(one, latency=longer(one.latency, factor)) for one in task.variants))
        for task in pipeline.tasks
    )
    return replace(pipeline, tasks=tasks)


def longer(latency: dict[int, Latency], factor: float) -> dict[int, Latency]:
    return {n: Latency(factor * row.p50, factor * row.p95, factor * row.p99) for n, row in latency.items()}


def report(name: str, truth: float, done: list[Simulation]) -> None:
    pipeline = load_pipeline(name).pipeline
    servers = SERVERS[name]
    for begin, end in STRETCHES:
        total = Second()
        for one in done:
            for number in range(begin, end):
                total.add(one.tally.seconds[number])
        ok = total.outcomes[0]
        used = total.servers / (servers * len(done) * (end - begin))
        j = cost(total.arrivals, ok, total.accuracy_sum, pipeline.best_accuracy, used, 5.0)
        print(
            f"{name:>8} takes {truth:.2f} x its profile, {begin} to {end} s: violations {1 - ok / total.arrivals:7.2%}, "
            f"accuracy {total.accuracy_sum / max(1, ok):.4f}, servers {used * servers:5.2f}, J {j:.4f}",
            flush=True,
        )


# -- the test ---------------------------------------------------------------------------------------------------------------


def widest(name: str) -> Latency:
    rows = [row for task in load_pipeline(name).pipeline.tasks for one in task.variants for row in one.latency.values()]
    return max(rows, key=lambda row: row.p99 / row.p50)


def drawn(latency: Latency, rng: Random, factor: float, sigma: float) -> Iterator[float]:
    while True:
        yield factor * service_s(latency, rng.random()) * exp(rng.gauss(0.0, sigma))


def detection(name: str, latency: Latency, sigma: float, batches: int) -> None:
    slowdown = Slowdown((latency, latency))
    draws = islice(drawn(latency, Random(1), 1.0, sigma), batches)
    alarms = sum(slowdown.add(1, seconds, float(number)) for number, seconds in enumerate(draws))
    found = "; ".join(f"x{factor}: {delays(latency, factor, sigma)}" for factor in FACTORS)
    print(f"{name:>8}, noise {sigma}: {alarms} false alarms in {batches} batches; believed after (90 %) batches: {found}")


def delays(latency: Latency, factor: float, sigma: float) -> str:
    found = []
    for seed in range(100):
        rng = Random(seed)
        slowdown = Slowdown((latency, latency))
        for number, seconds in enumerate(islice(drawn(latency, rng, 1.0, sigma), 40)):
            slowdown.add(1, seconds, float(number))
        for number, seconds in enumerate(drawn(latency, rng, factor, sigma), 1):
            if slowdown.add(1, seconds, 40.0 + number):
                found.append(number)
                break
    return f"{median(found):.0f} ({quantiles(found, n=10)[-1]:.0f})"


if __name__ == "__main__":
    main()
