"""Branch and price against problems that are written down: equal answers to every kind of question, plans that hold, honest
certificates when time runs out."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loki_rl.control.allocator import implicit_model
from loki_rl.control.allocator.allocate import allocate, capacity
from loki_rl.control.allocator.implicit_model import ImplicitModel, narrowed
from loki_rl.control.allocator.written_model import WrittenModel
from loki_rl.control.formulation.network import Network
from loki_rl.control.formulation.prepared import prepare
from loki_rl.control.formulation.problem import ANY, NO_FLOOR, Floor, Problem
from loki_rl.control.formulation.request import Queueing, Request
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.servers.server_type import ServerType
from loki_rl.files.config import load_pipeline
from tests.control.instances import Rng, requests, small_pipeline
from tests.control.verify import verify

PAIRS = range(25)
GAP = 1.5e-6


@pytest.fixture(autouse=True, scope="module")
def warm() -> None:
    implicit_model.warm()


@pytest.fixture
def widened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written down but a fleet's own network."""
    monkeypatch.setattr(implicit_model, "WIDE_ARCS", -1)


def pair(rng: Rng) -> tuple[Problem, Problem, tuple[int, ...]]:
    """One or two pipelines on one or two types of servers, written down and not."""
    queueing: Queueing = "tail" if rng.random() < 0.5 else "half-slo"
    pool = (ServerType("a", 1), ServerType("b", 1, 2.0, speed=1.7))[: int(rng.integers(1, 3))]
    asked, size, networks = Request(1.0, len(pool), queueing=queueing, pool=pool), int(rng.integers(1, 3)), list[Network]()
    while len(networks) < size:
        setting = prepare(small_pipeline(rng), asked)
        networks += [setting.network] if setting.feasible else []
    prices = tuple(kind.price for kind in pool)
    servers = tuple(int(rng.integers(1, 9)) for _ in pool)
    return WrittenModel(tuple(networks), prices), ImplicitModel(tuple(networks), prices), servers


def asked(rng: Rng, kept: Problem, servers: tuple[int, ...]) -> Iterator[tuple[str, tuple[float, ...], dict[str, Any]]]:
    """Questions of every kind about demands from easy to impossible."""
    parts = range(len(kept.networks))
    weights = tuple(rng.uniform(0.2, 1.0, len(parts)).tolist())
    floors: list[Floor] = [(a, 0.0) if (a := float(rng.choice([0, 0.5, 0.8]))) else NO_FLOOR for _ in parts]
    for share in rng.uniform(0.05, 1.3, 2) / len(parts):
        most = []
        for part in parts:
            alone = [(0.0, None if part == other else 0.0) for other in parts]
            limits: dict[str, Any] = {"served": alone, "integer": False, "reserving": False}
            most.append(kept.ask("most served", (1.0,) * len(parts), servers, **limits).objective)
        demands = tuple(share * one for one in most)
        held = {(0, 0): (int(rng.integers(0, 2)), int(rng.integers(1, servers[0] + 1)))}
        for integer in (True, False):
            yield "most accurate", demands, {"weights": weights, "integer": integer}
            yield "most accurate", demands, {"weights": weights, "floors": floors, "integer": integer}
            yield "least price", demands, {"floors": floors, "integer": integer}
            yield "most served", demands, {"served": [ANY for _ in parts], "floors": floors, "weights": weights}
        if len(parts) > 1:
            yield "most accurate", demands, {"holdings": held, "served": [ANY for _ in parts]}


@pytest.mark.parametrize("seed", PAIRS)
def test_answers_are_those_of_a_problem_written_down(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kept, branched, servers = pair(rng)
    for goal, demands, limits in asked(rng, kept, servers):
        known, found = (one.ask(goal, demands, servers, **limits) for one in (kept, branched))  # type: ignore[arg-type]
        assert found.outcome == known.outcome, (goal, demands, limits)
        if found.found:
            assert found.objective == pytest.approx(known.objective, rel=GAP, abs=1e-9)
            assert found.bound == pytest.approx(found.objective, rel=GAP, abs=1e-9)


@pytest.mark.parametrize("seed", PAIRS)
def test_fleets_do_what_is_said_of_them(seed: int) -> None:
    """Another solver gets as much out of them, in their own network; and no fleet as good is cheaper."""
    rng = np.random.default_rng(seed)
    kept, branched, servers = pair(rng)
    demands = tuple(float(d) for d in rng.uniform(1.0, 60.0, len(kept.networks)))
    found = branched.ask("most accurate", demands, servers)
    if not found.found:
        return
    parts = [narrowed(network, mine) for network, mine in zip(kept.networks, branched.split(branched.counts), strict=True)]
    counts = [count for _, mine in parts for count in mine]
    prices = tuple(kept.prices)
    alone = WrittenModel(tuple(network for network, _ in parts), prices).ask(
        "most accurate", demands, servers, counts=counts
    )
    assert alone.objective == pytest.approx(found.objective, rel=1e-7)
    least = {"least": found.objective * (1 - 1e-7), "start": branched.counts}
    cheapest = [one.ask("least price", demands, servers, **least).objective for one in (kept, branched)]  # type: ignore[arg-type]
    assert cheapest[0] == pytest.approx(cheapest[1])


@pytest.mark.usefixtures("widened")
@pytest.mark.parametrize("seed", range(8))
def test_plans_are_those_of_problems_written_down(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    pipeline = small_pipeline(rng)
    for request in requests(rng, pipeline, 5):
        plan = allocate(pipeline, request)
        with monkeypatch.context() as patch:
            patch.setattr(implicit_model, "WIDE_ARCS", inf)
            known = allocate(pipeline, request)
        assert verify(pipeline, plan, request) == []
        assert plan.mode == known.mode
        assert plan.certificate.objective == pytest.approx(known.certificate.objective, abs=2e-6, rel=2e-5)


@pytest.fixture(scope="module")
def traffic() -> Pipeline:
    return load_pipeline(Path(__file__).parents[3] / "pipelines" / "traffic.yaml").pipeline


@pytest.mark.usefixtures("widened")
@pytest.mark.parametrize("limit_s", [1e-9, 1e-3, 1e-2])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95, 1.2])
def test_whatever_the_time_the_bound_holds(traffic: Pipeline, share: float, limit_s: float) -> None:
    most = capacity(traffic, 20).capacity_rps
    best = allocate(traffic, Request(share * most, 20, time_limit_s=60.0))
    # Another demand of the same answers: remembered ones would be proven.
    request = Request(share * most * (1 - 1e-9), 20, time_limit_s=limit_s)
    plan = allocate(traffic, request)
    assert verify(traffic, plan, request) == []
    assert best.certificate.gap <= 1e-6
    assert plan.accuracy * plan.served_fraction <= best.accuracy * best.served_fraction + 2e-6 or plan.mode != best.mode
    if plan.mode == best.mode:
        assert plan.certificate.bound >= best.certificate.objective - 2e-6


@pytest.mark.usefixtures("widened")
def test_equal_questions_get_equal_plans(traffic: Pipeline) -> None:
    request = Request(0.5 * capacity(traffic, 20).capacity_rps, 20, time_limit_s=60.0)
    networks = (prepare(traffic, request).network,)
    plans = []
    for _ in range(2):
        fresh = ImplicitModel(networks, (1.0,))
        fresh.ask("most accurate", (request.demand_rps,), (20,))
        plans.append(fresh.counts)
    assert plans[0] == plans[1]
