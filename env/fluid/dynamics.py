"""The fluid twin: queues, drops, loads and swaps of a batch of clusters over ticks of time, as compiled loops. Owns the
dynamics; knows no observation, no reward and no names."""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loki_rl.control.compiled import inlined, lean
from loki_rl.control.fast.model_arrays import Fleet, Floats, Ints, Net
from loki_rl.control.fast.objective_kernels import ROWS, VALUES, accuracy

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

# Rows of the scratch array behind those of the allocator (control.fleet_kernels): items served per model, items per tick
# that a model takes, and may take while its children are behind, items per tick of a task, the most that may wait in it,
# items on their way to it, and items per tick of the models of its task that come before a model.
SERVED, LIMITS, ALLOWED, ROOMS, LONGEST, COMING, BEFORE, ALL_ROWS = range(ROWS, ROWS + 8)
# Rows of the integer scratch: models that serve, the most accurate of each task first; where tasks begin in it; what each
# server serves.
ACTIVE, STARTS, SERVING = 0, 1, 2

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


def scratch(fleet: Fleet, servers: int) -> tuple[Floats, Ints]:
    """Room for the loops, sized for this fleet."""
    width = max(fleet.models, len(fleet.entry), fleet.table.shape[1], 4)
    return np.zeros((ALL_ROWS, width)), np.zeros((3, max(fleet.models, len(fleet.entry) + 1, servers)), np.int64)


@lean
def held(model: Ints, left: Floats, old: Ints, servers: int, load_s: Floats, state: Floats) -> None:
    """Fill state [3, M] with servers ready, credit and number of those that load, as the allocator counts them."""
    for place in range(state.shape[1]):
        state[0, place], state[1, place], state[2, place] = 0.0, 0.0, 0.0
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


@lean
def adopt(counts: Floats, model: Ints, left: Floats, want: Ints, servers: int, serving: Ints) -> None:
    """Give servers their targets with the fewest loads (core/servers/transition.py): those that serve a model, load it, or
    keep it warm come first, then parked ones, then any, a load in flight last. counts is used up."""
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


@lean
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


@inlined
def open_models(waits: Floats, tick_s: float, net: Net, work: Floats, spots: Ints) -> None:
    """Fill ACTIVE, STARTS, BEFORE, ROOMS and LONGEST from LIMITS. waits [T]: longest wait in each queue [s]."""
    first, ranked = net[1], net[4]
    count = 0
    for task in range(len(waits)):
        spots[STARTS, task] = count
        work[ROOMS, task] = 0.0
        for place in range(first[task], first[task + 1]):
            model = ranked[place]
            if work[LIMITS, model] > 0.0:
                spots[ACTIVE, count] = model
                work[BEFORE, model] = work[ROOMS, task]
                work[ROOMS, task] += work[LIMITS, model]
                count += 1
        work[LONGEST, task] = work[ROOMS, task] * waits[task] / tick_s
    spots[STARTS, len(waits)] = count


@inlined
def hand_on(task: int, model: int, amount: float, net: Net, work: Floats) -> None:
    """Count items that a model served, and send their children on."""
    below, fanout = net[0], net[3]
    work[SERVED, model] += amount
    for column in range(below.shape[1]):
        child = below[task, column]
        if child >= 0:
            work[COMING, child] += amount * fanout[model, child]


@inlined
def serve(task: int, offered: float, net: Net, work: Floats, spots: Ints) -> float:
    """Items of one task in one tick, most accurate first; returns the rest. No model waits for what another leaves over, and
    none is skipped, so that the processor has neither a chain to follow nor a branch to guess."""
    for place in range(spots[STARTS, task], spots[STARTS, task + 1]):
        model = spots[ACTIVE, place]
        amount = min(max(0.0, offered - work[BEFORE, model]), work[LIMITS, model])
        if net[0][task, 0] >= 0:
            hand_on(task, model, amount, net, work)
        else:
            work[SERVED, model] += amount
    return float(max(0.0, offered - work[ROOMS, task]))


@inlined
def serve_pressed(task: int, offered: float, net: Net, work: Floats, spots: Ints) -> float:
    """As `serve`, for a task whose children are behind: models take no more than they are allowed to."""
    for place in range(spots[STARTS, task], spots[STARTS, task + 1]):
        model = spots[ACTIVE, place]
        amount = min(offered, work[LIMITS, model], work[ALLOWED, model])
        offered -= amount
        hand_on(task, model, amount, net, work)
    return offered


