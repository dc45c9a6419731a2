"""The allocator's objective for one vector of servers per model, and the local search over such vectors, as compiled loops.
Owns the arithmetic of cost J on a Fleet's arrays; knows no names and keeps no state."""

from __future__ import annotations

import numpy as np

from loki_rl.control.compiled import compiled
from loki_rl.control.fleet import Floats, Net
from loki_rl.control.switching import ACCURACY, SERVERS, UNBALANCED, UNLIKELY, VIOLATION

BETTER = 1e-9
TINY = 1e-12
PAIRS = 8
TOO_MANY = 100.0  # price of a server that the cluster does not have, so that a search walks back into it

# Rows of the scratch array [ROWS, max(models, tasks, paths)].
KEPT, ROOM, FLOW, LEFT, ITEMS, VALUES, LIMIT, ROWS = 0, 1, 2, 3, 4, 5, 6, 7


@compiled
def limit(counts: Floats, rate: Floats, net: Net, idle: float, work: Floats) -> None:
    """work[LIMIT] gets the items/s that each model's servers take, what must stay idle of their pool taken off.

    A pool of N servers keeps N^2 / (N + r) of them busy, where r = reserve x items that arrive at once (control/latency.py:
    idle = r x busy / N). idle: 1, or 0 where nothing is kept idle.
    """
    below, first, entry, fanout, _, _, _, _, _, _, _ = net
    once, limits = work[ITEMS], work[LIMIT]
    for task in range(len(entry)):
        if entry[task] > 0.0:
            once[task] = 1.0
    for task in range(len(entry)):
        pool, reserved, flow = 0.0, 0.0, 0.0
        for model in range(first[task], first[task + 1]):
            pool += counts[model]
            reserved += idle * counts[model] * rate[1, model] * once[task]
            flow += counts[model] * rate[0, model]
        gain = pool / (pool + reserved / pool) if pool > 0.0 else 0.0
        for model in range(first[task], first[task + 1]):
            limits[model] = counts[model] * rate[0, model] * gain
        for child in below[task]:
            if child >= 0:
                children = 0.0
                for model in range(first[task], first[task + 1]):
                    children += counts[model] * rate[0, model] * fanout[model, child]
                once[child] = 1.0 + (children / flow if flow > 0.0 else 0.0)


@compiled
def capacity(counts: Floats, rate: Floats, net: Net, work: Floats, idle: float = 1.0) -> float:
    """Requests/s that `counts` servers per model can serve; work[ROOM] gets the items/s of every task's subtree, work[LIMIT]
    those of every model. rate [2, M]: rated items/s and reserve of one server.

    Variants that make the fewest children are used first, which is optimal while one child task is scarce and a lower
    bound where several are.
    """
    below, first, entry, fanout, _, cheap, _, _, _, _, _ = net
    room, left, limits = work[ROOM], work[LEFT], work[LIMIT]
    limit(counts, rate, net, idle, work)
    most = np.inf
    for task in range(len(entry) - 1, -1, -1):
        total = 0.0
        left[:] = room
        for place in range(first[task], first[task + 1]):
            model = cheap[place]
            if counts[model] <= 0.0:
                continue
            flow = limits[model]
            for child in below[task]:
                if child >= 0 and fanout[model, child] > 0.0:
                    flow = min(flow, left[child] / fanout[model, child])
            for child in below[task]:
                if child >= 0:
                    left[child] -= flow * fanout[model, child]
            total += flow
        room[task] = total
        if entry[task] > 0.0:
            most = min(most, total / entry[task])
    return most


@compiled
def spread(net: Net, demand: float, work: Floats) -> None:
    """work[FLOW] gets the items/s per model of an accurate way to serve `demand` requests/s.

    Needs `capacity` of the same servers before, and a demand within it. Tasks with children start from the cheapest way
    and move to more accurate variants while the children have room.
    """
    below, first, entry, fanout, ranked, cheap, _, _, _, _, _ = net
    items, left, flow, limits = work[ITEMS], work[LEFT], work[FLOW], work[LIMIT]
    left[:] = work[ROOM]
    items[:] = 0.0
    for task in range(len(entry)):
        missing = items[task] + demand * entry[task]
        inner = below[task, 0] >= 0
        for place in range(first[task], first[task + 1]):
            model = cheap[place] if inner else ranked[place]
            amount = min(missing, limits[model])
            for child in below[task]:
                if child >= 0 and fanout[model, child] > 0.0:
                    amount = min(amount, max(left[child], 0.0) / fanout[model, child])
            for child in below[task]:
                if child >= 0:
                    left[child] -= amount * fanout[model, child]
            flow[model] = amount
            missing -= amount
        if inner:
            upgrade(net, task, work)
            for model in range(first[task], first[task + 1]):
                for child in below[task]:
                    if child >= 0:
                        items[child] += flow[model] * fanout[model, child]


