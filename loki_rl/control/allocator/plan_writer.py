"""From an answer to plans: each pipeline's flow is solved anew for its own whole servers, and a certificate says how good
all are together."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

from msgspec.structs import replace

from loki_rl.control.allocator.plan_extraction import (
    NOTHING,
    Holding,
    Realised,
    placements,
    realise,
    routes,
    shares,
    split,
)
from loki_rl.control.allocator.search import Found, Search
from loki_rl.control.formulation.network import Network
from loki_rl.core.plan import Certificate, JointPlan, Mode, Plan

NEARLY = 1e-6


def write(search: Search, found: Found) -> JointPlan | None:
    """The plans for these counts; None if they can serve nothing."""
    began = perf_counter()
    held = search.holdings(found)
    real = [
        realise(part.pipeline, mine, demand, search.floor(i, mine.network), found.goal == "least cost")
        for i, (part, mine, demand) in enumerate(zip(search.parts, held, found.demands, strict=True))
    ]
    search.solve_s += perf_counter() - began
    return _Writer(search, found, held, real).write() if any(real) else None


class _Writer:
    """demands: what the plans are for; served: the share of it."""

    def __init__(self, search: Search, found: Found, held: list[Holding], real: list[Realised | None]) -> None:
        self.search, self.found, self.held, self.real = search, found, held, real
        served_rps = [0.0 if one is None else one.served * rps for one, rps in zip(real, found.demands, strict=True)]
        self.demands = served_rps if search.unlimited else list(search.demands)
        self.served = [_whole(rps / demand) for rps, demand in zip(served_rps, self.demands, strict=True)]

    def write(self) -> JointPlan:
        found = self.found
        if found.mode == "shed" and set(self.served) == {1.0} and self.search.unproven:
            # Time ran out before it was known that these servers would do.
            found.mode, found.goal, found.bound = "accuracy", "most accurate", self.search.accuracy_bound
        plans = [self._none(i) if one is None else self._plan(i, one) for i, one in enumerate(self.real)]
        servers, price = sum(plan.servers for plan in plans), sum(plan.price for plan in plans)
        certificate, mode = self._certificate(plans, price), plans[0].mode if self.search.alone else found.mode
        return JointPlan(mode, tuple(replace(plan, certificate=certificate) for plan in plans), servers, price, certificate)

    def _none(self, part: int) -> Plan:
        """Of a pipeline of which nothing is served, as others are worth more."""
        split = {task.name: 1.0 for task in self.search.parts[part].pipeline.tasks}
        return Plan("shed", (), 0, 0.0, 0.0, self.demands[part], 0.0, split, {})

    def _plan(self, part: int, real: Realised) -> Plan:
        asked, network, types = self.search.parts[part], self.held[part].network, self.search.types
        # What the flow after the loads has no use for may be what serves during them: its price was in the objective.
        least_cost = self.found.goal == "least cost"
        counts = self.held[part].counts if least_cost else real.counts
        spare = least_cost and _stand_by(network, counts, real.flow)
        return Plan(
            mode=self._mode(part, real),
            placements=placements(asked.pipeline, types, network, counts),
            servers=sum(counts),
            accuracy=min(1.0, real.accuracy),
            served_fraction=self.served[part],
            demand_rps=self.demands[part],
            capacity_rps=real.capacity_rps,
            split=split(asked.pipeline, network, real.chains),
            flows=shares(asked.pipeline, network, real.flow),
            routes=routes(asked.pipeline, types, network, real.chains),
            price=sum(count * types[c.pool].price for c, count in zip(network.configurations, counts, strict=True)),
            standby_rps=max(self.found.most_rps, real.capacity_rps) if spare else 0.0,
        )

    def _mode(self, part: int, real: Realised) -> Mode:
        """Of several pipelines some may be better off than all together; a plan of least cost is whatever it serves."""
        if self.found.goal != "least cost" and (self.search.alone or self.found.mode == "hardware"):
            return self.found.mode
        if self.served[part] < 1:
            return "shed"
        return "hardware" if real.accuracy > self.search.parts[part].pipeline.best_accuracy - NEARLY else "accuracy"

    def _certificate(self, plans: list[Plan], price: float) -> Certificate:
        """What the plans reach, however they were found, against what was proven."""
        search, found = self.search, self.found
        reached, bound = found.objective, found.bound
        if found.goal == "least price":
            reached = price
        elif found.goal == "most accurate":
            reached = search.weighed([plan.accuracy for plan in plans])
        elif found.goal == "most served":
            reached = search.weighed([plan.served_fraction for plan in plans])
            bound = 1.0 if search.unproven else found.bound / (self.demands[0] if search.unlimited else 1.0)
        gap = abs(bound - reached) / max(abs(reached), 1e-9)
        status, solver = search.doubt or found.status, " and ".join(sorted(search.provers))
        return Certificate(reached, bound, gap, status, solver, 1000 * search.build_s, 1000 * search.solve_s)


def _stand_by(network: Network, counts: Sequence[int], flow: Sequence[float]) -> bool:
    """Whether some variant that has servers has no share."""
    served = {arc.configuration for arc, amount in zip(network.arcs, flow, strict=True) if amount > NOTHING}
    meant = {(c.task, c.variant) for k, c in enumerate(network.configurations) if k in served}
    return any(count and (c.task, c.variant) not in meant for c, count in zip(network.configurations, counts, strict=True))


def _whole(served: float) -> float:
    """1 where only the solver's tolerance is missing."""
    return 1.0 if served > 1 - 1e-6 else served
