"""What policies plan for: the demand that is worth having capacity for, by guess or by knowledge."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from msgspec.structs import replace

from loki_rl.control.allocator.reasons import highest_floor
from loki_rl.control.formulation.request import Request, RequestError
from loki_rl.control.policies.named import Policy, make_policy
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Drift, Server, Snapshot
from loki_rl.core.servers.history import HISTORY_S
from loki_rl.core.servers.server_type import ServerType
from loki_rl.files.config import load_pipeline
from loki_rl.runs.options import RunOptions
from loki_rl.runs.run import prepare, run_twin

ROOT = Path(__file__).parents[3]
SERVERS = 20
PEAK = 600
STEP = (100,) * 30 + (PEAK,) * 60


@pytest.fixture(scope="module")
def traffic() -> Pipeline:
    return load_pipeline(ROOT / "pipelines" / "traffic.yaml").pipeline


def seen_at(second: int, counts: tuple[int, ...] = STEP, origin: float = 0.0) -> Snapshot:
    """A cluster that runs nothing yet, so many seconds after the origin."""
    arrivals = counts[:second][-HISTORY_S:]
    return Snapshot(origin + second, 10.0, arrivals, 0.0, tuple(Server(number) for number in range(SERVERS)))


def clairvoyant(pipeline: Pipeline, future: tuple[int, ...] = STEP) -> Policy:
    return make_policy("clairvoyant", pipeline, PolicyOptions(servers=SERVERS, future=future))


# -- clairvoyant ------------------------------------------------------------------------------------------------------------


def test_a_step_is_prepared_for_when_the_next_plan_would_be_late(traffic: Pipeline) -> None:
    policy = clairvoyant(traffic)
    assert policy.decide(seen_at(0)).standby_rps < PEAK
    assert policy.decide(seen_at(10)).standby_rps < PEAK
    assert policy.decide(seen_at(20)).standby_rps >= PEAK
    assert policy.decide(seen_at(20)).accuracy > policy.decide(seen_at(40)).accuracy, "most of what comes is not the step"


@pytest.mark.parametrize("origin", [0.0, 5_000.0])
def test_the_trace_is_followed_by_the_clock_beyond_what_the_controller_remembers(traffic: Pipeline, origin: float) -> None:
    counts = (100,) * (HISTORY_S + 40) + (PEAK,) * 60
    policy = clairvoyant(traffic, counts)
    seconds = (0, 10, HISTORY_S + 10, HISTORY_S + 30)
    found = [policy.decide(seen_at(second, counts, origin)).standby_rps for second in seconds]
    assert [rps >= PEAK for rps in found] == [False, False, False, True]


def test_after_the_trace_its_last_second_goes_on(traffic: Pipeline) -> None:
    assert clairvoyant(traffic).decide(seen_at(len(STEP))).capacity_rps >= PEAK * (1 - 1e-6)


def test_demand_that_nobody_knows_is_refused(traffic: Pipeline) -> None:
    with pytest.raises(RequestError, match="known beforehand"):
        make_policy("clairvoyant", traffic, PolicyOptions(servers=SERVERS))


def test_the_runner_hands_over_all_arrivals_and_the_options_stay_as_they_are(run_options: RunOptions) -> None:
    options = replace(run_options, policy="clairvoyant")
    assert sum(prepare(options).policy.future) == len(prepare(options).times)
    assert run_twin(options).options == options


def test_hardware_scaling_takes_the_best_models_that_fit_the_slo() -> None:
    """The best captioning model of *social* leaves no time for a queue."""
    social = load_pipeline(ROOT / "pipelines" / "social.yaml").pipeline
    floor = highest_floor(social, Request(1.0, SERVERS))
    assert 0.99 < floor < social.best_accuracy
    plan = make_policy("hardware", social, PolicyOptions(servers=SERVERS)).decide(seen_at(20))
    assert plan.mode != "infeasible"
    assert plan.accuracy == pytest.approx(floor, abs=1e-5)


def test_where_the_best_models_fit_they_are_the_floor(traffic: Pipeline) -> None:
    assert highest_floor(traffic, Request(1.0, SERVERS)) == traffic.best_accuracy


@pytest.mark.parametrize("name", ["hardware", "loki", "exact", "forecast"])
def test_plans_count_the_servers_of_each_type_that_are_there(small: Path, name: str) -> None:
    pool = (ServerType("fast", 3), ServerType("slow", 5, speed=0.5))
    policy = make_policy(name, load_pipeline(small).pipeline, PolicyOptions(8, initial_rps=2000.0, pool=pool))
    # Of the fast ones one is lost, of the slow ones all; two more fast ones are there.
    for counts in ({"fast": 3, "slow": 5}, {"fast": 2}, {"fast": 5, "slow": 4}):
        kinds = [kind for kind, count in counts.items() for _ in range(count)]
        there = tuple(Server(number, server_type=kind) for number, kind in enumerate(kinds))
        plan = policy.decide(Snapshot(0.0, 10.0, (), 0.0, there))
        used = Counter(place.server_type for place in plan.placements for _ in range(place.replicas))
        assert used == counts, "far more demand than can be served: all are used, and no more than there are"


@pytest.mark.parametrize("name", ["static", "hardware", "proteus", "loki", "exact", "forecast"])
def test_where_nothing_could_be_in_time_any_more_there_is_still_an_answer(name: str, traffic: Pipeline) -> None:
    slow = tuple(Drift(task.name, one.name, "", 50.0, dict(one.fanout)) for task in traffic.tasks for one in task.variants)
    policy = make_policy(name, traffic, PolicyOptions(SERVERS, interval_s=1.0, initial_rps=50.0, demand_rps=50.0))
    servers = tuple(Server(number) for number in range(SERVERS))
    for drift in ((), slow, ()):
        plan = policy.decide(Snapshot(10.0, 1.0, (50,) * 10, 0.0, servers, drift=drift))
        assert plan.mode != "infeasible" or drift
