"""The search lets no error of its own out: bounds hold whatever its dictionary says, the reference settles doubt, and
machine code changes the time only."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loki_rl.control.allocator.implicit_model import ImplicitModel
from loki_rl.control.allocator.written_model import WrittenModel
from loki_rl.control.branch_and_price import pricing
from loki_rl.control.branch_and_price.joint import fleets_of, relax
from loki_rl.control.branch_and_price.master_problem import MasterProblem, Part
from loki_rl.control.branch_and_price.route_pricing import best_of, servers_per_flow
from loki_rl.control.branch_and_price.search import Answer, BranchAndPrice
from loki_rl.control.formulation.network import Network
from loki_rl.control.formulation.prepared import prepare
from loki_rl.control.formulation.request import Request
from loki_rl.control.solver.simplex import DOUBT
from loki_rl.files.config import load_pipeline
from tests.control.instances import small_pipeline

ROOT = Path(__file__).parents[3]
CLOSE = 2e-6


def network(seed: int) -> Network:
    rng = np.random.default_rng(seed)
    while not (setting := prepare(small_pipeline(rng), Request(1.0, 1))).feasible:
        pass
    return setting.network


@pytest.fixture(scope="module")
def traffic() -> Network:
    return prepare(load_pipeline(ROOT / "pipelines" / "traffic.yaml").pipeline, Request(1.0, 20)).network


def joint(model: ImplicitModel, demand: float, servers: int) -> MasterProblem:
    (graph,), (one,) = model.graphs, model.networks
    part = Part(graph, one.configurations, servers_per_flow(graph, demand))
    return MasterProblem("most accurate", [part], (servers,), model.layout)


@pytest.mark.parametrize("seed", range(20))
def test_a_bound_holds_whatever_the_dictionary_says(traffic: Network, seed: int) -> None:
    """Prices may be anything: the bound is then weak, never wrong."""
    rng, model = np.random.default_rng(seed), ImplicitModel((traffic,), (1.0,))
    demand = float(rng.uniform(100, 900))
    best = model.ask("most accurate", (demand,), (20,))
    asked = joint(model, demand, 20)
    relaxation = relax(asked, lambda: 60.0)
    relaxation.hold(asked.layout.tasks)
    relaxation.solve()
    now, terms = relaxation.master.now, relaxation.terms
    now.slopes[:] = np.where(now.slopes != 0, now.slopes + rng.normal(0, 0.3, len(now.slopes)), 0)
    now.slopes[now.nonbasic < len(relaxation.master.kind)] = 0.0
    bound, duals, prices = relaxation.quote()
    worth = relaxation.worth(0, duals)
    value, _ = best_of(terms.graph, terms.servers, np.append(np.maximum(prices, 0), 0), worth, 0, terms.ends[1])
    bound -= max(0.0, float(value + duals[terms.units[0, 0]]))
    if np.isfinite(bound) and (prices >= 0).all():
        assert bound <= -best.objective + CLOSE


@pytest.mark.parametrize("seed", range(30))
def test_a_wrong_basis_is_noticed(seed: int) -> None:
    """A dictionary that has lost its equations is made anew before its errors are in an answer."""
    model, rng = ImplicitModel((network(seed),), (1.0,)), np.random.default_rng(seed)
    demand, servers = float(rng.uniform(5, 80)), int(rng.integers(1, 9))
    best = model.ask("most accurate", (demand,), (servers,))
    asked = joint(model, demand, servers)
    relaxation = relax(asked, lambda: 60.0)
    relaxation.hold(asked.layout.tasks)
    relaxation.solve()
    now = relaxation.master.now
    now.x[now.basic] += rng.normal(0, 1e-6, len(now.basic))
    relaxation.solved[0] = pricing.EVERY - 1  # errors are looked for next time
    answer = BranchAndPrice(relaxation, fleets_of(asked, 0.0), 7e-7).run()
    assert (answer.counts is not None) == best.found
    if best.found:
        assert -answer.objective == pytest.approx(best.objective, abs=CLOSE)


@pytest.mark.parametrize("goal", ["most accurate", "least price"])
def test_doubt_is_settled_by_the_reference(traffic: Network, monkeypatch: pytest.MonkeyPatch, goal: Any) -> None:
    known = WrittenModel((traffic,), (1.0,)).ask(goal, (300.0,), (20,), time_limit_s=60.0)
    monkeypatch.setattr(BranchAndPrice, "run", lambda *_: Answer("doubt"))
    doubting = ImplicitModel((traffic,), (1.0,))
    assert doubting.ask(goal, (300.0,), (20,), time_limit_s=60.0).objective == pytest.approx(known.objective, rel=CLOSE)
    assert sum(doubting.counts) <= 20


def test_an_unsettled_node_leaves_doubt(traffic: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where neither the dictionary nor one made anew gets on."""
    model = ImplicitModel((traffic,), (1.0,))
    asked = joint(model, 300.0, 20)
    relaxation = relax(asked, lambda: 60.0)
    search = BranchAndPrice(relaxation, fleets_of(asked, 0.0), 7e-7)
    monkeypatch.setattr("loki_rl.control.branch_and_price.search.explore", partial(_doubts, search))
    assert search.run().outcome == "doubt"


