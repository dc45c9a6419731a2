"""Best routes through a network where every server has a price: the corners of the hull of servers and accuracy
(docs/allocator.md, Relaxation and route prices), by a dynamic program over its states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from loki_rl.control.compiled import compiled
from loki_rl.control.formulation.network import Arc, Network
from loki_rl.control.lru import Lru
from loki_rl.control.solver.simplex import Flags, Floats, Indices

KEPT = 32


class Graph(NamedTuple):
    """A network as arrays, states in an order in which flow only goes to earlier ones.

    first [states + 1]: arcs of each state. configuration, load, reserve, accuracy [arcs]: as of an Arc. below [arcs + 1],
    into, gain: the states that each arc feeds. supply [states]. rate [configurations + 1], the last for arcs without work.
    number [arcs], origin [states]: which of the network's they are.
    """

    first: Indices
    configuration: Indices
    load: Floats
    reserve: Floats
    accuracy: Floats
    below: Indices
    into: Indices
    gain: Floats
    supply: Floats
    rate: Floats
    number: Indices
    origin: Indices


# A network stays while its arrays do.
_graphs: Lru[tuple[Network, Graph]] = Lru(KEPT)


def graph_of(network: Network) -> Graph:
    """The arrays of a network, from the last KEPT ones where possible."""
    return _graphs.get(id(network), lambda: (network, arrays(network)))[1]


def arrays(network: Network) -> Graph:
    """The arrays of a network, made anew."""
    states, arcs = network.states, network.arcs
    place = _order(network)
    state = np.array([place[arc.state] for arc in arcs], dtype=np.int64)
    number = np.argsort(state, kind="stable")
    first = np.searchsorted(state[number], np.arange(len(states) + 1))
    mine = [arcs[i] for i in number]
    supply = np.zeros(len(states))
    supply[place] = [s.supply for s in states]
    return Graph(
        first,
        np.array([arc.configuration for arc in mine], dtype=np.int64),
        np.array([arc.load for arc in mine]),
        np.array([arc.reserve for arc in mine]),
        np.array([arc.accuracy for arc in mine]),
        np.cumsum([0, *(len(arc.into) for arc in mine)]),
        place[[s for arc in mine for s, _ in arc.into]] if any(arc.into for arc in mine) else np.zeros(0, dtype=np.int64),
        np.array([g for arc in mine for _, g in arc.into], dtype=np.float64),
        supply,
        np.array([*(c.rate for c in network.configurations), 1.0]),
        number,
        np.argsort(place),
    )


def joined(graphs: list[Graph], start: Indices) -> Graph:
    """The graphs of all parts as one; start: the first configuration of each."""
    if len(graphs) == 1:
        return graphs[0]
    states = np.cumsum([0, *(len(graph.supply) for graph in graphs)])
    arcs = np.cumsum([0, *(len(graph.configuration) for graph in graphs)])
    feeds = np.cumsum([0, *(len(graph.into) for graph in graphs)])
    configuration = [np.where(g.configuration < 0, -1, g.configuration + k) for g, k in zip(graphs, start, strict=False)]

    def moved(lists: list[Indices], by: Indices) -> Indices:
        return np.concatenate([one + shift for one, shift in zip(lists, by, strict=False)])

    def together(name: str) -> Floats:
        return np.concatenate([getattr(graph, name) for graph in graphs])

    return Graph(
        np.append(moved([graph.first[:-1] for graph in graphs], arcs), arcs[-1]),
        np.concatenate(configuration),
        together("load"),
        together("reserve"),
        together("accuracy"),
        np.append(moved([graph.below[:-1] for graph in graphs], feeds), feeds[-1]),
        moved([graph.into for graph in graphs], states),
        together("gain"),
        together("supply"),
        np.append(np.concatenate([graph.rate[:-1] for graph in graphs]), 1.0),
        moved([graph.number for graph in graphs], arcs),
        moved([graph.origin for graph in graphs], states),
    )


def _order(network: Network) -> Indices:
    """[state] = its place: those deeper in the tree first, of one leaf those with less time left first."""
    depth, left = np.array([(len(s.path), s.remaining_us) for s in network.states], dtype=np.int64).T
    place = np.empty(len(depth), dtype=np.int64)
    place[np.lexsort((left, -depth))] = np.arange(len(depth))
    return place


def servers_per_flow(graph: Graph, demand_rps: float, reserving: bool = True) -> Floats:
    """[arc] = servers that the whole demand would take there (`latency.with_idle`)."""
    busy = graph.load * demand_rps / graph.rate[graph.configuration]
    return (busy + np.sqrt(busy * (busy + 4 * graph.reserve))) / 2 if reserving else busy


@compiled
def _worth(graph: Graph, servers: Floats, prices: Floats, worth: float, value: Floats, e: int) -> float:
    here: float = worth * graph.accuracy[e] - prices[graph.configuration[e]] * servers[e]
    for j in range(graph.below[e], graph.below[e + 1]):
        here += graph.gain[j] * value[graph.into[j]]
    return here


def best_routes(graph: Graph, servers: Floats, prices: Floats, worth: float) -> tuple[float, Indices]:
    """The most that a unit of demand can be worth: accuracy x worth less servers x prices; with the arc taken per state."""
    found: tuple[float, Indices] = best_of(graph, servers, prices, worth, 0, len(graph.supply))
    return found


@compiled
def best_of(graph: Graph, servers: Floats, prices: Floats, worth: float, begin: int, end: int) -> tuple[float, Indices]:
    """As `best_routes`, of the states from `begin` to `end`, which feed no others."""
    value = np.empty(end)
    taken = np.empty(end, dtype=np.int64)
    total = 0.0
    for s in range(begin, end):
        best, chosen = -np.inf, -1
        for e in range(graph.first[s], graph.first[s + 1]):
            here = worth * graph.accuracy[e] - prices[graph.configuration[e]] * servers[e]
            for j in range(graph.below[e], graph.below[e + 1]):
                here += graph.gain[j] * value[graph.into[j]]
            if here > best:
                best, chosen = here, e
        value[s], taken[s] = best, chosen
        # Not where there is none: a state that leads nowhere is worth -inf.
        if graph.supply[s] > 0:
            total += graph.supply[s] * best
    return total, taken


def walk(graph: Graph, taken: Indices) -> tuple[Indices, Floats]:
    """The arcs that a unit of demand takes, and how much of it."""
    found: tuple[Indices, Floats] = walk_from(graph, taken, 0, len(graph.supply))
    return found


@compiled
def walk_from(graph: Graph, taken: Indices, begin: int, end: int) -> tuple[Indices, Floats]:
    """As `walk`, from the states from `begin` to `end`."""
    flow = graph.supply[begin:end].copy()
    arcs, amount = np.empty(len(flow), dtype=np.int64), np.empty(len(flow))
    count = 0
    for s in range(end - 1, begin - 1, -1):
        here = flow[s - begin]
        if here > 0.0:
            e = taken[s]
            arcs[count], amount[count] = e, here
            count += 1
            for j in range(graph.below[e], graph.below[e + 1]):
                flow[graph.into[j] - begin] += here * graph.gain[j]
    return arcs[:count], amount[:count]


@compiled
def losses(graph: Graph, servers: Floats, prices: Floats, worth: float) -> Floats:
    """[configuration] = what every one of its servers loses at least against the best routes, at most its price: that of the
    best route through it, or of standing idle (R5 of docs/allocator.md)."""
    value = np.empty(len(graph.supply))
    for s in range(len(value)):
        value[s] = -np.inf
        for e in range(graph.first[s], graph.first[s + 1]):
            value[s] = max(value[s], _worth(graph, servers, prices, worth, value, e))
    above = np.where(graph.supply > 0, 0.0, np.inf)
    least = prices.copy()
    for s in range(len(value) - 1, -1, -1):
        for e in range(graph.first[s], graph.first[s + 1]):
            loss = above[s] + value[s] - _worth(graph, servers, prices, worth, value, e)
            k = graph.configuration[e]
            if k >= 0 and servers[e] > 0:
                least[k] = min(least[k], loss / servers[e])
            for j in range(graph.below[e], graph.below[e + 1]):
                if graph.gain[j] > 0:
                    above[graph.into[j]] = min(above[graph.into[j]], loss / graph.gain[j])
    return least[:-1]


def restrict(network: Network, graph: Graph, keep: Sequence[int]) -> Network:
    """The ways through some configurations only, in this order; each entry must keep one.

    States that nothing reaches or that lead nowhere are left out, and those that only give up budget.
    """
    mask = np.zeros(len(graph.rate), dtype=np.bool_)
    mask[[*keep, -1]] = True
    found, goes = remaining(graph, mask)
    target = np.empty(len(goes), dtype=np.int64)
    target[graph.origin] = np.where(goes < 0, -1, graph.origin[goes])
    arcs = [network.arcs[i] for i in sorted(graph.number[found].tolist())]
    states = sorted({arc.state for arc in arcs})
    new = {state: at for at, state in enumerate(states)}
    number = {k: at for at, k in enumerate(keep)} | {-1: -1}

    def moved(arc: Arc) -> Arc:
        into = tuple((new[int(target[below])], gain) for below, gain in arc.into)
        return Arc(new[arc.state], number[arc.configuration], arc.load, arc.reserve, arc.accuracy, into)

    return Network(
        tuple(network.configurations[k] for k in keep),
        tuple(network.states[state] for state in states),
        tuple(moved(arc) for arc in arcs),
    )


@compiled
def remaining(graph: Graph, mask: Flags) -> tuple[Indices, Indices]:
    """Arcs that some flow can take through the configurations of the mask [configuration, the last: none]; and per state the
    one where its flow next has a choice or work to do, -1 for none."""
    size = len(graph.supply)
    goes = np.full(size, -1)
    alive = np.zeros(len(graph.configuration), dtype=np.bool_)
    for s in range(size):
        count, only = 0, -1
        for e in range(graph.first[s], graph.first[s + 1]):
            alive[e] = mask[graph.configuration[e]]
            for j in range(graph.below[e], graph.below[e + 1]):
                alive[e] &= goes[graph.into[j]] >= 0
            if alive[e]:
                count, only = count + 1, e
        if count == 1 and graph.configuration[only] < 0 and graph.supply[s] == 0:
            goes[s] = goes[graph.into[graph.below[only]]]
        elif count:
            goes[s] = s
    reached = graph.supply > 0
    taken = np.zeros(len(alive), dtype=np.bool_)
    for s in range(size - 1, -1, -1):
        for e in range(graph.first[s], graph.first[s + 1]):
            if reached[s] and alive[e]:
                taken[e] = True
                for j in range(graph.below[e], graph.below[e + 1]):
                    reached[goes[graph.into[j]]] = True
    return np.flatnonzero(taken), goes
