"""The modes of the allocator, each an exact search that answers or passes on. Knows no order between them."""

from __future__ import annotations

from loki_rl.control.accuracy import TIE
from loki_rl.control.fleet import Fleet
from loki_rl.control.greedy import round_up
from loki_rl.control.network import Network
from loki_rl.control.search import Found, Search
from loki_rl.control.solver import Solved
from loki_rl.core.plan import Mode

# A later phase may give up this share of what an earlier one reached: room for the solver's own tolerance.
SLACK = 1e-7


def hardware(search: Search) -> Found | None:
    """Fewest servers that serve all with variants of the best accuracy; None if the cluster is too small for that."""
    fleet = search.fleet(search.setting.best_network)
    solved = search.ask(fleet, "fewest servers", search.request.demand_rps)
    return _found(search, "hardware", fleet, solved) if solved.found else None


def accuracy(search: Search) -> Found | None:
    """The most accurate way to serve all, then the fewest servers that reach it; None if the cluster is too small or the
    result would fall below the floor."""
    fleet = search.fleet(search.setting.network)
    solved = search.ask(fleet, "most accurate", search.request.demand_rps)
    if not solved.found or solved.objective < search.request.min_accuracy - TIE:
        return None
    found = _found(search, "accuracy", fleet, solved)
    found.counts = _fewest(search, fleet, found)
    return found


def _fewest(search: Search, fleet: Fleet, found: Found) -> list[int]:
    """The fewest servers for the accuracy already reached, if fewer there are."""
    if search.left_s <= 0:
        return found.counts
    floor = (0.0, found.objective * (1 - SLACK))
    solved = search.ask(fleet, "fewest servers", found.demand_rps, floor=floor, start=found.counts)
    return fleet.counts if solved.found else found.counts


def shed(search: Search) -> Found | None:
    """Serve the most at the accuracy floor, then most accurately; None if nothing can be served."""
    fleet, floor = search.fleet(_floor_network(search)), (search.request.min_accuracy, 0.0)
    relaxed = search.ask(fleet, "most served", 1.0, served=(0.0, None), floor=floor, integer=False)
    if not relaxed.found or relaxed.objective < TIE:
        return None
    # Flows are shares of what could be served at all: with an absurd demand they would drown in tolerances.
    demand = min(relaxed.objective, search.demand_limit)
    start = round_up(search.setting.pipeline, search.configurations, fleet.values, search.request.servers)
    solved = search.ask(fleet, "most served", demand, served=(0.0, 1.0), floor=floor, start=start)
    if not solved.found:
        return Found("shed", fleet.network, start, 0.0, 1.0, solved.status, demand)
    if solved.objective < TIE:
        return None
    found = _found(search, "shed", fleet, solved, demand)
    found.counts = _most_accurate(search, fleet, found, floor)
    return found


def _floor_network(search: Search) -> Network:
    """Where the floor is the best accuracy there is, only the best paths; a row would leave it to tolerances."""
    reaches_best = search.request.min_accuracy >= search.setting.pipeline.best_accuracy - TIE
    return search.setting.best_network if reaches_best else search.setting.network


def _most_accurate(search: Search, fleet: Fleet, found: Found, floor: tuple[float, float]) -> list[int]:
    """Among the fleets that serve as much, one of the most accurate."""
    if search.left_s <= 0:
        return found.counts
    served = found.objective * (1 - SLACK)
    solved = search.ask(fleet, "most accurate", found.demand_rps, served=(served, served), floor=floor, start=found.counts)
    return fleet.counts if solved.found else found.counts


def _found(search: Search, mode: Mode, fleet: Fleet, solved: Solved, demand_rps: float | None = None) -> Found:
    return Found(
        mode=mode,
        network=fleet.network,
        counts=fleet.counts,
        objective=solved.objective,
        bound=solved.bound,
        status=solved.status,
        demand_rps=search.request.demand_rps if demand_rps is None else demand_rps,
    )
