"""A host that stands nearly still for a while is believed to be slow for as long as it is, and not for ever: where nothing
is served since nothing could be in time, nothing is measured either."""

from __future__ import annotations

import numpy as np
import pytest

from loki_rl.control.policies.named import make_policy
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.core.messages import Outcome
from loki_rl.core.options import ClusterOptions
from loki_rl.env.faults import Faults, Slow
from loki_rl.env.simulate import simulate
from loki_rl.files.config import load_pipeline

FROM_S, TO_S, BACK_S, SECONDS = 10.0, 16.0, 30.0, 40


@pytest.mark.parametrize(("name", "servers", "rps"), [("traffic", 20, 100.0), ("reading", 2, 3.0)])
@pytest.mark.parametrize("factor", [5.0, 20.0])
def test_servers_that_were_slow_for_a_while_serve_again(name: str, servers: int, rps: float, factor: float) -> None:
    pipeline = load_pipeline(name).pipeline
    policy = make_policy("exact", pipeline, PolicyOptions(servers, interval_s=1.0, initial_rps=rps, time_limit_s=100.0))
    times = np.arange(SECONDS * rps) / rps
    slow = tuple(Slow(server, factor, FROM_S, TO_S) for server in range(servers))
    cluster = ClusterOptions(pipeline, servers, interval_s=1.0)
    done = simulate(cluster, policy.decide, times, float(SECONDS), check=True, faults=Faults(slow=slow))
    late = [second for number, second in done.tally.seconds.items() if BACK_S <= number < SECONDS]
    served = sum(second.outcomes[Outcome.OK] for second in late)
    assert served > 0.95 * sum(second.arrivals for second in late)
