"""Which configurations are likely to be in the best fleet, and the search that begins with these: what is left out is
searched after, so that it decides nothing but time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from msgspec.structs import replace

from loki_rl.control.branch_and_price.joint import fleets_of, relax
from loki_rl.control.branch_and_price.master_problem import Layout, MasterProblem, Part
from loki_rl.control.branch_and_price.pricing import Relaxation
from loki_rl.control.branch_and_price.route_pricing import Graph, arrays, best_routes, losses, restrict, walk
from loki_rl.control.branch_and_price.search import Answer, BranchAndPrice
from loki_rl.control.formulation.network import Network
from loki_rl.control.solver.simplex import Floats, Indices

# How many configurations of a part the first searches have, how many nodes, and which share of the time left: that strikes
# first only where time is so short that plans depend on it anyway.
STAGES = ((10, 2000, 0.6), (30, 2000, 0.5), (80, 1500, 0.5))
# With no more configurations than these all are searched at once.
FEW = 100
# Besides, those of the routes that are best where servers are so many times dearer: whole ones are.
DEARER = (1.0, 1.5, 2.0, 3.0)

# Servers per arc of a part for its whole demand.
Needs = Callable[[int, Graph], Floats]


def search(
    joint: MasterProblem,
    networks: Sequence[Network],
    needs: Needs,
    gap: float,
    step: float,
    left_s: Callable[[], float],
    known: Answer | None,
) -> Answer:
    """The best fleet. known: one that is possible."""
    full = begun(joint, gap, step, left_s)
    if known is not None and known.counts is not None:
        full.know(known.counts, known.objective, known.served)
    if len(full.fleets.counts) > FEW:
        _narrowly(full, joint, networks, needs, gap, step)
    return full.run()


def _narrowly(
    full: BranchAndPrice,
    joint: MasterProblem,
    networks: Sequence[Network],
    needs: Needs,
    gap: float,
    step: float,
) -> None:
    """Good fleets of few configurations, as a start for the search among all."""
    left_s = full.relaxation.left_s
    _, bound = full.relaxation.solve()
    server = float(full.relaxation.quote()[2].max())
    for size, nodes, share in STAGES:
        # Less than a server's worth is left: most configurations are soon ruled out (R5 of docs/allocator.md).
        if bound >= full.relaxation.cutoff or full.best.objective - bound < server or left_s() <= 0:
            break
        chosen = likely(joint, full.relaxation, size)
        few = begun(_only(joint, networks, needs, chosen), gap, step, _part_of(left_s, share))
        few.relaxation.cutoff = full.relaxation.cutoff
        few.round()
        found = few.run(nodes)
        if found.counts is not None:
            full.know(_spread(joint, chosen, found.counts), found.objective, found.served)


def begun(joint: MasterProblem, gap: float, step: float, left_s: Callable[[], float]) -> BranchAndPrice:
    """A search that has not looked at anything."""
    relaxation = relax(joint, left_s)
    relaxation.hold(joint.layout.tasks)
    return BranchAndPrice(relaxation, fleets_of(joint, step), gap)


def _part_of(left_s: Callable[[], float], share: float) -> Callable[[], float]:
    rest_s = left_s() * (1 - share)
    return lambda: left_s() - rest_s


def likely(joint: MasterProblem, relaxation: Relaxation, size: int) -> list[Indices]:
    """Per part the configurations that lose least at the relaxation's prices, in use there, or best at higher prices."""
    layout = joint.layout
    (_, duals, prices), usage = relaxation.quote(), relaxation.read().usage[layout.counts]
    chosen = []
    for p, part in enumerate(joint.parts):
        mine = slice(layout.start[p], layout.start[p + 1])
        price, worth = np.append(prices[mine], 0.0), relaxation.worth(p, duals)
        least = np.argsort(losses(part.graph, part.servers, price, worth), kind="stable")[:size]
        cheapest = _taken(part, np.append(np.ones(len(price) - 1), 0.0), 0.0)
        dearer = [_taken(part, factor * price, worth) for factor in DEARER]
        keep = np.unique(np.concatenate([least, np.flatnonzero(usage[mine] > 0), cheapest, *dearer]))
        chosen.append(keep[keep >= 0])
    return chosen


def _taken(part: Part, prices: Floats, worth: float) -> Indices:
    """The configurations of the best routes."""
    arcs, _ = walk(part.graph, best_routes(part.graph, part.servers, prices, worth)[1])
    return part.graph.configuration[arcs]


def _only(joint: MasterProblem, networks: Sequence[Network], needs: Needs, chosen: list[Indices]) -> MasterProblem:
    parts = []
    for p, (part, network, keep) in enumerate(zip(joint.parts, networks, chosen, strict=True)):
        narrow = restrict(network, part.graph, keep.tolist())
        graph = arrays(narrow)
        parts.append(replace(part, graph=graph, configurations=narrow.configurations, servers=needs(p, graph)))
    layout = Layout([part.configurations for part in parts], len(joint.limits))
    return replace(joint, parts=parts, layout=layout)


def _spread(joint: MasterProblem, chosen: list[Indices], counts: Indices | Floats) -> Indices:
    """Counts of the chosen as counts of all."""
    start = joint.layout.start
    everything = np.zeros(int(start[-1]), dtype=np.int64)
    places = [keep + start for keep, start in zip(chosen, start[:-1], strict=True)]
    everything[np.concatenate(places)] = counts
    return everything
