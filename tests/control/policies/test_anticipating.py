"""Policy `forecast`: what `exact` decides on a belief that a network corrects, as long as that foretells demand better."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loki_rl.control.demand.estimators import Floats
from loki_rl.control.demand.exceedance_features import FEATURES
from loki_rl.control.demand.exceedance_net import ExceedanceNet
from loki_rl.control.policies.anticipating import Anticipating
from loki_rl.control.policies.exact import Exact
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Plan, Server, Snapshot
from loki_rl.files.config import load_pipeline

OPTIONS = PolicyOptions(servers=8, load_s=5.0, initial_rps=50.0)
SERVERS = tuple(Server(number) for number in range(8))


@pytest.fixture(scope="module")
def traffic() -> Pipeline:
    return load_pipeline(Path(__file__).parents[3] / "pipelines" / "traffic.yaml").pipeline


def adding(log_odds: float) -> ExceedanceNet:
    """A network that takes everything to be so much more likely."""
    weights = (np.zeros((FEATURES, 2)), np.zeros((2, 1)))
    return ExceedanceNet(weights, (np.zeros(2), np.array([log_odds])), np.zeros(FEATURES), np.ones(FEATURES), 1.0, "planted")


def after(counts: Floats, late_s: float = 0.0) -> Snapshot:
    """At the end of the last of these seconds, as a controller that keeps 300 of them tells it."""
    return Snapshot(len(counts) + late_s, 1.0, tuple(int(one) for one in counts[-300:]), late_s, SERVERS)


def played(policy: Anticipating, counts: Floats) -> list[float]:
    found = []
    for now in range(1, len(counts) + 1):
        policy.coming(after(counts[:now]))
        found.append(policy.leaning.trust)
    return found


def decided(plan: Plan) -> tuple[object, ...]:
    return plan.placements, plan.demand_rps, plan.standby_rps


STEADY = np.random.default_rng(3).poisson(60, 400).astype(np.float64)
SWINGING = np.random.default_rng(3).poisson([40, 40, 40, 160, 160, 160] * 60).astype(np.float64)


@pytest.mark.parametrize("counts", [STEADY, SWINGING], ids=["steady", "swinging"])
def test_a_network_that_is_wrong_is_exact_within_a_minute(traffic: Pipeline, counts: Floats) -> None:
    policy = Anticipating(traffic, OPTIONS, adding(4.0))
    trust = played(policy, counts[:100])
    assert max(trust[60:]) < 0.02
    exact, found = (one.coming(after(counts[:100])) for one in (Exact(traffic, OPTIONS), policy))
    assert found.above == pytest.approx(exact.above, abs=0.02)
    assert (found.expected_rps, found.mean_rps) == (exact.expected_rps, exact.mean_rps)


@pytest.mark.parametrize(("counts", "least"), [(STEADY, 0.4), (SWINGING, 0.9)], ids=["steady", "swinging"])
def test_the_shipped_network_is_leant_on(traffic: Pipeline, counts: Floats, least: float) -> None:
    """Where demand swings; on steady demand both are as good."""
    assert played(Anticipating(traffic, OPTIONS), counts[:150])[-1] > least


def test_before_anything_is_counted_it_is_exact(traffic: Pipeline) -> None:
    nothing = Snapshot(0.0, 1.0, (), 0.0, SERVERS)
    exact, found = (one(traffic, OPTIONS).decide(nothing) for one in (Exact, Anticipating))
    assert decided(found) == decided(exact)


def test_equal_snapshots_in_equal_order_give_equal_plans(traffic: Pipeline) -> None:
    """Twin and plane ask the same function; a plane tells counts late."""
    on_time, late = Anticipating(traffic, OPTIONS), Anticipating(traffic, OPTIONS)
    for now in range(1, 60):
        plans = [policy.decide(after(SWINGING[:now], late_s)) for policy, late_s in ((on_time, 0.0), (late, 0.3))]
        assert decided(plans[0]) == decided(plans[1])
    assert on_time.leaning.trust == late.leaning.trust
