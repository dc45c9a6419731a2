"""The local search over vectors of servers per model, as compiled loops. Owns moves, their order and where a search starts;
knows no names and keeps no state."""

from __future__ import annotations

import numpy as np

from loki_rl.control.compiled import inlined, lean
from loki_rl.control.fast.model_arrays import Floats, Ints, Net
from loki_rl.control.fast.objective_kernels import TRIAL, best_splits, held_back, holding_cost, loading_cost, serving_cost

BETTER = 1e-9
NOWHERE = -2
NEAR = 0.1

# Levels of the library, from the target's on, whose models a quick search loads.
ABOVE = 4
# Rows of the scratch `lists`: the models that a search considers, the most accurate of each task first; the same, fewest
# children first; where tasks begin in both; per model, whether it may be loaded (others may only be kept).
RANKED, CHEAP, BEGIN, LOADED, LISTS = 0, 1, 2, 3, 4

# Plans that are best for a demand where nothing has to be loaded: levels [L] of demand [1/s], shares [R] of it that are
# expected, plans [L, R, M] servers per model, and lists [LISTS, max(M, T + 1)]: scratch.
Library = tuple[Floats, Floats, Floats, Ints]


@inlined
def best_goal(
    counts: Floats, source: int, state: Floats, rate: Floats, meanwhile: Floats, net: Net, servers: int, target: Floats,
    limit: float, lists: Ints, size: int, work: Floats,
) -> tuple[int, float]:  # fmt: skip
    """Where a server that has left model `source` (-1: an unused one) serves best: a model, -1 for nowhere, or NOWHERE if
    no place costs less than `limit`. rate, meanwhile [2, M]: once models are loaded, and while they load."""
    goal, found = NOWHERE, limit
    loading = loading_cost(counts, state, meanwhile, net, target, held_back(counts, state, net), work)
    for place in range(-1, size):
        model = lists[RANKED, place] if place >= 0 else -1
        if model == source or (model >= 0 and rate[0, model] == 0.0):
            continue
        if model >= 0 and lists[LOADED, model] == 0 and counts[model] >= state[0, model] + state[2, model]:
            continue
        spent = loading
        if model >= 0:
            counts[model] += 1.0
            if net[10] or counts[model] - 1.0 < state[0, model] + state[1, model]:  # else it serves only once it is loaded
                spent = loading_cost(counts, state, meanwhile, net, target, held_back(counts, state, net), work)
        spent += holding_cost(counts, state, servers, target[2])
        if spent < found:
            value = serving_cost(counts, rate, net, target, spent, found, work)
            if value < found:
                goal, found = model, value
        if model >= 0:
            counts[model] -= 1.0
    return goal, found


@lean
def descend(
    counts: Floats,
    state: Floats,
    rates: Floats,
    net: Net,
    servers: int,
    target: Floats,
    lists: Ints,
    size: int,
    work: Floats,
) -> tuple[float, int]:
    """Cost and split of a local optimum near `counts`, which is changed in place: the best move of one model's servers as
    soon as there is one, the splits held meanwhile and chosen anew where no move is left."""
    value, split, loading = best_splits(counts, state, rates, net, servers, target, work)
    idle, turn = 0, -1
    while True:
        source, goal = lists[RANKED, turn] if turn >= 0 else -1, NOWHERE
        if counts[source] >= 1.0 if source >= 0 else used(counts) < servers:
            if source >= 0:
                counts[source] -= 1.0
            goal, found = best_goal(
                counts, source, state, rates[split], rates[loading], net, servers, target, value - BETTER, lists, size, work
            )
            if goal >= 0:
                counts[goal] += 1.0
            elif goal == NOWHERE and source >= 0:
                counts[source] += 1.0
        if goal != NOWHERE:
            value, idle = found, 0
            continue
        idle, turn = idle + 1, turn + 1 if turn + 1 < size else -1
        if idle > size:
            found, new_split, new_loading = best_splits(counts, state, rates, net, servers, target, work)
            if found >= value - BETTER:
                return value, split
            value, split, loading, idle = found, new_split, new_loading, 0


