"""A policy of one's own: it plans for twice the demand of the last ten seconds, and is played in the twin beside `exact`."""

import numpy as np

import loki_rl
from loki_rl.control.allocator.allocate import allocate
from loki_rl.control.formulation.request import Request
from loki_rl.control.policies.named import make_policy
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Plan, Snapshot
from loki_rl.env.simulate import simulate


class Twice:
    """Called every interval with all that a controller knows; answers with what the servers should run."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline

    def decide(self, snapshot: Snapshot) -> Plan:
        recent = snapshot.arrivals[-10:] or (1,)
        return allocate(self.pipeline, Request(2 * max(1.0, float(np.mean(recent))), len(snapshot.servers)))


pipeline = loki_rl.load_pipeline("traffic").pipeline
cluster = ClusterOptions(pipeline, servers=20, interval_s=10.0)
# Forty seconds at 50 requests/s, then forty at 150.
rng = np.random.default_rng(1)
arrivals = np.sort(np.concatenate([rng.uniform(0, 40, 2_000), rng.uniform(40, 80, 6_000)]))
policies = {"twice": Twice(pipeline), "exact": make_policy("exact", pipeline, PolicyOptions(servers=20, initial_rps=50.0))}
for name, policy in policies.items():
    done = simulate(cluster, policy.decide, arrivals, 80.0).summary
    print(
        f"{name}: violations {done.slo_violation_ratio:.2%}, accuracy {done.accuracy or 0:.2%}, "
        f"servers {done.servers_mean:.1f}, J {done.cost_j:.3f}"
    )
