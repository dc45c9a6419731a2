"""The modes of the allocator that serve all, each an exact search that answers or passes on. Knows no order between them."""

from __future__ import annotations

from typing import Any

from loki_rl.control.allocator.greedy import round_up
from loki_rl.control.allocator.search import SLACK, Found, Search
from loki_rl.control.formulation.accuracy import TIE
from loki_rl.control.formulation.problem import LONG_S, Goal, Problem
from loki_rl.control.solver.solve import Solved
from loki_rl.core.plan import Mode

# A relaxation that needs so much of one more server needs it whole.
PART = 1e-6


def hardware(search: Search) -> Found | None:
    """Cheapest servers that serve all with variants of the best accuracy; None if the cluster is too small for that."""
    kept = search.kept(tuple(setting.best_network for setting in search.settings))
    solved = search.ask(kept, "least price", search.demands)
    search.unproven |= solved.outcome == "unknown"
    return _whole("hardware", "least price", search, kept, solved) if solved.found else None


def accuracy(search: Search) -> Found | None:
    """The most accurate way to serve all, then the cheapest servers that reach it; None if the cluster is too small or a
    result would fall below its floor."""
    kept = search.kept(search.networks)
    # The most accurate plan of a single pipeline is above its floor if any is.
    floors = () if search.alone else search.floors
    solved = search.ask(kept, "most accurate", search.demands, floors=floors, start=search.start(kept.networks))
    found = (
        None if not solved.found or _too_low(search, solved) else _whole("accuracy", "most accurate", search, kept, solved)
    )
    if solved.outcome == "unknown" or (solved.outcome == "feasible" and (kept.coarse or not found)):
        found = _better(found, _rounded(search, kept))
    if found is None:
        return None
    cheapest = _cheapest(search, kept, found)
    if cheapest != found.counts:
        found.counts, found.flows = cheapest, ()
    return found


def _too_low(search: Search, solved: Solved) -> bool:
    return search.alone and solved.objective < search.parts[0].request.min_accuracy - TIE


def _better(one: Found | None, other: Found | None) -> Found | None:
    """The more accurate, with what is proven of both."""
    if one is None or other is None:
        return one or other
    best = one if one.objective >= other.objective else other
    best.bound = min(one.bound, other.bound)
    return best


def _rounded(search: Search, kept: Problem) -> Found | None:
    """Time ran out before a fleet was found or proven: one near the relaxation, if it serves all, and a bound for all."""
    demands = search.demands
    relaxed = search.ask(kept, "most accurate", demands, integer=False, time_limit_s=LONG_S)
    search.unproven = relaxed.outcome != "infeasible"
    if not relaxed.found:
        return None
    search.accuracy_bound = relaxed.bound
    # A relaxation splits about two servers of a task: on so many fewer its fleet, rounded up, still fits.
    fewer = tuple(max(1, round(count - 2 * search.tasks * count / sum(search.servers))) for count in search.servers)
    wanted = kept.values
    tight = search.ask(kept, "most accurate", demands, servers=fewer, integer=False, time_limit_s=LONG_S)
    wanted = kept.values if tight.found else wanted
    counts = round_up(kept.configurations, wanted, search.servers)
    floors = () if search.alone else search.floors
    solved = search.ask(kept, "most accurate", demands, floors=floors, counts=counts, time_limit_s=LONG_S)
    if not solved.found or _too_low(search, solved):
        return None
    found = _found("accuracy", "most accurate", search, kept, solved)
    found.counts, found.bound = counts, relaxed.bound
    return found


def _cheapest(search: Search, kept: Problem, found: Found) -> list[int]:
    """The cheapest servers for the accuracy already reached, if cheaper ones there are."""
    if not search.has_time():
        return found.counts
    limits: dict[str, Any] = {"floors": () if search.alone else search.floors, "least": found.objective * (1 - SLACK)}
    relaxed = search.ask(kept, "least price", found.demands, integer=False, **limits)
    if relaxed.found and relaxed.bound > kept.price(found.counts) - kept.step * (1 - PART):
        return found.counts
    solved = search.ask(kept, "least price", found.demands, start=found.counts, **limits)
    return kept.counts if solved.found else found.counts


def _whole(mode: Mode, goal: Goal, search: Search, kept: Problem, solved: Solved) -> Found:
    """Where all is served, most accurately for these counts."""
    found = _found(mode, goal, search, kept, solved)
    found.flows = kept.flows
    return found


def _found(mode: Mode, goal: Goal, search: Search, kept: Problem, solved: Solved) -> Found:
    return Found(mode, goal, kept.networks, kept.counts, solved.objective, solved.bound, solved.status, search.demands)
