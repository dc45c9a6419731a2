"""The modes of the allocator, each an exact search that answers or passes on. Knows no order between them."""

from __future__ import annotations

from typing import Any

from loki_rl.control.accuracy import TIE
from loki_rl.control.greedy import round_up
from loki_rl.control.kept import LONG_S, NO_FLOOR, Goal, KeptProblem
from loki_rl.control.network import Network
from loki_rl.control.search import Found, Search
from loki_rl.control.solver import Solved
from loki_rl.core.plan import Mode

# A later phase may give up this share of what an earlier one reached: room for the solver's own tolerance.
SLACK = 1e-7

# A relaxation that needs so much of a server more needs it whole.
PART = 1e-6

# A demand that can be served up to this share counts as served. What is missing adds to the gap.
NEARLY_ALL = 1 - 2e-7


def hardware(search: Search) -> Found | None:
    """Fewest servers that serve all with variants of the best accuracy; None if the cluster is too small for that."""
    kept = search.kept(search.setting.best_network)
    solved = search.ask(kept, "fewest servers", search.request.demand_rps)
    search.unproven |= solved.outcome == "unknown"
    return _whole("hardware", "fewest servers", kept, solved, search.request.demand_rps) if solved.found else None


def accuracy(search: Search) -> Found | None:
    """The most accurate way to serve all, then the fewest servers that reach it; None if the cluster is too small or the
    result would fall below the floor."""
    kept = search.kept(search.setting.network)
    solved = search.ask(kept, "most accurate", search.request.demand_rps)
    if solved.outcome == "unknown":
        return _rounded(search, kept)
    if not solved.found or solved.objective < search.request.min_accuracy - TIE:
        search.unproven = solved.outcome == "feasible"  # else nothing serves all, with the best variants neither
        return None
    found = _whole("accuracy", "most accurate", kept, solved, search.request.demand_rps)
    fewest = _fewest(search, kept, found)
    if fewest != found.counts:
        found.counts, found.flow = fewest, None
    return found


def _rounded(search: Search, kept: KeptProblem) -> Found | None:
    """Time ran out before any fleet was found: one near the relaxation, if it serves all; the relaxation bounds all."""
    demand = search.request.demand_rps
    relaxed = search.ask(kept, "most accurate", demand, integer=False, time_limit_s=LONG_S)
    search.unproven = relaxed.outcome != "infeasible"
    if not relaxed.found:
        return None
    search.accuracy_bound = relaxed.bound
    # A relaxation splits about two servers of a task: on so many fewer its fleet, rounded up, still fits.
    fewer, wanted = max(1, search.request.servers - 2 * len(search.pipeline.tasks)), kept.values
    tight = search.ask(kept, "most accurate", demand, servers=fewer, integer=False, time_limit_s=LONG_S)
    wanted = kept.values if tight.found else wanted
    counts = round_up(search.pipeline, kept.network.configurations, wanted, search.request.servers)
    solved = search.ask(kept, "most accurate", demand, counts=counts, time_limit_s=LONG_S)
    if not solved.found or solved.objective < search.request.min_accuracy - TIE:
        return None
    return Found("accuracy", "most accurate", kept.network, counts, solved.objective, relaxed.bound, solved.status, demand)


def _fewest(search: Search, kept: KeptProblem, found: Found) -> list[int]:
    """The fewest servers for the accuracy already reached, if fewer there are."""
    if not search.has_time():
        return found.counts
    floor = (0.0, found.objective * (1 - SLACK))
    relaxed = search.ask(kept, "fewest servers", found.demand_rps, floor=floor, integer=False)
    if relaxed.found and relaxed.bound > sum(found.counts) - 1 + PART:
        return found.counts
    solved = search.ask(kept, "fewest servers", found.demand_rps, floor=floor, start=found.counts)
    return kept.counts if solved.found else found.counts


def shed(search: Search) -> Found | None:
    """Serve the most at the accuracy floor, then most accurately; None if nothing can be served.

    Reserves are those of the demand served, which is the answer: found from above, as what is served of a demand that
    cannot be served whole still exceeds the answer (a fixed point, reached within a few steps).
    """
    network = _floor_network(search)
    kept, floor = search.kept(network), _floor(search, network)
    # More than can be served: servers can be split and none stays idle. It takes its time, for without it there is no plan.
    limits: dict[str, Any] = {"served": (0.0, None), "floor": floor, "time_limit_s": LONG_S}
    relaxed = search.ask(kept, "most served", 1.0, integer=False, reserving=False, **limits)
    if not relaxed.found or relaxed.objective < TIE:
        return None
    # Flows are shares of what could be served at all: with an absurd demand they would drown in tolerances.
    demand = min(relaxed.objective, search.demand_limit)
    start = round_up(search.setting.pipeline, network.configurations, kept.values, search.request.servers)
    solved = _most_served(search, kept, demand, start)
    while solved.found and search.setting.reserving and NEARLY_ALL > solved.objective > TIE and search.has_time():
        demand, start = demand * solved.objective, kept.counts
        solved = _most_served(search, kept, demand, start)
    if not solved.found:
        return Found("shed", "most served", network, start, 0.0, 1.0, solved.status, demand)
    if solved.objective < TIE:
        return None
    found = _found("shed", "most served", kept, solved, demand)
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
    if not search.has_time():
        return found.counts
    served, floor = found.objective * (1 - SLACK), _floor(search, kept.network)
    solved = search.ask(kept, "most accurate", found.demand_rps, served=(served, served), floor=floor, start=found.counts)
    return kept.counts if solved.found else found.counts


def _whole(mode: Mode, goal: Goal, kept: KeptProblem, solved: Solved, demand_rps: float) -> Found:
    """Where all is served, most accurately for these counts."""
    found = _found(mode, goal, kept, solved, demand_rps)
    found.flow = kept.flow
    return found


def _found(mode: Mode, goal: Goal, kept: KeptProblem, solved: Solved, demand_rps: float) -> Found:
    return Found(mode, goal, kept.network, kept.counts, solved.objective, solved.bound, solved.status, demand_rps)