def _doubts(search: BranchAndPrice, *given: Any) -> Any:
    from loki_rl.control.branch_and_price.search import State

    return search.relaxation.master, DOUBT, State(*given[4]), search._nodes


def test_without_time_a_known_fleet_comes_back_with_an_honest_bound(traffic: Network) -> None:
    model = ImplicitModel((traffic,), (1.0,))
    best = model.ask("most accurate", (500.0,), (20,))
    found = model.counts
    hurried = ImplicitModel((traffic,), (1.0,)).ask(
        "most accurate", (500.0 * (1 - 1e-9),), (20,), start=found, time_limit_s=1e-9
    )
    assert hurried.found
    assert hurried.objective <= best.bound + CLOSE
    assert hurried.bound >= best.objective - CLOSE


def test_equal_questions_get_equal_answers(traffic: Network) -> None:
    answers = []
    for _ in range(2):
        model = ImplicitModel((traffic,), (1.0,))
        for demand in (100.0, 300.0, 500.0, 900.0):
            solved = model.ask("most accurate", (demand,), (20,))
            answers.append((solved.objective, solved.bound, model.counts))
    assert answers[:4] == answers[4:]


def test_a_relaxation_is_better_than_any_fleet(traffic: Network) -> None:
    model = ImplicitModel((traffic,), (1.0,))
    whole, split = (model.ask("most accurate", (500.0,), (20,), integer=integer) for integer in (True, False))
    assert whole.objective < split.objective <= split.bound + 1e-9
    assert inf > split.bound


WARMED = """
import numpy as np
from loki_rl.control.allocator.allocate import allocate
from loki_rl.control.allocator.implicit_model import warm
from loki_rl.control.branch_and_price import master, pricing, route_pricing, search
from loki_rl.control.solver import simplex
from loki_rl.control.allocator.allocate import allocate_jointly
from tests.control.instances import questions, requests, small_pipeline
def compiled():
    functions = [f for module in (simplex, master, pricing, route_pricing, search) for f in vars(module).values()]
    return [(f.__name__, f.signatures) for f in functions if hasattr(f, "signatures")]
warm()
before = compiled()
rng = np.random.default_rng(11)
for _ in range(6):
    pipeline = small_pipeline(rng)
    for request in requests(rng, pipeline, 6):
        allocate(pipeline, request)
for _ in range(20):
    allocate_jointly(questions(rng))
assert before
assert compiled() == before, [one for one in compiled() if one not in before]
"""


def test_all_is_compiled_before_the_first_plan() -> None:
    pytest.importorskip("numba")
    subprocess.run([sys.executable, "-c", WARMED], cwd=ROOT, check=True)


WITHOUT_NUMBA = """
import sys
import numpy as np
if sys.argv[1] == "without":
    sys.modules["numba"] = None
from loki_rl.control.allocator.implicit_model import ImplicitModel
from loki_rl.control.compiled import njit
from loki_rl.control.formulation.prepared import prepare
from loki_rl.control.formulation.request import Request
from tests.control.instances import small_pipeline
assert (njit is None) == (sys.argv[1] == "without")
rng = np.random.default_rng(3)
for _ in range(12):
    setting = prepare(small_pipeline(rng), Request(1.0, 1))
    if setting.feasible:
        model = ImplicitModel((setting.network,), (1.0,))
        solved = model.ask("most accurate", (float(rng.uniform(5, 60)),), (int(rng.integers(1, 6)),))
        print(solved.outcome, solved.objective, solved.bound, model.counts)
"""


def test_numba_changes_the_time_only() -> None:
    pytest.importorskip("numba")
    run = partial(subprocess.run, cwd=ROOT, capture_output=True, text=True, check=True)
    said = [run([sys.executable, "-c", WITHOUT_NUMBA, kind]).stdout for kind in ("with", "without")]
    assert said[0] == said[1]
    assert "optimal" in said[0]
