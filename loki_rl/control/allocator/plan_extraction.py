"""From integer counts to a plan: the flow is solved again for exactly these servers, then written down as routes, shares
and deadlines."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from loki_rl.control.allocator.implicit_model import is_wide, narrowed, problem_of
from loki_rl.control.formulation.configurations import Configuration
from loki_rl.control.formulation.network import Network
from loki_rl.control.formulation.problem import ANY, NO_FLOOR, Problem
from loki_rl.control.formulation.request import Solver
from loki_rl.control.solver.solve import Solved
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Placement, Route
from loki_rl.core.servers.server_type import ServerType

NOTHING = 1e-9
TOLERANCE = 1e-7  # of the solver: what one LP reaches another may miss by so much
CLOSE = 1e-3  # of a capacity
TRACE = 1e-8  # of a flow: less is what a solver may leave anywhere

# All but what one LP misses another by.
MOST_OF_ALL = (1 - TOLERANCE, 1 - TOLERANCE)

# One way to the end: the configurations from an entry task to a leaf, and the share of the requests that takes it.
Chain = tuple[tuple[int, ...], float]


class Realised(Struct):
    """What a fleet can do. served: share of the demand. accuracy: mean 0..1 of the served. capacity_rps: demand it could
    serve at that accuracy. counts: without servers that no flow needs. chains: leaf task -> ways, shares sum to 1."""

    served: float
    accuracy: float
    capacity_rps: float
    counts: list[int]
    flow: list[float]
    chains: dict[int, list[Chain]]


class Holding(Struct, frozen=True):
    """Servers that one pipeline has to itself: a kept problem of its network alone, and the counts per configuration.

    flow: the most accurate of those that serve all, if it is known.
    """

    kept: Problem
    counts: Sequence[int]
    flow: Sequence[float] = ()

    @property
    def network(self) -> Network:
        return self.kept.networks[0]

    def ask(self, goal: Any, demand_rps: float, **limits: Any) -> Solved:
        """What they can do."""
        servers = [0] * self.kept.types
        for configuration, count in zip(self.network.configurations, self.counts, strict=True):
            servers[configuration.pool] += count
        return self.kept.ask(goal, (demand_rps,), tuple(servers), counts=self.counts, **limits)


def holdings(
    networks: Sequence[Network],
    prices: tuple[float, ...],
    solver: Solver,
    counts: Sequence[int],
    flows: Sequence[Sequence[float]] = (),
) -> list[Holding]:
    """Each pipeline's own servers: once counts are given, none depends on another. flows: each as of a Holding."""
    found, start = [], 0
    for network, flow in zip(networks, flows or ((),) * len(networks), strict=True):
        mine = counts[start : start + len(network.configurations)]
        start += len(network.configurations)
        if solver == "search" and is_wide([network]):
            # A flow through the whole network is none through this one: it is solved for anew.
            (network, mine), flow = narrowed(network, mine), ()
        found.append(Holding(problem_of((network,), prices, solver), mine, flow))
    return found


def realise(pipeline: Pipeline, held: Holding, demand_rps: float, min_accuracy: float, spare: bool) -> Realised | None:
    """Serve as much of the demand as the servers can at the accuracy floor, most accurately, then spread the load evenly.
    spare: there may be servers for more than the demand.

    None if these servers can serve nothing.
    """
    if held.flow:
        served, accuracy = 1.0, _accuracy(held)
    else:
        served = (
            1.0 if spare and _serves_all(held, demand_rps, min_accuracy) else most_served(held, demand_rps, min_accuracy)
        )
        if served < NOTHING:
            return None
        accuracy = _most_accurate(held, demand_rps * served)
    capacity, flow = _capacity(_in_use(held) if spare else held, demand_rps * served, accuracy)
    counts = _needed(held.network, held.counts, flow)
    return Realised(served, accuracy, capacity, counts, flow, chains(pipeline, held.network, flow))


def _serves_all(held: Holding, demand_rps: float, min_accuracy: float) -> bool:
    """Asked in the words of `_most_accurate`, whose answer is then known."""
    solved = held.ask("most accurate", demand_rps, served=[MOST_OF_ALL])
    return solved.found and solved.objective >= min_accuracy * MOST_OF_ALL[0]


