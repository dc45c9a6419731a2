"""A twin that learns of requests bit by bit plays what one plays that knows them all."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from loki_rl.control.policies.named import make_policy
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.core.options import ClusterOptions
from loki_rl.core.requests.items import QoS
from loki_rl.env.simulate import simulate
from loki_rl.env.stepped import SteppedTwin
from loki_rl.files.config import load_pipeline
from loki_rl.traces.demand import Wishes

PIPELINE = load_pipeline("traffic").pipeline
CLUSTER = ClusterOptions(PIPELINE, 4)


@pytest.mark.parametrize("step_s", [0.05, 1.0, 7.0])
def test_it_plays_what_simulate_plays(step_s: float) -> None:
    rng = np.random.default_rng(5)
    times = np.sort(rng.uniform(0.0, 12.0, 600))
    floors, timeouts = rng.choice([0.0, 0.9], 600), rng.choice([0.0, 0.4], 600)
    options = PolicyOptions(servers=4, initial_rps=50.0)
    wishes = Wishes(np.zeros(600, np.int64), floors, np.zeros(600, np.int64), timeouts)
    whole = simulate(CLUSTER, make_policy("loki", PIPELINE, options).decide, times, 12.0, wishes=wishes)
    twin = SteppedTwin(CLUSTER, make_policy("loki", PIPELINE, options).decide)
    for known in np.arange(step_s, 30.0, step_s):
        for at in np.flatnonzero((times > known - step_s) & (times <= known)).tolist():
            twin.arrive(float(times[at]), float(timeouts[at]), QoS(float(floors[at])))
        twin.run_until(float(known))
        assert twin.now <= known
    tally = twin.tally
    assert replace(tally, plans=[], seconds={}) == replace(whole.tally, plans=[], seconds={})
    assert [tally.seconds[number] for number in range(12)] == [whole.tally.seconds[number] for number in range(12)]
