"""Best routes and the relaxation over them, against networks written down and another LP solver."""

from __future__ import annotations

import numpy as np
import pytest

from loki_rl.control.allocator.implicit_model import ImplicitModel, warm
from loki_rl.control.allocator.written_model import WrittenModel
from loki_rl.control.branch_and_price.route_pricing import arrays, best_routes, losses, restrict, servers_per_flow, walk
from loki_rl.control.formulation.network import Network, build_network
from loki_rl.control.formulation.prepared import Prepared, prepare
from loki_rl.control.formulation.request import Queueing, Request
from tests.control.instances import small_pipeline

SEEDS = range(40)


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """Compile before any time limit runs."""
    warm()


def settings(seed: int) -> tuple[np.random.Generator, Prepared]:
    rng = np.random.default_rng(seed)
    queueing: Queueing = "tail" if rng.random() < 0.5 else "half-slo"
    while not (setting := prepare(small_pipeline(rng), Request(1.0, 1, queueing=queueing))).feasible:
        pass
    return rng, setting


def prices_of(rng: np.random.Generator, network: Network) -> np.ndarray:
    return np.append(rng.choice([0.0, 0.01, 0.1]) * rng.uniform(0.5, 1.0, len(network.configurations)), 0.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_best_routes_are_worth_what_they_cost(seed: int) -> None:
    rng, setting = settings(seed)
    graph = arrays(setting.network)
    servers, prices = servers_per_flow(graph, rng.uniform(1, 100)), prices_of(rng, setting.network)
    value, taken = best_routes(graph, servers, prices, 1.0)
    arcs, amounts = walk(graph, taken)
    cost = prices[graph.configuration[arcs]] * servers[arcs]
    assert float((graph.accuracy[arcs] - cost) @ amounts) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_server_loses_less_than_is_said(seed: int) -> None:
    """What is served without a configuration, or with its servers for nothing, bounds what they can add."""
    rng, setting = settings(seed)
    network, graph = setting.network, arrays(setting.network)
    servers, prices = servers_per_flow(graph, rng.uniform(1, 100)), prices_of(rng, network)
    best, lost = best_routes(graph, servers, prices, 1.0)[0], losses(graph, servers, prices, 1.0)
    assert (lost <= prices[:-1] + 1e-15).all()
    for k in np.flatnonzero(lost < prices[:-1] - 1e-12):
        # At a price lower by what it loses, routes through it are as good as the best, and not better.
        lower = prices.copy()
        lower[k] -= lost[k]
        assert best_routes(graph, servers, lower, 1.0)[0] == pytest.approx(best, abs=1e-9)
        lower[k] -= 1e-4
        assert best_routes(graph, servers, lower, 1.0)[0] > best


@pytest.mark.parametrize("seed", SEEDS)
def test_a_restricted_network_has_the_routes_of_one_built_so(seed: int) -> None:
    rng, setting = settings(seed)
    pipeline, network = setting.pipeline, setting.network
    fastest = {
        min(
            (k for k, c in enumerate(network.configurations) if c.task == task),
            key=lambda k: network.configurations[k].cost_us,
        )
        for task in range(len(pipeline.tasks))
    }
    keep = sorted(fastest | {k for k in range(len(network.configurations)) if rng.random() < 0.4})
    some = [network.configurations[k] for k in keep]
    graphs = [
        arrays(restrict(network, arrays(network), keep)),
        arrays(build_network(pipeline, setting.accuracies, some, setting.budget_us)),
    ]
    demand, prices = rng.uniform(1, 100), prices_of(rng, network)[[*keep, -1]]
    first, second = (best_routes(graph, servers_per_flow(graph, demand), prices, 1.0)[0] for graph in graphs)
    assert first == pytest.approx(second, abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_relaxation_is_that_of_highs(seed: int) -> None:
    rng, setting = settings(seed)
    networks, servers = (setting.network,), int(rng.integers(1, 30))
    kept, wide = WrittenModel(networks, (1.0,)), ImplicitModel(networks, (1.0,))
    most = kept.ask("most served", (1.0,), (servers,), [(0.0, None)], integer=False, reserving=False).objective
    for share in rng.uniform(0.05, 1.2, 3):
        demands = (share * most,)
        floor = [(float(rng.choice([0.5, 0.8])), 0.0)] if rng.random() < 0.5 else []
        mine = wide.ask("most accurate", demands, (servers,), floors=floor, integer=False)
        answer = kept.ask("most accurate", demands, (servers,), floors=floor, integer=False)
        assert mine.outcome == answer.outcome
        if mine.found:
            assert mine.objective == pytest.approx(answer.objective, abs=1e-8)
            assert mine.bound >= answer.objective - 1e-8