def _in_use(held: Holding) -> Holding:
    """Only the variants of the flow that was found last, the most accurate one. Others stand by: inside the tolerance of
    that accuracy they would get a small share."""
    used = {
        (c.task, c.variant)
        for arc, amount in zip(held.network.arcs, held.kept.flows[0], strict=True)
        if amount > TRACE and arc.configuration >= 0
        for c in (held.network.configurations[arc.configuration],)
    }
    counts = [
        count if (c.task, c.variant) in used else 0
        for c, count in zip(held.network.configurations, held.counts, strict=True)
    ]
    return Holding(held.kept, counts)


def _accuracy(held: Holding) -> float:
    return sum(arc.accuracy * amount for arc, amount in zip(held.network.arcs, held.flow, strict=True) if amount)


def most_served(held: Holding, demand_rps: float, min_accuracy: float) -> float:
    """Share of the demand, with the idle servers that this share needs: a fixed point from above, as in shedding."""
    floor, share = (min_accuracy * (1 - TOLERANCE), 0.0) if min_accuracy > 0 else NO_FLOOR, 1.0
    while True:
        solved = held.ask("most served", demand_rps * share, served=[ANY], floors=[floor])
        if not solved.found or solved.objective < NOTHING:
            return 0.0
        share *= solved.objective
        if solved.objective > 1 - TOLERANCE:
            return share


def _most_accurate(held: Holding, demand_rps: float) -> float:
    """Mean accuracy where all is served, or all but what one LP misses another by."""
    return held.ask("most accurate", demand_rps, served=[MOST_OF_ALL]).objective / MOST_OF_ALL[0]


def _capacity(held: Holding, demand_rps: float, accuracy: float) -> tuple[float, list[float]]:
    """The largest demand [1/s] that can be served at this accuracy, and the flow per unit of it.

    More demand needs more idle servers, but less than in proportion: so each step falls short of the answer, and the next
    starts there.
    """
    while True:
        scale, flow = _most_scaled(held, demand_rps, accuracy)
        demand_rps *= max(scale, 1.0)
        if scale < 1 + CLOSE:
            return demand_rps, flow


def _most_scaled(held: Holding, demand_rps: float, accuracy: float) -> tuple[float, list[float]]:
    """The largest multiple of a demand at this accuracy, its idle servers in proportion."""
    floor = (accuracy * (1 - TOLERANCE), 0.0)
    solved = held.ask("most served", demand_rps, served=[(0.0, None)], floors=[floor])
    scale = max(solved.objective, NOTHING)
    return scale, [amount / scale for amount in held.kept.flows[0]]


def _needed(network: Network, counts: Sequence[int], flow: list[float]) -> list[int]:
    """Counts without the configurations that no flow takes."""
    used = {arc.configuration for arc, amount in zip(network.arcs, flow, strict=True) if amount > NOTHING}
    return [count if k in used else 0 for k, count in enumerate(counts)]


def chains(pipeline: Pipeline, network: Network, flow: list[float]) -> dict[int, list[Chain]]:
    """Decompose a flow into whole ways. Inside a state all flow is alike, so shares multiply along a way."""
    outgoing: dict[int, list[int]] = defaultdict(list)
    for number, arc in enumerate(network.arcs):
        if flow[number] > NOTHING:
            outgoing[arc.state].append(number)
    found: dict[int, list[Chain]] = {}
    for entry in range(len(pipeline.entries)):
        start = pipeline.entries[entry]
        for leaf in pipeline.leaves:
            if pipeline.lines[leaf][0] == start:
                ways: dict[tuple[int, ...], float] = defaultdict(float)
                _walk(pipeline, network, flow, outgoing, leaf, entry, (), 1.0, ways)
                total = sum(ways.values()) or 1.0
                found[leaf] = [(way, share / total) for way, share in ways.items()]
    return found


