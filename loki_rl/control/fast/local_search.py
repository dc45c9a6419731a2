"""The local search over vectors of servers per model, as compiled loops: moves, their order, where a search starts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from loki_rl.control.compiled import inlined, lean
from loki_rl.control.fast.model_arrays import Floats, Ints, Net
from loki_rl.control.fast.objective_kernels import (
    CREDIT,
    LOADING,
    READY,
    TRIAL,
    Question,
    Scratch,
    best_splits,
    held_back,
    holding_cost,
    likely,
    loading_cost,
    serving_cost,
)

BETTER = 1e-9
NOWHERE = -2

# Levels of the library, from the target's on, whose models a quick search loads.
ABOVE = 4
# Rows of a scratch's `lists`: the models that a search considers, the most accurate of each task first; the same, fewest
# children first; where tasks begin in both; per model, whether it may be loaded (others may only be kept).
RANKED, CHEAP, BEGIN, LOADED, LISTS = 0, 1, 2, 3, 4


class Library(NamedTuple):
    """Plans that are best for a demand where nothing has to be loaded. levels [L]: all that may come [1/s]; shares [R],
    rising: the mean of what may come over that; plans [L, R, M]: servers per model."""

    levels: Floats
    shares: Floats
    plans: Floats


@inlined
def best_goal(
    counts: Floats, source: int, asked: Question, split: int, loading_split: int, limit: float, lists: Ints, size: int,
    work: Floats,
) -> tuple[int, float]:  # fmt: skip
    """Where a server that has left model `source` (-1: an unused one) serves best: a model, -1 for nowhere, or NOWHERE if
    no place costs less than `limit`. split, loading_split: of the latency budget, once models are loaded and while they
    load."""
    goal, found = NOWHERE, limit
    rate, meanwhile, state = asked.rates[split], asked.rates[loading_split], asked.state
    loading = loading_cost(counts, asked, meanwhile, held_back(counts, asked), work)
    for place in range(-1, size):
        model = lists[RANKED, place] if place >= 0 else -1
        if model == source or (model >= 0 and rate[0, model] == 0.0):
            continue
        if model >= 0 and lists[LOADED, model] == 0 and counts[model] >= state[READY, model] + state[LOADING, model]:
            continue
        spent = loading
        if model >= 0:
            counts[model] += 1.0
            # Else it serves only once it is loaded.
            if asked.net.make or counts[model] - 1.0 < state[READY, model] + state[CREDIT, model]:
                spent = loading_cost(counts, asked, meanwhile, held_back(counts, asked), work)
        spent += holding_cost(counts, asked)
        if spent < found:
            value = serving_cost(counts, asked, rate, spent, found, work)
            if value < found:
                goal, found = model, value
        if model >= 0:
            counts[model] -= 1.0
    return goal, found


@lean
def descend(counts: Floats, asked: Question, first: int, lists: Ints, size: int, work: Floats) -> tuple[float, int]:
    """Cost and split of a local optimum near `counts`, which is changed in place: the best move of one model's servers as
    soon as there is one, the splits held meanwhile and chosen anew where no move is left. first: as in `best_splits`."""
    value, split, loading = best_splits(counts, asked, first, np.inf, work)
    idle, turn = 0, -1
    while True:
        source, goal = lists[RANKED, turn] if turn >= 0 else -1, NOWHERE
        if counts[source] >= 1.0 if source >= 0 else used(counts) < asked.servers:
            if source >= 0:
                counts[source] -= 1.0
            goal, found = best_goal(counts, source, asked, split, loading, value - BETTER, lists, size, work)
            if goal >= 0:
                counts[goal] += 1.0
            elif goal == NOWHERE and source >= 0:
                counts[source] += 1.0
        if goal != NOWHERE:
            value, idle = found, 0
            continue
        idle, turn = idle + 1, turn + 1 if turn + 1 < size else -1
        if idle > size:
            found, new_split, new_loading = best_splits(counts, asked, split, value - BETTER, work)
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
    first, size = net.first, 0
    for model in range(state.shape[1]):
        lists[LOADED, model] = 0
        for level in range(low, high):
            for share in range(plans.shape[1]):
                lists[LOADED, model] |= int(plans[level, share, model] > 0.0)
    for task in range(len(first) - 1):
        lists[BEGIN, task] = size
        place = size
        for position in range(first[task], first[task + 1]):
            size += put(net.ranked[position], state, lists, RANKED, size)
            place += put(net.cheap[position], state, lists, CHEAP, place)
    lists[BEGIN, len(first) - 1] = size
    return size


@inlined
def put(model: int, state: Floats, lists: Ints, row: int, size: int) -> int:
    """1, and the model at this place of a list, if it may be loaded or kept; else 0."""
    if lists[LOADED, model] == 0 and state[READY, model] + state[LOADING, model] <= 0.0:
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
def search(asked: Question, library: Library, reach: int, room: Scratch) -> tuple[float, int]:
    """Least cost found, and its split; room.counts gets the servers.

    reach 0: a local optimum near what runs, loading only models that the library has for the demand or somewhat more; near
    the library's plan, where that costs less as it is. Else the best of those near what runs and near the library's plans up
    to `reach` levels below the demand, and then of those behind every single move (iterated local search, Lourenco et al.
    2003).
    """
    plans, lists, work, counts, full = library.plans, room.lists, room.work, room.counts, asked.net
    models, levels, shares = len(counts), len(library.levels), plans.shape[1]
    top = asked.to_rps[len(asked.to_rps) - 1]
    high = min(int(np.searchsorted(library.levels, top)), levels - 1)
    low, end = (0, levels) if reach else (high, min(high + ABOVE, levels))
    size = consider(asked.state, plans, low, end, full, lists)
    active = lists[RANKED]
    net = Net(
        full.below, full.first, full.entry, full.fanout, active, lists[CHEAP], lists[BEGIN], full.weight, full.line,
        full.table, full.best, full.make,
    )  # fmt: skip
    some = Question(
        asked.to_rps, asked.chance, asked.mean, asked.share, asked.servers, asked.state, asked.rates, net
    )  # fmt: skip
    for model in range(models):
        counts[model] = asked.state[READY, model] + asked.state[LOADING, model]
    value, split = descend(counts, some, 0, lists, size, work)
    trial = work[TRIAL, :models]
    if reach == 0:
        fresh = plans[high, min(int(np.searchsorted(library.shares, likely(asked) / top)), shares - 1)]
        found, fresh_split, _ = best_splits(fresh, some, split, value, work)
        if found < value:
            for model in range(models):
                counts[model] = fresh[model]
            value, split = descend(counts, some, fresh_split, lists, size, work)
        return value, split
    high = min(high + 1, levels - 1)
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
            if source == goal or (trial[active[source]] < 1.0 if source < size else used(trial) >= asked.servers):
                continue
            move(trial, active[source] if source < size else -1, active[goal] if goal < size else -1)
        found, p = descend(trial, some, split, lists, size, work)
        if found < value - BETTER:
            value, split, since = found, p, 0
            for model in range(models):
                counts[model] = trial[model]
    return value, split