@compiled
def upgrade(net: Net, task: int, work: Floats) -> None:
    """Move flow of one task from its least accurate to its most accurate variants while the child tasks have room."""
    below, first, _, fanout, ranked, _, _, _, _, _, _ = net
    left, flow, limits = work[LEFT], work[FLOW], work[LIMIT]
    for place in range(first[task], first[task + 1]):
        better = ranked[place]
        if limits[better] <= 0.0:
            continue
        for other in range(first[task + 1] - 1, place, -1):
            worse = ranked[other]
            amount = min(flow[worse], limits[better] - flow[better])
            for child in below[task]:
                if child >= 0 and fanout[better, child] > fanout[worse, child]:
                    amount = min(amount, left[child] / (fanout[better, child] - fanout[worse, child]))
            if amount <= TINY:
                continue
            for child in below[task]:
                if child >= 0:
                    left[child] -= amount * (fanout[better, child] - fanout[worse, child])
            flow[better] += amount
            flow[worse] -= amount


@compiled
def accuracy(flow: Floats, net: Net, values: Floats) -> float:
    """Expected accuracy 0..1 of a flow per model: stages mix independently, as in a cluster that binds late."""
    _, first, _, _, ranked, _, weight, line, table, _, _ = net
    total = 0.0
    for leaf in range(len(weight)):
        depth, size = 0, 1
        while depth < line.shape[1] and line[leaf, depth] >= 0:
            size *= first[line[leaf, depth] + 1] - first[line[leaf, depth]]
            depth += 1
        values[:size] = table[leaf, :size]
        for level in range(depth - 1, -1, -1):
            low, high = first[line[leaf, level]], first[line[leaf, level] + 1]
            whole = 0.0
            for model in range(low, high):
                whole += flow[model]
            size //= high - low
            for i in range(size):
                mixed = values[i * (high - low) + ranked[low] - low]  # nothing comes here: as the most accurate
                if whole > 0.0:
                    mixed = 0.0
                    for model in range(low, high):
                        if flow[model] > 0.0:
                            mixed += flow[model] / whole * values[i * (high - low) + model - low]
                values[i] = mixed
        total += weight[leaf] * values[0]
    return total


@compiled
def short(served: float, target: Floats) -> float:
    """What a served share of the demand leaves undone: in full up to the expected demand, beyond it by how likely it is to
    come (control/switching.py)."""
    ratio = target[0] / target[1]
    return float((1.0 - UNLIKELY) * (1.0 - min(1.0, served * ratio)) + UNLIKELY * ratio * (1.0 - served))


@compiled
def cost(
    counts: Floats, state: Floats, rate: Floats, net: Net, servers: int, target: Floats, most: float, work: Floats
) -> float:
    """Cost J of `counts` under one split: the objective of control/switching.py with the flows above.

    state [3, M]: servers ready now, credit of those that load, and how many load. target: demand [1/s], expected demand
    [1/s], share of the horizon that passes while models load. Values above `most` may come back too low, but above it.
    """
    best, make = net[9], net[10]
    demand, share = target[0], target[2]
    used, loads, held = 0.0, 0.0, 0.0
    for model in range(len(counts)):
        used += counts[model]
        held += state[0, model] + state[1, model]
        loads += max(0.0, counts[model] - state[0, model] - state[2, model])
    value = SERVERS / servers * (used + share * loads) + TOO_MANY * max(0.0, used - servers)
    if value > most:
        return float(value)
    if share > 0.0:
        for model in range(len(counts)):
            able = state[0, model] + state[1, model]
            work[KEPT, model] = able if make and held <= used else min(counts[model], able)
        kept = capacity(work[KEPT], rate, net, work, 0.0)
        value += VIOLATION * share * short(min(1.0, kept / (demand * UNBALANCED)), target)
        if value > most:
            return float(value)
    able = capacity(counts, rate, net, work)
    served = min(1.0, able / demand)
    value += VIOLATION * (1.0 - share) * short(served, target) + ACCURACY * (1.0 - served)
    if value > most or served <= 0.0:
        return float(value)
    spread(net, min(demand, able), work)
    return float(value + ACCURACY * served * (1.0 - accuracy(work[FLOW], net, work[VALUES]) / best))


@compiled
def best_split(
    counts: Floats, state: Floats, rates: Floats, net: Net, servers: int, target: Floats, work: Floats
) -> tuple[float, int]:
    """Least cost of `counts` over the splits of the latency budget, and that split."""
    value, split = np.inf, 0
    for p in range(len(rates)):
        found = cost(counts, state, rates[p], net, servers, target, value, work)
        if found < value:
            value, split = found, p
    return value, split