def _walk(
    pipeline: Pipeline,
    network: Network,
    flow: list[float],
    outgoing: dict[int, list[int]],
    leaf: int,
    state: int,
    way: tuple[int, ...],
    share: float,
    ways: dict[tuple[int, ...], float],
) -> None:
    total = sum(flow[number] for number in outgoing[state])
    for number in outgoing[state]:
        arc, part = network.arcs[number], share * flow[number] / total
        if part < NOTHING:
            continue
        if arc.configuration < 0:
            _walk(pipeline, network, flow, outgoing, leaf, arc.into[0][0], way, part, ways)
        elif not arc.into:
            ways[(*way, arc.configuration)] += part
        else:
            below = next(s for s, _ in arc.into if network.states[s].task in pipeline.lines[leaf])
            _walk(pipeline, network, flow, outgoing, leaf, below, (*way, arc.configuration), part, ways)


def placements(
    pipeline: Pipeline, types: Sequence[ServerType], network: Network, counts: Sequence[int]
) -> tuple[Placement, ...]:
    """Counts by name, in the order of the configurations."""
    return tuple(
        Placement(task, variant, batch, count, kind)
        for (task, variant, batch, kind), count in zip(names(pipeline, types, network), counts, strict=True)
        if count
    )


def names(pipeline: Pipeline, types: Sequence[ServerType], network: Network) -> list[tuple[str, str, int, str]]:
    """Task, variant, batch and server type of every configuration."""
    return [
        (task.name, task.variants[c.variant].name, c.batch, types[c.pool].name)
        for c in network.configurations
        for task in (pipeline.tasks[c.task],)
    ]


def routes(
    pipeline: Pipeline, types: Sequence[ServerType], network: Network, ways: dict[int, list[Chain]]
) -> tuple[Route, ...]:
    """Ways by name; those through the same variants, batches and types are one."""
    totals: dict[tuple[str, tuple[tuple[str, int, str], ...]], float] = defaultdict(float)
    for leaf, found in ways.items():
        for way, share in found:
            chosen = [network.configurations[k] for k in way]
            stages = tuple((_variant(pipeline, c), c.batch, types[c.pool].name) for c in chosen)
            totals[pipeline.tasks[leaf].name, stages] += share
    return tuple(Route(leaf, stages, share) for (leaf, stages), share in totals.items())


def _variant(pipeline: Pipeline, configuration: Configuration) -> str:
    return pipeline.tasks[configuration.task].variants[configuration.variant].name


def shares(pipeline: Pipeline, network: Network, flow: list[float]) -> dict[str, dict[str, float]]:
    """Task -> variant -> share of the task's items."""
    items: list[dict[str, float]] = [defaultdict(float) for _ in pipeline.tasks]
    for arc, amount in zip(network.arcs, flow, strict=True):
        if arc.configuration >= 0 and amount > NOTHING:
            task = network.configurations[arc.configuration].task
            # A stage that gets no items on average still needs shares for the few that come.
            weight = max(arc.load, NOTHING)
            items[task][_variant(pipeline, network.configurations[arc.configuration])] += amount * weight
    return {
        task.name: {name: amount / (sum(mine.values()) or 1.0) for name, amount in mine.items()}
        for task, mine in zip(pipeline.tasks, items, strict=True)
    }


def split(pipeline: Pipeline, network: Network, ways: dict[int, list[Chain]]) -> dict[str, float]:
    """Task -> cumulative share of the SLO: what the slowest way has used, over that plus the slowest rest. 1 at a leaf."""
    used = [0] * len(pipeline.tasks)
    rest = [0] * len(pipeline.tasks)
    for found in ways.values():
        for way, _ in found:
            costs = [network.configurations[k].cost_us for k in way]
            for depth, task in enumerate(network.configurations[k].task for k in way):
                used[task] = max(used[task], sum(costs[: depth + 1]))
                rest[task] = max(rest[task], sum(costs[depth + 1 :]))
    marks: dict[str, float] = {}
    for position, stage in enumerate(pipeline.tasks):
        own = 1.0 if not rest[position] else used[position] / (used[position] + rest[position])
        above = marks[stage.parent] if stage.parent else 0.0
        marks[stage.name] = max(own, above)
    return marks
