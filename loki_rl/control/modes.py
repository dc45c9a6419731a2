"""The modes of the allocator, each an exact search that answers or passes on. Knows no order between them."""

from __future__ import annotations

from loki_rl.control.accuracy import TIE
from loki_rl.control.greedy import round_up
from loki_rl.control.model import add_row, set_objective
from loki_rl.control.network import Network
from loki_rl.control.search import Fleet, Found, Search
from loki_rl.control.solver import Solved
from loki_rl.core.plan import Mode

# A later phase may give up this share of what an earlier one reached: room for the solver's own tolerance.
SLACK = 1e-7

# A demand that can be served up to this share counts as served.
NEARLY_ALL = 1 - 1e-6


def hardware(search: Search) -> Found | None:
    """Fewest servers that serve all with variants of the best accuracy; None if the cluster is too small for that."""
    with search.building():
        fleet = search.fleet(search.setting.best_network, search.request.demand_rps, maximise=False)
        set_objective(fleet.problem, fleet.counts.all_servers)
    solved = search.solve(fleet.problem)
    return _found("hardware", fleet, solved) if solved.found else None


def accuracy(search: Search) -> Found | None:
    """The most accurate way to serve all, then the fewest servers that reach it; None if the cluster is too small or the
    result would fall below the floor."""
    with search.building():
        fleet = search.fleet(search.setting.network, search.request.demand_rps, maximise=True)
        set_objective(fleet.problem, fleet.flows.accuracy)
    solved = search.solve(fleet.problem)
    if not solved.found or solved.objective < search.request.min_accuracy - TIE:
        return None
    found = _found("accuracy", fleet, solved)
    found.counts = _fewest(search, found)
    return found


def _fewest(search: Search, found: Found) -> list[int]:
    """The fewest servers for the accuracy already reached, if fewer there are."""
    least = _servers_for(search, found, integer=False)
    if not least[0].found or least[0].objective > sum(found.counts) - 1 + SLACK or search.left_s <= 0:
        return found.counts
    solved, fleet = _servers_for(search, found, integer=True)
    return fleet.counts_in(solved) if solved.found else found.counts


def _servers_for(search: Search, found: Found, integer: bool) -> tuple[Solved, Fleet]:
    with search.building():
        fleet = search.fleet(found.network, found.demand_rps, maximise=False, integer=integer)
        add_row(fleet.problem, fleet.flows.accuracy, ">=", found.objective * (1 - SLACK))
        set_objective(fleet.problem, fleet.counts.all_servers)
    return search.solve(fleet.problem), fleet


def shed(search: Search) -> Found | None:
    """Serve the most at the accuracy floor, then most accurately; None if nothing can be served.

    Reserves are those of the demand served, which is the answer: found from above, as what is served of a demand that
    cannot be served whole still exceeds the answer (a fixed point, reached within a few steps).
    """
    network = _floor_network(search)
    relaxed, loose = _relaxed(search, network)
    if not relaxed.found or relaxed.objective < TIE:
        return None
    # Flows are shares of what could be served at all: with an absurd demand they would drown in tolerances.
    demand = min(relaxed.objective, search.demand_limit)
    start = round_up(search.setting.pipeline, network.configurations, loose.values(relaxed), search.request.servers)
    solved, fleet = _most_served(search, network, demand, start)
    while solved.found and search.setting.reserving and NEARLY_ALL > solved.objective > TIE and search.left_s > 0:
        start = fleet.counts_in(solved)
        solved, fleet = _most_served(search, network, fleet.demand_rps * solved.objective, start)
    if not solved.found:
        return Found("shed", network, start, 0.0, 1.0, solved.status, fleet.demand_rps)
    if solved.objective < TIE:
        return None
    found = _found("shed", fleet, solved)
    found.counts = _most_accurate(search, found)
    return found


def _floor_network(search: Search) -> Network:
    """Where the floor is the best accuracy there is, only the best paths; a row would leave it to tolerances."""
    reaches_best = search.request.min_accuracy >= search.setting.pipeline.best_accuracy - TIE
    return search.setting.best_network if reaches_best else search.setting.network


def _served_fleet(
    search: Search,
    network: Network,
    demand: float,
    served: tuple[float, float | None],
    integer: bool = True,
    reserving: bool = True,
) -> Fleet:
    fleet = search.fleet(network, demand, maximise=True, served=served, integer=integer, reserving=reserving)
    floor = search.request.min_accuracy
    if floor > 0 and network is search.setting.network:
        add_row(fleet.problem, [*fleet.flows.accuracy, (fleet.flows.served, -floor)], ">=", 0)
    return fleet


def _most_served(search: Search, network: Network, demand: float, start: list[int]) -> tuple[Solved, Fleet]:
    with search.building():
        fleet = _served_fleet(search, network, demand, (0.0, 1.0))
        set_objective(fleet.problem, [(fleet.flows.served, 1.0)])
    return search.solve(fleet.problem, fleet.start(start)), fleet


def _relaxed(search: Search, network: Network) -> tuple[Solved, Fleet]:
    """More than can be served [1/s]: servers can be split and none stays idle."""
    with search.building():
        fleet = _served_fleet(search, network, 1.0, (0.0, None), integer=False, reserving=False)
        set_objective(fleet.problem, [(fleet.flows.served, 1.0)])
    return search.solve(fleet.problem), fleet


def _most_accurate(search: Search, found: Found) -> list[int]:
    """Among the fleets that serve as much, one of the most accurate."""
    if search.left_s <= 0:
        return found.counts
    with search.building():
        served = found.objective * (1 - SLACK)
        fleet = _served_fleet(search, found.network, found.demand_rps, (served, served))
        set_objective(fleet.problem, fleet.flows.accuracy)
    solved = search.solve(fleet.problem, fleet.start(found.counts))
    return fleet.counts_in(solved) if solved.found else found.counts


def _found(mode: Mode, fleet: Fleet, solved: Solved) -> Found:
    return Found(
        mode=mode,
        network=fleet.network,
        counts=fleet.counts_in(solved),
        objective=solved.objective,
        bound=solved.bound,
        status=solved.status,
        demand_rps=fleet.demand_rps,
    )
