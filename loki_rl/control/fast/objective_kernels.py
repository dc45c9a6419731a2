"""The allocator's objective for one vector of servers per model, as compiled loops."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from loki_rl.control.allocator.switching import ACCURACY, SERVERS, UNBALANCED, VIOLATION
from loki_rl.control.compiled import inlined, lean
from loki_rl.control.fast.model_arrays import Floats, Ints, Net

TINY = 1e-12
TOO_MANY = 100.0  # price of a server that the cluster does not have, so that a search walks back into it

# Rows of a scratch's `work` and of the state of the servers.
KEPT, ROOM, FLOW, LEFT, ITEMS, VALUES, LIMIT, TRIAL, ROWS = 0, 1, 2, 3, 4, 5, 6, 7, 8
READY, CREDIT, LOADING = 0, 1, 2

# Slices of demand that a question has, and rows of a scratch's `slices`: where each ends and how likely it is to come.
SLICES = 5
TO, CHANCE = 0, 1
# Demand is served the less accurately the more comes. Where the next slice ends so little higher that not more than this
# share of the mean demand counts as if it came, by its chance, its accuracy stands for both.
SLIGHT = 0.01


class Question(NamedTuple):
    """What is asked for one cluster.

    to_rps, chance [S]: slices of the demand that may come, upwards ever less likely; those of no width repeat the one below;
    mean [1/s]: what losses are a share of; share: of the horizon that passes while models load; state [3, M]: servers ready
    now, credit of those that load, and how many load; rates [P, 2, M]: see Fleet.
    """

    to_rps: Floats
    chance: Floats
    mean: float
    share: float
    servers: int
    state: Floats
    rates: Floats
    net: Net


class Scratch(NamedTuple):
    """What the loops of one thread write to. work [rows, max(models, tasks, paths)], lists [rows, max(models, tasks + 1,
    servers)]: rows are named where they are used; state [3, M] and slices [2, S]: of a question; counts [M]: the answer,
    servers per model.
    """

    work: Floats
    lists: Ints
    state: Floats
    slices: Floats
    counts: Floats


def new_scratch(net: Net, servers: int, rows: int, lists: int) -> Scratch:
    """Scratch with so many rows, sized for this net."""
    tasks, models = len(net.entry), len(net.ranked)
    width, wide = max(models, tasks, net.table.shape[1]), max(models, tasks + 1, servers)
    return Scratch(
        np.zeros((rows, width)), np.zeros((lists, wide), np.int64), np.zeros((3, models)), np.zeros((2, SLICES)),
        np.zeros(models),
    )  # fmt: skip


@inlined
def limit(counts: Floats, rate: Floats, net: Net, demand: float, work: Floats) -> None:
    """work[LIMIT] gets the items/s that each model's servers take, what must stay idle beside them taken off.

    Of servers that would serve all of a task's items alone, `busy` busy and `idle` idle ones, idle = r x busy / (busy +
    idle), r = reserve x items that arrive at once (control/formulation/latency.py). demand: requests/s to serve, 0: nothing
    is kept idle. The items of a child task are those of its parents' servers at full use.
    """
    for task in range(len(net.entry)):
        if net.entry[task] > 0.0:
            work[ITEMS, task] = demand * net.entry[task]
            work[LEFT, task] = 1.0
    for task in range(len(net.entry)):
        flow, items = 0.0, work[ITEMS, task]
        often = 4.0 * work[LEFT, task] / items if items > 0.0 else 0.0
        for place in range(net.begin[task], net.begin[task + 1]):
            model = net.ranked[place]
            able = counts[model] * rate[0, model]
            flow += able
            if able > 0.0 and often > 0.0:
                able *= 2.0 / (1.0 + np.sqrt(1.0 + often * rate[0, model] * rate[1, model]))
            work[LIMIT, model] = able
        for place in range(net.below.shape[1]):
            child = net.below[task, place]
            if child >= 0:
                children = 0.0
                for listed in range(net.begin[task], net.begin[task + 1]):
                    model = net.ranked[listed]
                    children += counts[model] * rate[0, model] * net.fanout[model, child]
                made = children / flow if flow > 0.0 else 0.0
                work[ITEMS, child], work[LEFT, child] = items * made, 1.0 + made


@inlined
def take(net: Net, task: int, model: int, amount: float, work: Floats) -> None:
    """Use up what `amount` items of a model need of its child tasks."""
    for place in range(net.below.shape[1]):
        child = net.below[task, place]
        if child >= 0:
            work[LEFT, child] -= amount * net.fanout[model, child]


@inlined
def fitting(net: Net, task: int, model: int, amount: float, work: Floats) -> float:
    """As many of the items of a model as the child tasks have room for."""
    for place in range(net.below.shape[1]):
        child = net.below[task, place]
        if child >= 0 and amount * net.fanout[model, child] > work[LEFT, child]:
            amount = max(work[LEFT, child], 0.0) / net.fanout[model, child]
    return amount


@inlined
def capacity(counts: Floats, rate: Floats, net: Net, demand: float, work: Floats) -> float:
    """Requests/s that `counts` servers per model can serve; work[ROOM] gets the items/s of every task's subtree, work[LIMIT]
    those of every model. rate [2, M]: rated items/s and reserve of one server.

    Variants that make the fewest children are used first, which is optimal while one child task is scarce and a lower
    bound where several are.
    """
    limit(counts, rate, net, demand, work)
    most = np.inf
    for task in range(len(net.entry) - 1, -1, -1):
        total = 0.0
        for place in range(net.below.shape[1]):
            child = net.below[task, place]
            if child >= 0:
                work[LEFT, child] = work[ROOM, child]
        for place in range(net.begin[task], net.begin[task + 1]):
            model = net.cheap[place]
            if work[LIMIT, model] > 0.0:
                flow = fitting(net, task, model, work[LIMIT, model], work)
                take(net, task, model, flow, work)
                total += flow
        work[ROOM, task] = total
        if net.entry[task] > 0.0:
            most = min(most, total / net.entry[task])
    return most


@inlined
def spread(net: Net, demand: float, work: Floats) -> None:
    """work[FLOW] gets the items/s per model of an accurate way to serve `demand` requests/s.

    Needs `capacity` of the same servers before, and a demand within it. Tasks with children start from the cheapest way
    and move to more accurate variants while the children have room.
    """
    for task in range(len(net.entry)):
        work[LEFT, task] = work[ROOM, task]
        work[ITEMS, task] = 0.0
    for task in range(len(net.entry)):
        missing = work[ITEMS, task] + demand * net.entry[task]
        inner = net.below[task, 0] >= 0
        for place in range(net.begin[task], net.begin[task + 1]):
            model = net.cheap[place] if inner else net.ranked[place]
            amount = min(missing, work[LIMIT, model])
            if inner and amount > 0.0:
                amount = fitting(net, task, model, amount, work)
                take(net, task, model, amount, work)
            work[FLOW, model] = amount
            missing -= amount
        if inner:
            upgrade(net, task, work)
            for listed in range(net.begin[task], net.begin[task + 1]):
                model = net.ranked[listed]
                if work[FLOW, model] > 0.0:
                    for place in range(net.below.shape[1]):
                        child = net.below[task, place]
                        if child >= 0:
                            work[ITEMS, child] += work[FLOW, model] * net.fanout[model, child]


@inlined
def upgrade(net: Net, task: int, work: Floats) -> None:
    """Move flow of one task from its least accurate to its most accurate variants while the child tasks have room."""
    for place in range(net.begin[task], net.begin[task + 1]):
        better = net.ranked[place]
        if work[LIMIT, better] <= 0.0:
            continue
        for other in range(net.begin[task + 1] - 1, place, -1):
            worse = net.ranked[other]
            amount = min(work[FLOW, worse], work[LIMIT, better] - work[FLOW, better])
            if amount <= TINY:
                continue
            for child_place in range(net.below.shape[1]):
                child = net.below[task, child_place]
                more = net.fanout[better, child] - net.fanout[worse, child] if child >= 0 else 0.0
                if more > 0.0 and amount * more > work[LEFT, child]:
                    amount = work[LEFT, child] / more
            if amount > TINY:
                take(net, task, better, amount, work)
                take(net, task, worse, -amount, work)
                work[FLOW, better] += amount
                work[FLOW, worse] -= amount


@inlined
def accuracy(flow: Floats, net: Net, values: Floats) -> float:
    """Expected accuracy 0..1 of a flow per model: stages mix independently, as in a cluster that binds late."""
    first, ranked, begin, line, table = net.first, net.ranked, net.begin, net.line, net.table
    total = 0.0
    for leaf in range(len(net.weight)):
        depth, size = 0, 1
        while depth < line.shape[1] and line[leaf, depth] >= 0:
            size *= first[line[leaf, depth] + 1] - first[line[leaf, depth]]
            depth += 1
        for level in range(depth - 1, -1, -1):
            task = line[leaf, level]
            low, high = first[task], first[task + 1]
            above = first[line[leaf, level - 1]] if level > 0 else 0
            wide = first[line[leaf, level - 1] + 1] - above if level > 0 else 1
            most_above = ranked[begin[line[leaf, level - 1]]] - above if level > 0 else 0
            whole = 0.0
            for place in range(begin[task], begin[task + 1]):
                whole += flow[ranked[place]]
            size //= high - low
            column = -1
            for i in range(size):
                column = column + 1 if column + 1 < wide else 0
                if level > 0 and flow[above + column] <= 0.0 and column != most_above:
                    continue  # nothing asks for it, not even in the place of a task without flow
                start = i * (high - low) - low
                mixed = 0.0
                if whole > 0.0:
                    for place in range(begin[task], begin[task + 1]):
                        model = ranked[place]
                        if flow[model] > 0.0:
                            mixed += flow[model] * (
                                table[leaf, start + model] if level == depth - 1 else values[start + model]
                            )
                    mixed /= whole
                else:  # nothing comes here: as the most accurate
                    best = start + ranked[begin[task]]
                    mixed = table[leaf, best] if level == depth - 1 else values[best]
                values[i] = mixed
        total += net.weight[leaf] * values[0]
    return total


@inlined
def likely(asked: Question) -> float:
    """Mean of the demand that may come [1/s]."""
    found, below = 0.0, 0.0
    for i in range(len(asked.to_rps)):
        found += asked.chance[i] * (asked.to_rps[i] - below)
        below = asked.to_rps[i]
    return found


@inlined
def short(served: float, asked: Question) -> float:
    """Demand that is left undone if so much is served [1/s], by how likely it is to come, as a share of the mean demand."""
    missing, below = 0.0, served
    for i in range(len(asked.to_rps)):
        if asked.to_rps[i] > below:
            missing += asked.chance[i] * (asked.to_rps[i] - below)
            below = asked.to_rps[i]
    return float(missing / asked.mean)


@inlined
def loading_cost(counts: Floats, asked: Question, rate: Floats, old: bool, work: Floats) -> float:
    """Cost J of what is not served while models load. old: old models serve until the new ones are warm."""
    if asked.share <= 0.0:
        return 0.0
    for model in range(len(counts)):
        able = asked.state[READY, model] + asked.state[CREDIT, model]
        work[KEPT, model] = able if old else min(counts[model], able)
    kept = capacity(work[KEPT], rate, asked.net, 0.0, work)
    return float(VIOLATION * asked.share * short(kept / UNBALANCED, asked))


@inlined
def serving_cost(counts: Floats, asked: Question, rate: Floats, spent: float, most: float, work: Floats) -> float:
    """`spent`, and cost J of what is not served once models are loaded and of the accuracy of what is: each slice is served
    beside all below it, by the most accurate of the servers that are left."""
    net, last, undone = asked.net, len(asked.to_rps) - 1, (1.0 - asked.share) * VIOLATION + ACCURACY
    top = asked.to_rps[last]
    served = min(top, capacity(counts, rate, net, top, work))
    if served < top:  # of what is served fewer items come than of all, so that more servers stay idle for each
        served = min(served, capacity(counts, rate, net, served, work))
    value, weight = spent + undone * short(served, asked), 0.0
    if value > most or served <= 0.0:
        return float(value)
    for i in range(last + 1):
        reached = i == last or asked.to_rps[i] >= served
        weight += asked.chance[i] if reached else asked.chance[i] - asked.chance[i + 1]
        beyond = asked.to_rps[i] if reached else min(served, asked.to_rps[i + 1]) - asked.to_rps[i]
        if weight * beyond > SLIGHT * asked.mean:
            value += weight * lost_at(min(served, asked.to_rps[i]), counts, undone, rate, net, work) / asked.mean
            weight = 0.0
        if reached or value > most:
            break
    return float(value)


@inlined
def lost_at(demand: float, counts: Floats, undone: float, rate: Floats, net: Net, work: Floats) -> float:
    """Cost J of demand that comes for sure, times that demand, with the servers that stay idle for it taken off: what is
    served inaccurately, and what is `undone` after all."""
    served = min(demand, capacity(counts, rate, net, demand, work))
    spread(net, served, work)
    return undone * (demand - served) + ACCURACY * served * (1.0 - accuracy(work[FLOW], net, work[VALUES]) / net.best)


@inlined
def holding_cost(counts: Floats, asked: Question) -> float:
    """Cost J of the servers that are used, and of those that load."""
    used, loads = 0.0, 0.0
    for model in range(len(counts)):
        used += counts[model]
        loads += max(0.0, counts[model] - asked.state[READY, model] - asked.state[LOADING, model])
    return SERVERS / asked.servers * (used + asked.share * loads) + TOO_MANY * max(0.0, used - asked.servers)


@inlined
def held_back(counts: Floats, asked: Question) -> bool:
    """Whether old models serve until the new ones are warm, and servers enough are used for all of them."""
    held = 0.0
    for model in range(len(counts)):
        held += asked.state[READY, model] + asked.state[CREDIT, model] - counts[model]
    return asked.net.make and held <= 0.0


@lean
def best_splits(counts: Floats, asked: Question, first: int, most: float, work: Floats) -> tuple[float, int, int]:
    """Cost J of `counts`, or `most` where it is not below that: the objective of control/allocator/switching.py with the
    flows above. Also returns the splits of the latency budget that are best once models are loaded, and while they load;
    first: the split that is tried first, so that the others cost less time."""
    old, splits = held_back(counts, asked), len(asked.rates)
    loading, serving, split, while_loading = np.inf, most, first, 0
    for p in range(splits):
        found = loading_cost(counts, asked, asked.rates[p], old, work)
        if found < loading:
            loading, while_loading = found, p
        if loading <= 0.0:
            break
    spent = loading + holding_cost(counts, asked)
    for turn in range(splits):
        p = (first + turn) % splits
        found = serving_cost(counts, asked, asked.rates[p], spent, serving, work) if spent < serving else serving
        if found < serving:
            serving, split = found, p
    return serving, split, while_loading
