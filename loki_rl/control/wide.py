"""A problem too large to be written down: the questions of a kept problem, answered by branch and price, first on the few
configurations that are likely. Owns the order of these searches; knows no mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, nan
from time import perf_counter

import numpy as np
from msgspec.structs import replace

from loki_rl.control.fleets import Answer, FleetSearch
from loki_rl.control.hull import Graph, best_routes, graph_of, losses, restrict, servers_per_flow, walk
from loki_rl.control.network import Network
from loki_rl.control.pricing import Joint, Part
from loki_rl.control.simplex import Floats

# Configurations of each part in the first searches, and their share of the time that is left.
LIKELY = ((30, 0.5), (80, 0.5))
# What a server may be worth beyond its price in the relaxation before a whole one is found.
DEARER = (1.0, 1.5, 2.0, 3.0)


class Wide:
    """Networks of parts that share a cluster, each with its arrays."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self.networks = networks
        self.graphs = [graph_of(network) for network in networks]

    def search(self, joint: Joint, gap: float, step: float, left_s: Callable[[], float], start: Answer | None) -> Answer:
        """The best fleet for parts over `graphs`."""
        full = FleetSearch(joint, gap, step, left_s)
        if start is not None and start.counts is not None:
            full.know(start.counts, start.objective)
        outcome, bound = full.relaxation.solve()
        for size, share in LIKELY:
            if bound >= full.relaxation.cutoff or left_s() <= 0:
                break
            chosen = self._likely(full, size)
            end = left_s() * (1 - share)
            few = FleetSearch(self._few(joint, chosen), gap, step, lambda end=end: left_s() - end)
            few.relaxation.cutoff = full.relaxation.cutoff
            found = few.run()
            if found.counts is not None:
                counts = np.zeros(full.layout.start[-1], dtype=np.int64)
                counts[np.concatenate([keep + start for keep, start in zip(chosen, full.layout.start, strict=False)])] = found.counts
                full.know(counts, found.objective)
            print('   few', size, sum(map(len,chosen)), found.outcome, found.objective, found.bound, found.nodes, left_s())
        return full.run()

    def _likely(self, full: FleetSearch, size: int) -> list[np.ndarray]:
        """Per part the configurations that lose least at the relaxation's prices, and those of the best routes where servers are
        dearer."""
        relaxation, layout, chosen = full.relaxation, full.layout, []
        prices, usage = relaxation.prices(), relaxation.usage()[layout.counts]
        for p, part in enumerate(relaxation.parts):
            mine = slice(layout.start[p], layout.start[p + 1])
            price = np.append(prices[mine], 0.0)
            worth = relaxation.worth(p)
            keep = set(np.argsort(losses(part.graph, part.servers, price, worth), kind="stable")[:size].tolist())
            keep |= set(np.flatnonzero(usage[mine] > 0).tolist())
            for factor in (*DEARER, inf):
                taken = best_routes(part.graph, part.servers, price * factor if factor < inf else np.append(np.ones(len(price)-1),0.0), worth if factor < inf else 0.0)[1]
                keep |= set(part.graph.configuration[walk(part.graph, taken)[0]].tolist())
            chosen.append(np.array(sorted(keep - {-1}), dtype=np.int64))
        return chosen

    def _few(self, joint: Joint, chosen) -> Joint:
        parts = []
        for p, part in enumerate(joint.parts):
            network = restrict(self.networks[p], self.graphs[p], chosen[p].tolist())
            graph = graph_of(network)
            full = part.servers
            parts.append(replace(part, graph=graph, configurations=network.configurations, servers=self.cost(p, graph)))
        return replace(joint, parts=parts)
