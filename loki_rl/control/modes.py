"""The modes of the allocator, each an exact search that answers or passes on. Knows no order between them."""

from __future__ import annotations

from loki_rl.control.accuracy import TIE
from loki_rl.control.greedy import round_up
from loki_rl.control.kept import NO_FLOOR, KeptProblem
from loki_rl.control.network import Network
from loki_rl.control.search import Found, Search
from loki_rl.control.solver import Solved
from loki_rl.core.plan import Mode

# A later phase may give up this share of what an earlier one reached: room for the solver's own tolerance.
SLACK = 1e-7

# A demand that can be served up to this share counts as served.
NEARLY_ALL = 1 - 1e-6


def hardware(search: Search) -> Found | None:
    """Fewest servers that serve all with variants of the best accuracy; None if the cluster is too small for that."""
    kept = search.kept(search.setting.best_network)
    solved = search.ask(kept, "fewest servers", search.request.demand_rps)
    return _found("hardware", kept, solved, search.request.demand_rps) if solved.found else None


def accuracy(search: Search) -> Found | None:
    """The most accurate way to serve all, then the fewest servers that reach it; None if the cluster is too small or the
    result would fall below the floor."""
    kept = search.kept(search.setting.network)
    solved = search.ask(kept, "most accurate", search.request.demand_rps)
    if not solved.found or solved.objective < search.request.min_accuracy - TIE:
        return None
    found = _found("accuracy", kept, solved, search.request.demand_rps)
    found.counts = _fewest(search, kept, found)
    return found


def _fewest(search: Search, kept: KeptProblem, found: Found) -> list[int]:
    """The fewest servers for the accuracy already reached, if fewer there are."""
    if search.left_s <= 0:
        return found.counts
    floor = (0.0, found.objective * (1 - SLACK))
    solved = search.ask(kept, "fewest servers", found.demand_rps, floor=floor, start=found.counts)
    return kept.counts if solved.found else found.counts


def shed(search: Search) -> Found | None:
    """Serve the most at the accuracy floor, then most accurately; None if nothing can be served.

    Reserves are those of the demand served, which is the answer: found from above, as what is served of a demand that
    cannot be served whole still exceeds the answer (a fixed point, reached within a few steps).
    """
    network = _floor_network(search)
    kept, floor = search.kept(network), _floor(search, network)
    # More than can be served: servers can be split and none stays idle.
    relaxed = search.ask(kept, "most served", 1.0, served=(0.0, None), floor=floor, integer=False, reserving=False)
    if not relaxed.found or relaxed.objective < TIE:
        return None
    # Flows are shares of what could be served at all: with an absurd demand they would drown in tolerances.
    demand = min(relaxed.objective, search.demand_limit)
    start = round_up(search.setting.pipeline, network.configurations, kept.values, search.request.servers)
    solved = _most_served(search, kept, demand, start)
    while solved.found and search.setting.reserving and NEARLY_ALL > solved.objective > TIE and search.left_s > 0:
        demand, start = demand * solved.objective, kept.counts
        solved = _most_served(search, kept, demand, start)
    if not solved.found:
        return Found("shed", network, start, 0.0, 1.0, solved.status, demand)
    if solved.objective < TIE:
        return None
    found = _found("shed", kept, solved, demand)
    found.counts = _most_accurate(search, kept, found)
    return found


def _floor_network(search: Search) -> Network:
    """Where the floor is the best accuracy there is, only the best paths; a row would leave it to tolerances."""
    reaches_best = search.request.min_accuracy >= search.setting.pipeline.best_accuracy - TIE
    return search.setting.best_network if reaches_best else search.setting.network


def _floor(search: Search, network: Network) -> tuple[float, float]:
    """The accuracy floor as a kept problem takes it."""
    floor = search.request.min_accuracy
    return (floor, 0.0) if floor > 0 and network is search.setting.network else NO_FLOOR


def _most_served(search: Search, kept: KeptProblem, demand_rps: float, start: list[int]) -> Solved:
    floor = _floor(search, kept.network)
    return search.ask(kept, "most served", demand_rps, served=(0.0, 1.0), floor=floor, start=start)


def _most_accurate(search: Search, kept: KeptProblem, found: Found) -> list[int]:
    """Among the fleets that serve as much, one of the most accurate."""
    if search.left_s <= 0:
        return found.counts
    served, floor = found.objective * (1 - SLACK), _floor(search, kept.network)
    solved = search.ask(kept, "most accurate", found.demand_rps, served=(served, served), floor=floor, start=found.counts)
    return kept.counts if solved.found else found.counts


def _found(mode: Mode, kept: KeptProblem, solved: Solved, demand_rps: float) -> Found:
    return Found(mode, kept.network, kept.counts, solved.objective, solved.bound, solved.status, demand_rps)
