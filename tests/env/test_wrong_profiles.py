"""A profile that is wrong costs seconds, not the run: `exact` in the twin, where batches take as long as another says."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
from msgspec.structs import replace

from loki_rl.control.allocator.allocate import capacity
from loki_rl.control.policies.named import make_policy
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Latency, Pipeline
from loki_rl.core.plan import Drift, Plan, Snapshot
from loki_rl.env.faults import Faults, Slow
from loki_rl.env.simulate import simulate
from loki_rl.files.config import load_pipeline

SECONDS = 30
LEARNED_S = 10


class Played(NamedTuple):
    """violations, accuracy: of what came after LEARNED_S. drift: as the policy was told it at that time."""

    violations: float
    accuracy: float
    drift: tuple[Drift, ...]


def longer(pipeline: Pipeline, factor: float) -> Pipeline:
    """With a profile so many times as long."""
    tasks = []
    for task in pipeline.tasks:
        variants = []
        for one in task.variants:
            rows = {
                n: Latency(*(factor * seconds for seconds in (row.p50, row.p95, row.p99))) for n, row in one.latency.items()
            }
            variants.append(replace(one, latency=rows))
        tasks.append(replace(task, variants=tuple(variants)))
    return replace(pipeline, tasks=tuple(tasks))


@cache
def played(name: str, servers: int, wrong: float) -> Played:
    """At .7 of what the most accurate models can do, with a profile that says `wrong` times what batches take."""
    right = load_pipeline(name).pipeline
    rps = 0.7 * capacity(right, servers, right.best_accuracy - 1e-6).capacity_rps
    known = longer(right, wrong)
    options = PolicyOptions(servers, interval_s=1.0, initial_rps=rps, time_limit_s=100.0)
    policy = make_policy("exact", known, options)
    seen: list[Snapshot] = []

    def decide(snapshot: Snapshot) -> Plan:
        seen.append(snapshot)
        return policy.decide(snapshot)

    rng = np.random.default_rng(3)
    times = np.sort(rng.random(int(rps * SECONDS)) * SECONDS)
    slow = tuple(Slow(server, 1 / wrong) for server in range(servers))
    cluster = ClusterOptions(known, servers, seed=3, interval_s=1.0)
    done = simulate(cluster, decide, times, SECONDS, faults=Faults(slow=slow))
    late = [second for number, second in done.tally.seconds.items() if number >= LEARNED_S]
    ok = sum(second.outcomes[0] for second in late)
    drift = next(snapshot.drift for snapshot in seen if snapshot.now >= LEARNED_S)
    arrivals = sum(second.arrivals for second in late)
    return Played(1 - ok / arrivals, sum(second.accuracy_sum for second in late) / ok, drift)


@pytest.mark.parametrize("wrong", [2.0, 0.5])
def test_reading_is_as_accurate_after_ten_seconds_as_with_the_right_profile(wrong: float) -> None:
    right, learned = (played("reading", 2, factor) for factor in (1.0, wrong))
    assert right.drift == ()
    assert learned.accuracy == pytest.approx(right.accuracy, abs=0.005)
    assert learned.violations <= right.violations + 0.005
    variants = load_pipeline("reading").pipeline.tasks
    assert len(learned.drift) == sum(len(task.variants) for task in variants), "what has not served moves along"
    assert all(one.slowdown == pytest.approx(1 / wrong, rel=0.15) for one in learned.drift)


def test_many_servers_serve_all_again_after_a_few_seconds() -> None:
    """Believed to be twice as fast, the cluster is overloaded until it is known better."""
    assert played("traffic", 20, 0.5).violations < 0.005