@inlined
def behind(task: int, net: Net, queue: Floats, work: Floats) -> bool:
    """Whether a child's queue is long."""
    below, found = net[0], False
    for column in range(below.shape[1]):
        child = below[task, column]
        found = found or (child >= 0 and queue[child] > PRESSED * work[LONGEST, child])
    return found


@lean
def play(
    ticks: NDArray[np.float32], begin: int, end: int, waits: Floats, tick_s: float, net: Net, queue: Floats,
    exponent: float, work: Floats, spots: Ints,
) -> tuple[float, float]:  # fmt: skip
    """Ticks [begin, end) of constant capacity (LIMITS and ALLOWED, items per tick). ticks: requests per tick. Adds to
    SERVED; returns requests lost and served in full."""
    below, entry = net[0], net[2]
    open_models(waits, tick_s, net, work, spots)
    for task in range(len(entry)):
        work[COMING, task] = 0.0
    lost, served_well = 0.0, 0.0
    for tick in range(begin, end):
        kept, passed, dropped_here = 1.0, -1.0, 0.0
        for task in range(len(entry)):
            offered = queue[task] + work[COMING, task] + ticks[tick] * entry[task]
            work[COMING, task] = 0.0
            if below[task, 0] >= 0 and behind(task, net, queue, work):
                missing = serve_pressed(task, offered, net, work, spots)
            else:
                missing = serve(task, offered, net, work, spots)
            queue[task] = min(missing, work[LONGEST, task])
            done, dropped = offered - missing, missing - queue[task]
            if passed < 0.0 and entry[task] > 0.0:  # requests are counted where the first of them enter
                passed, dropped_here = done / entry[task], dropped / entry[task]
            elif dropped > 0.0:
                kept *= (1.0 - dropped / (done + dropped)) ** exponent
        lost += dropped_here + passed * (1.0 - kept)
        served_well += passed * kept
    return lost, served_well


@inlined
def take_stock(
    model: Ints, left: Floats, want: Ints, old: Ints, servers: int, physical: Floats, factor: float, tick_s: float,
    work: Floats, spots: Ints,
) -> tuple[float, int]:  # fmt: skip
    """Fill LIMITS and SERVING from the servers as they are; servers used, and ticks until the next of them is loaded."""
    used, length = 0.0, 1 << 30
    for place in range(len(physical)):
        work[LIMITS, place] = 0.0
    for server in range(servers):
        if left[server] > 0.0:
            length = min(length, max(1, int(np.ceil(left[server] / tick_s - 1e-9))))
            active = old[server]
        else:
            active = model[server] if want[server] >= 0 else -1
        used += want[server] >= 0 or left[server] > 0.0
        spots[SERVING, server] = active
        if active >= 0:
            work[LIMITS, active] += physical[active] * factor * tick_s
    return used, length


@inlined
def pass_time(left: Floats, old: Ints, servers: int, seconds: float) -> None:
    """Loads get on by so many seconds."""
    for server in range(servers):
        if left[server] > 0.0:
            left[server] = max(0.0, left[server] - seconds)
            if left[server] < 1e-9:
                left[server], old[server] = 0.0, -1


@lean
def advance(
    ticks: NDArray[np.float32], begin: int, end: int, model: Ints, left: Floats, want: Ints, old: Ints, queue: Floats,
    tokens: Floats, physical: Floats, servers: int, load_s: Floats, factor: float, waits: Floats, net: Net,
    exponent: float, tick_s: float, work: Floats, spots: Ints, figures: Floats,
) -> None:  # fmt: skip
    """One cluster over the ticks [begin, end) of an interval; figures [FIGURES] gets what happened (sums, USED a mean)."""
    models = len(load_s)
    for column in range(FIGURES):
        figures[column] = 0.0
    for place in range(models):
        work[ALLOWED, place] = TOKENS * tick_s * tokens[place]
    for tick in range(begin, end):
        figures[ARRIVALS] += ticks[tick]
    now = begin
    while True:
        figures[LOADS] += begin_loads(model, left, want, old, servers, load_s, net[10], spots[SERVING])
        if now >= end:
            break
        used, length = take_stock(model, left, want, old, servers, physical, factor, tick_s, work, spots)
        length = min(length, end - now)
        for place in range(models):
            work[SERVED, place] = 0.0
        lost, well = play(ticks, now, now + length, waits, tick_s, net, queue, exponent, work, spots)
        figures[LOST] += lost
        figures[OK] += well
        figures[USED] += used * length / (end - begin)
        quality = accuracy(work[SERVED], net, work[VALUES])
        figures[ACCURACY] += well * quality
        figures[LOSS] += well * (1.0 - quality / net[9])
        pass_time(left, old, servers, length * tick_s)
        now += length