@compiled
def sweep(
    counts: Floats,
    state: Floats,
    rate: Floats,
    net: Net,
    servers: int,
    target: Floats,
    limit: float,
    work: Floats,
    values: Floats,
) -> tuple[int, int, float]:
    """The best single move below `limit`: one server leaves model `source` for `goal`, -1 standing for unused. values
    [M + 1, M + 1], unless empty, gets the cost after every move."""
    models = len(counts)
    leaves, joins, chosen = -1, -1, limit
    full = counts.sum() >= servers
    keep = len(values) > 0
    if keep:
        values[:] = np.inf
    for source in range(-1, models):
        if (source < 0 and full) or (source >= 0 and counts[source] < 1.0):
            continue
        if source >= 0:
            counts[source] -= 1.0
        for goal in range(-1, models):
            if goal == source or (goal >= 0 and rate[0, goal] == 0.0):
                continue
            if goal >= 0:
                counts[goal] += 1.0
            found = cost(counts, state, rate, net, servers, target, np.inf if keep else chosen, work)
            if goal >= 0:
                counts[goal] -= 1.0
            if keep:
                values[source + 1, goal + 1] = found
            if found < chosen:
                leaves, joins, chosen = source, goal, found
        if source >= 0:
            counts[source] += 1.0
    return leaves, joins, chosen


@compiled
def move(counts: Floats, source: int, goal: int, sign: float) -> None:
    """Carry out a move, or take it back with sign -1."""
    if source >= 0:
        counts[source] -= sign
    if goal >= 0:
        counts[goal] += sign


@compiled
def look_ahead(
    counts: Floats, state: Floats, rate: Floats, net: Net, servers: int, target: Floats, limit: float, work: Floats
) -> bool:
    """Make the best two moves in a row that cost less than `limit`, the first being one of the PAIRS least bad ones."""
    size = len(counts) + 1
    values = np.empty((size, size))
    sweep(counts, state, rate, net, servers, target, -np.inf, work, values)
    none = np.empty((0, 0))
    best, chosen = np.array([-1, -1, -1, -1]), limit
    for _ in range(PAIRS):
        place = int(np.argmin(values))
        source, goal = place // size - 1, place % size - 1
        if not np.isfinite(values[source + 1, goal + 1]):
            break
        values[source + 1, goal + 1] = np.inf
        move(counts, source, goal, 1.0)
        leaves, joins, found = sweep(counts, state, rate, net, servers, target, chosen, work, none)
        move(counts, source, goal, -1.0)
        if found < chosen:
            chosen = found
            best[0], best[1], best[2], best[3] = source, goal, leaves, joins
    if not chosen < limit:
        return False
    move(counts, best[0], best[1], 1.0)
    move(counts, best[2], best[3], 1.0)
    return True


@compiled
def descend(
    counts: Floats, state: Floats, rates: Floats, net: Net, servers: int, target: Floats, work: Floats
) -> tuple[float, int]:
    """Steepest descent from `counts`, changed in place: the best move of one server, or of two where one does not help."""
    none = np.empty((0, 0))
    value, split = best_split(counts, state, rates, net, servers, target, work)
    while True:
        source, goal, _ = sweep(counts, state, rates[split], net, servers, target, value - BETTER, work, none)
        if source >= 0 or goal >= 0:
            move(counts, source, goal, 1.0)
        elif not look_ahead(counts, state, rates[split], net, servers, target, value - BETTER, work):
            return value, split
        value, split = best_split(counts, state, rates, net, servers, target, work)


@compiled
def slide(
    counts: Floats, state: Floats, rates: Floats, net: Net, servers: int, target: Floats, work: Floats
) -> tuple[float, int]:
    """Descent from `counts`, changed in place, that takes the best move of one model's servers as soon as there is one: many
    times faster than `descend`, and a little worse."""
    models = len(counts)
    value, split = best_split(counts, state, rates, net, servers, target, work)
    total, idle, source = counts.sum(), 0, -1
    while idle <= models:
        found, goal = value - BETTER, -2
        if (source < 0 and total < servers) or (source >= 0 and counts[source] >= 1.0):
            move(counts, source, -1, 1.0)
            for place in range(-1, models):
                if place == source or (place >= 0 and rates[split, 0, place] == 0.0):
                    continue
                move(counts, -1, place, 1.0)
                after = cost(counts, state, rates[split], net, servers, target, found, work)
                move(counts, -1, place, -1.0)
                if after < found:
                    found, goal = after, place
            move(counts, source, -1, -1.0)
        if goal > -2:
            move(counts, source, goal, 1.0)
            total = counts.sum()
            value, split = best_split(counts, state, rates, net, servers, target, work)
            idle = 0
        else:
            idle += 1
            source = source + 1 if source + 1 < models else -1
    return value, split