@inlined
def used(counts: Floats) -> float:
    total = 0.0
    for model in range(len(counts)):
        total += counts[model]
    return total


@inlined
def consider(state: Floats, plans: Floats, low: int, high: int, net: Net, lists: Ints) -> int:
    """Fill the lists: the models of the library's levels [low, high) may be loaded, and those that the cluster has be kept.
    Returns how many there are."""
    first, size = net[1], 0
    for model in range(state.shape[1]):
        lists[LOADED, model] = 0
        for level in range(low, high):
            for share in range(plans.shape[1]):
                lists[LOADED, model] |= int(plans[level, share, model] > 0.0)
    for task in range(len(first) - 1):
        lists[BEGIN, task] = size
        place = size
        for position in range(first[task], first[task + 1]):
            size += put(net[4][position], state, lists, RANKED, size)
            place += put(net[5][position], state, lists, CHEAP, place)
    lists[BEGIN, len(first) - 1] = size
    return size


@inlined
def put(model: int, state: Floats, lists: Ints, row: int, size: int) -> int:
    """1, and the model at this place of a list, if it may be loaded or kept; else 0."""
    if lists[LOADED, model] == 0 and state[0, model] + state[2, model] <= 0.0:
        return 0
    lists[row, size] = model
    return 1


@inlined
def move(counts: Floats, source: int, goal: int) -> None:
    """One server from a model to another, -1 standing for unused."""
    if source >= 0:
        counts[source] -= 1.0
    if goal >= 0:
        counts[goal] += 1.0


@lean
def search(
    state: Floats, target: Floats, servers: int, rates: Floats, full: Net, library: Library, reach: int, work: Floats,
    counts: Floats,
) -> tuple[float, int]:  # fmt: skip
    """Least cost found, and its split; counts [M] gets the servers.

    reach 0: a local optimum near what runs, loading only models that the library has for the target or somewhat more; near
    the library's plan, where that costs less as it is. Else the best of those near what runs and near the library's plans up
    to `reach` levels below the target, and then of those behind every single move (iterated local search, Lourenco et al.
    2003).
    """
    levels, expected, plans, lists = library
    models, shares = len(counts), plans.shape[1]
    high = min(np.searchsorted(levels, target[0]), len(levels) - 1)
    low, end = (0, len(levels)) if reach else (high, min(high + ABOVE, len(levels)))
    size = consider(state, plans, low, end, full, lists)
    active = lists[RANKED]
    net = (*full[:4], active, lists[CHEAP], *full[6:11], lists[BEGIN])
    for model in range(models):
        counts[model] = state[0, model] + state[2, model]
    value, split = descend(counts, state, rates, net, servers, target, lists, size, work)
    trial = work[TRIAL, :models]
    if reach == 0:
        fresh = plans[high, min(np.searchsorted(expected, target[1] / target[0] - NEAR), shares - 1)]
        if best_splits(fresh, state, rates, net, servers, target, work)[0] < value:
            for model in range(models):
                counts[model] = fresh[model]
            value, split = descend(counts, state, rates, net, servers, target, lists, size, work)
        return value, split
    high = min(high + 1, len(levels) - 1)
    starts, start, since = (min(reach, high) + 1) * shares, 0, 0
    kicks = (size + 1) * (size + 1)
    while since < kicks:
        if start < starts:
            for model in range(models):
                trial[model] = plans[high - start // shares, start % shares, model]
            start += 1
        else:
            source, goal = (start - starts) % kicks // (size + 1), (start - starts) % (size + 1)
            start, since = start + 1, since + 1
            for model in range(models):
                trial[model] = counts[model]
            if source == goal or (trial[active[source]] < 1.0 if source < size else used(trial) >= servers):
                continue
            move(trial, active[source] if source < size else -1, active[goal] if goal < size else -1)
        found, p = descend(trial, state, rates, net, servers, target, lists, size, work)
        if found < value - BETTER:
            value, split, since = found, p, 0
            for model in range(models):
                counts[model] = trial[model]
    return value, split
