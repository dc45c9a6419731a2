"""The fluid twin: queues, drops, loads and swaps of a batch of clusters over ticks of time, as compiled loops. Owns the
dynamics; knows no observation, no reward and no names."""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from loki_rl.control.compiled import compiled
from loki_rl.control.fleet import Fleet, Floats, Ints, Net
from loki_rl.control.fleet_kernels import ITEMS, ROWS, VALUES, accuracy

TICK_S = 0.1
# What a server achieves of its service rate. Against the event twin at loads .8 to 1.3 (traffic) 1.0 fits best.
EFFICIENCY = 1.0
# Share of the SLO that an item may wait in one queue before the early drop takes it, divided by the depth of the tree.
WAIT_SHARE = 0.5
# A request is lost with any of its items, but items of one request are lost together: between 1 (all alike) and fan-out.
LOSS_EXPONENT = 1.5
# A task with children is pressed once a child's queue exceeds this share of the longest one.
PRESSED = 0.5
TOKENS = 1.1

# Columns of the figures that `advance` returns for each cluster.
ARRIVALS, LOST, LOSS, USED, LOADS, OK, ACCURACY, FIGURES = 0, 1, 2, 3, 4, 5, 6, 7


class Clusters(Struct, frozen=True, eq=False):
    """E clusters of at most S servers. Models are positions in a Fleet, -1 is none.

    model [E, S]: resident, or loading while left > 0; left [E, S]: time until it is warm [s]; want [E, S]: what the plan
    wants, -1 = parked; old [E, S]: served meanwhile (swap make); queue [E, T]: items; tokens [E, M]: flow allowed to
    variants of tasks whose children are behind [items/s]; split [E]: of the latency budget; servers [E]; load_s [E, M];
    factor [E]: real over profiled service rate.
    """

    model: Ints
    left: Floats
    want: Ints
    old: Ints
    queue: Floats
    tokens: Floats
    split: Ints
    servers: Ints
    load_s: Floats
    factor: Floats


def new_clusters(fleet: Fleet, number: int, servers: int) -> Clusters:
    """Empty clusters of `servers` servers each."""
    tasks = len(fleet.entry)
    return Clusters(
        model=np.full((number, servers), -1, np.int64),
        left=np.zeros((number, servers)),
        want=np.full((number, servers), -1, np.int64),
        old=np.full((number, servers), -1, np.int64),
        queue=np.zeros((number, tasks)),
        tokens=np.full((number, fleet.models), np.inf),
        split=np.zeros(number, np.int64),
        servers=np.full(number, servers, np.int64),
        load_s=np.tile(fleet.load_s, (number, 1)),
        factor=np.ones(number),
    )


def waits_s(fleet: Fleet) -> Floats:
    """[T] longest wait in the queue of each task [s]."""
    depth = max(len(line) for line in fleet.pipeline.lines)
    return np.full(len(fleet.entry), WAIT_SHARE * fleet.pipeline.slo_s / depth)


def scratch(fleet: Fleet) -> Floats:
    """Room for the loops, sized for this fleet."""
    return np.zeros((ROWS + 2, max(fleet.models, len(fleet.entry), fleet.table.shape[1])))


@compiled
def held(model: Ints, left: Floats, old: Ints, servers: int, load_s: Floats, state: Floats) -> None:
    """Fill state [3, M] with servers ready, credit and number of those that load, as the allocator counts them."""
    state[:] = 0.0
    for server in range(servers):
        resident = model[server]
        if resident < 0:
            continue
        if left[server] > 0.0:
            state[2, resident] += 1.0
            state[1, resident] += 1.0 - left[server] / max(load_s[resident], left[server], 1e-9)
            if old[server] >= 0:
                state[0, old[server]] += 1.0
        else:
            state[0, resident] += 1.0


@compiled
def adopt(counts: Floats, model: Ints, left: Floats, want: Ints, servers: int, serving: Ints) -> None:
    """Give servers their targets with the fewest loads (core/transition.py): those that serve a model, load it, or keep it
    warm come first, then parked ones, then any, a load in flight last. counts is used up."""
    for server in range(servers):
        serving[server] = model[server] if left[server] <= 0.0 and want[server] == model[server] else -1
        want[server] = -1
    for kind in range(3):
        for server in range(servers):
            resident = model[server]
            if want[server] >= 0 or resident < 0 or counts[resident] < 1.0:
                continue
            loading = left[server] > 0.0
            if (kind == 0 and serving[server] == resident) or (kind == 1 and loading) or (kind == 2 and not loading):
                want[server] = resident
                counts[resident] -= 1.0
    for target in range(len(counts)):
        while counts[target] >= 1.0:
            chosen, rank = -1, 4
            for server in range(servers):
                if want[server] < 0:
                    found = 2 * int(left[server] > 0.0) + int(serving[server] >= 0)
                    if found < rank:
                        chosen, rank = server, found
            if chosen < 0:
                return
            want[chosen] = target
            counts[target] -= 1.0


