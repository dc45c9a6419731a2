"""The training allocator against the exact one."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from loki_rl.control.allocator.allocate import allocate
from loki_rl.control.allocator.allocate import capacity as most_of
from loki_rl.control.demand.belief import CUTS
from loki_rl.control.fast.objective_kernels import SLICES, SLIGHT, Question, best_splits, capacity
from loki_rl.control.fast.table import Table, build_table
from loki_rl.control.formulation.request import Request, Slice
from loki_rl.control.learned.observation import ACTIONS, NO_ADJUSTMENT, fill_mask
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Server
from loki_rl.files.config import load_pipeline
from tests.control.states import answered, cost_of, counts_of, random_request

STATES = 40
SERVERS = 12


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load_pipeline("social").pipeline


@pytest.fixture(scope="module")
def table(pipeline: Pipeline) -> Table:
    return build_table(pipeline, SERVERS)


def test_it_finds_the_exact_allocators_plans(table: Table, pipeline: Pipeline) -> None:
    rng = np.random.default_rng(0)
    same, excess, total = 0, 0.0, 0.0
    for _ in range(STATES):
        request = random_request(table, SERVERS, rng)
        exact = cost_of(table, request, counts_of(table, allocate(pipeline, request)))
        found = cost_of(table, request, answered(table, request))
        same += found <= exact * 1.002 + 1e-6
        excess += max(0.0, found - exact)
        total += exact
    assert same / STATES >= 0.93
    assert excess / total <= 0.005


def test_answers_fit_the_cluster_and_serve_every_task(table: Table) -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        counts = answered(table, random_request(table, SERVERS, rng))
        assert 0 < counts.sum() <= SERVERS
        assert (counts >= 0).all()
        assert capacity(counts, table.fleet.rates[-1], table.fleet.net, 0.0, table.scratch.work) > 0


def test_it_never_promises_more_than_the_exact_allocator(table: Table, pipeline: Pipeline) -> None:
    """So a mask whose ceiling comes from it is never looser."""
    fleet, work = table.fleet, table.scratch.work
    for demand in table.library.levels[::6].tolist():
        exact = allocate(pipeline, Request(demand_rps=demand, servers=SERVERS))
        counts = counts_of(table, exact)
        most = max(capacity(counts, rate, fleet.net, demand, work) for rate in fleet.rates)
        assert most <= max(exact.capacity_rps, demand) * 1.35  # what the exact plan keeps for its accuracy
    assert table.most_rps == pytest.approx(most_of(pipeline, SERVERS).capacity_rps)


def test_equal_questions_are_answered_from_memory(table: Table) -> None:
    request = random_request(table, SERVERS, np.random.default_rng(2))
    first = answered(table, request)
    searched = table.memo(0).used.copy()
    assert np.array_equal(answered(table, request), first)
    assert np.array_equal(table.memo(0).used, searched)


def test_a_load_longer_than_the_interval_is_not_abandoned(table: Table, pipeline: Pipeline) -> None:
    """The livelock of a horizon below the load time: a wave of loads must look as good when asked again."""
    task, names = pipeline.tasks[0].name, [variant.name for variant in pipeline.tasks[0].variants]
    current = tuple(
        Server(i, None, (), (task, names[-1], 1), remaining_s=12.0) if i < 6 else Server(i, None, ()) for i in range(SERVERS)
    )
    request = Request(
        demand_rps=60.0,
        servers=SERVERS,
        slices=(Slice(60.0, 1.0), *4 * [Slice(60.0, 0.2)]),
        current=current,
        horizon_s=40.0,
        load_s=20.0,
    )
    assert answered(table, request)[table.fleet.model(task, names[-1])] >= 2


def test_masks_follow_floor_and_ceiling() -> None:
    mask = np.zeros(ACTIONS, np.int8)
    fill_mask(mask, 100.0, 200.0, 150.0, 1000.0)
    assert mask[:8].tolist() == [0, 0, 1, 1, 1, 1, 1, 1]
    assert mask[8:].tolist() == mask[:8].tolist() * 2
    fill_mask(mask, 100.0, 200.0, 500.0, 170.0)
    assert mask[:8].tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    fill_mask(mask, 100.0, 100.0, 500.0, 170.0)
    assert np.flatnonzero(mask).tolist() == [NO_ADJUSTMENT]
    fill_mask(mask, 100.0, 200.0, 50.0, 1000.0)
    assert np.flatnonzero(mask == 0).tolist() == [8, 16], "nothing is left that could have odds"


def test_a_question_has_the_slices_of_a_belief() -> None:
    assert len(CUTS) == SLICES


def test_slices_of_no_width_cost_nothing(table: Table) -> None:
    """However a belief is cut, what may come costs the same."""
    fleet, counts = table.fleet, table.library.plans[20, 1]
    costs = []
    for to_rps, chance in (
        ([40.0, 90.0, 90.0, 90.0, 90.0], [1.0, 0.3, 0.2, 0.1, 0.0]),
        ([40.0, 40.0, 65.0, 90.0, 90.0], [1.0, 0.8, 0.3, 0.3, 0.1]),
    ):
        asked = Question(
            np.array(to_rps), np.array(chance), 55.0, 0.25, SERVERS, np.zeros((3, fleet.models)), fleet.rates, fleet.net
        )  # fmt: skip
        costs.append(best_splits(counts, asked, 0, np.inf, table.scratch.work)[0])
    assert costs[0] == pytest.approx(costs[1], abs=2 * SLIGHT)


def test_results_without_numba_are_the_same(table: Table) -> None:
    counts = table.library.plans[20, -1]
    script = (
        "import numpy as np\n"
        "from loki_rl.files.config import load_pipeline\n"
        "from loki_rl.control.fast.model_arrays import build_fleet\n"
        "from loki_rl.control.fast.objective_kernels import ROWS, Question, best_splits, new_scratch\n"
        "fleet = build_fleet(load_pipeline('social').pipeline)\n"
        f"counts = np.array({counts.tolist()})\n"
        "state = np.stack((np.roll(counts, 1), 0.5 * counts, counts))\n"
        "slices = np.array([[50.0, 55.0, 60.0, 70.0, 90.0], [1.0, 0.7, 0.3, 0.1, 0.02]])\n"
        f"asked = Question(*slices, 55.0, 0.25, {SERVERS}, state, fleet.rates, fleet.net)\n"
        f"print(best_splits(counts, asked, 0, np.inf, new_scratch(fleet.net, {SERVERS}, ROWS, 1).work))\n"
    )
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    state = np.stack((np.roll(counts, 1), 0.5 * counts, counts))
    slices = np.array([[50.0, 55.0, 60.0, 70.0, 90.0], [1.0, 0.7, 0.3, 0.1, 0.02]])
    asked = Question(slices[0], slices[1], 55.0, 0.25, SERVERS, state, table.fleet.rates, table.fleet.net)
    found = eval(done.stdout, {"np": np})  # three numbers that the script printed
    assert tuple(found) == pytest.approx(best_splits(counts, asked, 0, np.inf, table.scratch.work), abs=1e-12)
