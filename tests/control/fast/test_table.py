"""The training allocator against the exact one."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from loki_rl.control.allocator.allocate import allocate
from loki_rl.control.allocator.switching import UNLIKELY
from loki_rl.control.fast.objective_kernels import best_splits, capacity
from loki_rl.control.fast.table import Table, allocate_by_table, state_of, table_for
from loki_rl.control.formulation.request import Request, RequestError
from loki_rl.control.learned.observation import ACTIONS, fill_mask
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Plan, Server
from loki_rl.files.config import load_pipeline
from tests.control.states import random_request

STATES = 40
SERVERS = 12


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load_pipeline("social").pipeline


@pytest.fixture(scope="module")
def table(pipeline: Pipeline) -> Table:
    return table_for(pipeline, SERVERS)


def cost_of(table: Table, request: Request, plan: Plan, share: float) -> float:
    """Cost J of a plan's servers in the objective of both allocators."""
    counts = np.zeros(table.fleet.models)
    for place in plan.placements:
        counts[table.fleet.model(place.task, place.variant)] += place.replicas
    assert request.expected_rps is not None
    target = np.array([request.demand_rps, request.expected_rps, share, UNLIKELY])
    state = state_of(table.fleet, request)
    return best_splits(counts, state, table.fleet.rates, table.fleet.net, SERVERS, target, table.work)[0]


def test_it_finds_the_exact_allocators_plans(table: Table, pipeline: Pipeline) -> None:
    rng = np.random.default_rng(0)
    same, excess, total = 0, 0.0, 0.0
    for _ in range(STATES):
        request = random_request(table, SERVERS, rng)
        assert request.horizon_s is not None
        share = min(0.8, 5.0 / request.horizon_s)
        exact = cost_of(table, request, allocate(pipeline, request), share)
        found = cost_of(table, request, allocate_by_table(pipeline, request), share)
        same += found <= exact * 1.002 + 1e-6
        excess += max(0.0, found - exact)
        total += exact
    assert same / STATES >= 0.93
    assert excess / total <= 0.005


def test_plans_keep_their_promises(table: Table, pipeline: Pipeline) -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        request = random_request(table, SERVERS, rng)
        plan = allocate_by_table(pipeline, request)
        assert sum(place.replicas for place in plan.placements) == plan.servers <= SERVERS
        assert plan.served_fraction == pytest.approx(min(1.0, plan.capacity_rps / request.demand_rps))
        for task in pipeline.tasks:
            assert sum(plan.flows[task.name].values()) == pytest.approx(1.0)
            assert 0 < plan.split[task.name] <= 1


def test_it_never_promises_more_than_the_exact_allocator(table: Table, pipeline: Pipeline) -> None:
    """So a mask whose ceiling comes from it is never looser."""
    for level in range(0, len(table.levels), 6):
        counts = table.ladder[level].copy()
        demand = float(table.levels[level])
        most = max(capacity(counts, rate, table.fleet.net, demand, table.work) for rate in table.fleet.rates)
        exact = allocate(pipeline, Request(demand_rps=float(table.levels[level]), servers=SERVERS))
        assert most <= max(exact.capacity_rps, table.levels[level]) * 1.35  # what the exact plan keeps for its accuracy
    assert table.most_rps == pytest.approx(allocate_most(pipeline))


def allocate_most(pipeline: Pipeline) -> float:
    from loki_rl.control.allocator.allocate import capacity as most

    return most(pipeline, SERVERS).capacity_rps


def test_equal_questions_are_answered_from_memory(table: Table, pipeline: Pipeline) -> None:
    request = random_request(table, SERVERS, np.random.default_rng(2))
    first = allocate_by_table(pipeline, request)
    before = int(table.memo[2][1])
    again = allocate_by_table(pipeline, request)
    assert int(table.memo[2][1]) == before
    assert again.placements == first.placements


def test_a_load_longer_than_the_interval_is_not_abandoned(pipeline: Pipeline) -> None:
    """The livelock of a horizon below the load time: a wave of loads must look as good when asked again."""
    task, names = pipeline.tasks[0].name, [variant.name for variant in pipeline.tasks[0].variants]
    current = tuple(
        Server(i, None, (), (task, names[-1], 1), remaining_s=12.0) if i < 6 else Server(i, None, ()) for i in range(SERVERS)
    )
    request = Request(demand_rps=60.0, servers=SERVERS, expected_rps=60.0, current=current, horizon_s=40.0, load_s=20.0)
    plan = allocate_by_table(pipeline, request)
    kept = sum(p.replicas for p in plan.placements if (p.task, p.variant) == (task, names[-1]))
    assert kept >= 2


def test_a_senseless_request_is_refused(pipeline: Pipeline) -> None:
    with pytest.raises(RequestError, match="demand must be"):
        allocate_by_table(pipeline, Request(demand_rps=-1.0, servers=SERVERS))


def test_masks_follow_floor_and_ceiling() -> None:
    mask = np.zeros(ACTIONS, np.int8)
    fill_mask(mask, 100.0, 105.0, 1000.0)
    assert mask[:10].tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1, 1]
    fill_mask(mask, 100.0, 500.0, 115.0)
    assert mask[:10].tolist() == [0, 0, 0, 1, 0, 1, 0, 0, 0, 0]


def test_results_without_numba_are_the_same(table: Table) -> None:
    script = (
        "import numpy as np\n"
        "from loki_rl.files.config import load_pipeline\n"
        "from loki_rl.control.fast.model_arrays import build_fleet\n"
        "from loki_rl.control.fast.objective_kernels import best_splits\n"
        "from loki_rl.control.fast.table import new_work\n"
        "fleet = build_fleet(load_pipeline('social').pipeline)\n"
        f"counts, target = np.array({table.ladder[20].tolist()}), np.array([60.0, 50.0, 0.25, 0.2])\n"
        "state = np.stack((np.roll(counts, 1), 0.5 * counts, counts))\n"
        f"print(best_splits(counts, state, fleet.rates, fleet.net, {SERVERS}, target, new_work(fleet)))\n"
    )
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    counts, fleet = table.ladder[20], table.fleet
    state = np.stack((np.roll(counts, 1), 0.5 * counts, counts))
    expected = best_splits(counts, state, fleet.rates, fleet.net, SERVERS, np.array([60.0, 50.0, 0.25, 0.2]), table.work)
    found = eval(done.stdout, {"np": np})  # three numbers that the script printed
    assert tuple(found) == pytest.approx(tuple(expected), abs=1e-12)