@compiled
def begin_loads(
    model: Ints, left: Floats, want: Ints, old: Ints, servers: int, load_s: Floats, make: bool, serving: Ints
) -> int:
    """Every server that is warm for something else than it should serve begins to load; returns how many."""
    loads = 0
    for server in range(servers):
        if want[server] >= 0 and left[server] <= 0.0 and model[server] != want[server]:
            old[server] = model[server] if make and serving[server] >= 0 else -1
            model[server] = want[server]
            left[server] = load_s[want[server]]
            loads += 1
    return loads


@compiled
def open_models(limits: Floats, waits: Floats, net: Net, active: Ints, starts: Ints, rooms: Floats, longest: Floats) -> None:
    """active [M]: models that serve, the most accurate of each task first; starts [T + 1]: where tasks begin in it; rooms
    [T]: items per tick; longest [T]: items that may wait."""
    first, ranked = net[1], net[4]
    count = 0
    for task in range(len(rooms)):
        starts[task], rooms[task] = count, 0.0
        for place in range(first[task], first[task + 1]):
            if limits[ranked[place]] > 0.0:
                active[count] = ranked[place]
                rooms[task] += limits[ranked[place]]
                count += 1
        longest[task] = rooms[task] * waits[task]
    starts[len(rooms)] = count


@compiled
def play(
    arrivals: Floats,
    limits: Floats,
    waits: Floats,
    net: Net,
    tokens: Floats,
    queue: Floats,
    exponent: float,
    total: Floats,
    items: Floats,
) -> tuple[float, float]:
    """Ticks of constant capacity; arrivals [K] requests per tick, limits [M] and tokens [M] items per tick, waits [T] in
    ticks. Most accurate first. Adds what was served to total [M]; returns requests lost and served in full."""
    below, _, entry, fanout, _, _, _, _, _, _, _ = net
    tasks = len(entry)
    active, starts = np.empty(len(limits), np.int64), np.empty(tasks + 1, np.int64)
    rooms, longest = np.empty(tasks), np.empty(tasks)
    open_models(limits, waits, net, active, starts, rooms, longest)
    lost, served_well = 0.0, 0.0
    for tick in range(len(arrivals)):
        items[:tasks] = 0.0
        kept, passed, dropped_here = 1.0, -1.0, 0.0
        for task in range(tasks):
            offered = queue[task] + items[task] + arrivals[tick] * entry[task]
            inner, pressed = below[task, 0] >= 0, False
            for child in below[task]:
                pressed = pressed or (child >= 0 and queue[child] > PRESSED * longest[child])
            missing = offered
            for place in range(starts[task], starts[task + 1]):
                model = active[place]
                amount = min(missing, min(limits[model], tokens[model]) if pressed else limits[model])
                missing -= amount
                total[model] += amount
                if inner:
                    for child in below[task]:
                        if child >= 0:
                            items[child] += amount * fanout[model, child]
            done = offered - missing
            dropped = max(0.0, missing - longest[task])
            queue[task] = missing - dropped
            if passed < 0.0 and entry[task] > 0.0:  # requests are counted where the first of them enter
                passed, dropped_here = done / entry[task], dropped / entry[task]
            elif dropped > 0.0:
                kept *= (1.0 - dropped / (done + dropped)) ** exponent
        lost += dropped_here + passed * (1.0 - kept)
        served_well += passed * kept
    return lost, served_well


@compiled
def advance(
    arrivals: Floats,
    model: Ints,
    left: Floats,
    want: Ints,
    old: Ints,
    queue: Floats,
    tokens: Floats,
    physical: Floats,
    servers: int,
    load_s: Floats,
    factor: float,
    waits: Floats,
    net: Net,
    exponent: float,
    tick_s: float,
    work: Floats,
    serving: Ints,
    figures: Floats,
) -> None:
    """One cluster over the ticks of an interval; figures [FIGURES] gets what happened (sums, USED a mean)."""
    ticks, tick, make = len(arrivals), 0, net[10]
    models = len(load_s)
    figures[:] = 0.0
    figures[ARRIVALS] = arrivals.sum()
    limits, total = work[ROWS, :models], work[ROWS + 1, :models]
    allowed = TOKENS * tick_s * tokens
    while True:
        figures[LOADS] += begin_loads(model, left, want, old, servers, load_s, make, serving)
        if tick >= ticks:
            break
        length, used = ticks - tick, 0.0
        limits[:] = 0.0
        for server in range(servers):
            if left[server] > 0.0:
                length = min(length, max(1, int(np.ceil(left[server] / tick_s - 1e-9))))
                active = old[server]
            else:
                active = model[server] if want[server] >= 0 else -1
            used += want[server] >= 0 or left[server] > 0.0
            serving[server] = active
            if active >= 0:
                limits[active] += physical[active] * factor * tick_s
        total[:] = 0.0
        lost, well = play(
            arrivals[tick : tick + length], limits, waits / tick_s, net, allowed, queue, exponent, total, work[ITEMS]
        )
        figures[LOST] += lost
        figures[OK] += well
        figures[USED] += used * length / ticks
        quality = accuracy(total, net, work[VALUES])
        figures[ACCURACY] += well * quality
        figures[LOSS] += well * (1.0 - quality / net[9])
        for server in range(servers):
            if left[server] > 0.0:
                left[server] = max(0.0, left[server] - length * tick_s)
                if left[server] < 1e-9:
                    left[server], old[server] = 0.0, -1
        tick += length
