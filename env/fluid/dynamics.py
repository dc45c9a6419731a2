"""The fluid twin: queues and drops of clusters over ticks of time, as compiled loops."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from loki_rl.control.compiled import inlined, lean
from loki_rl.control.fast.local_search import LISTS
from loki_rl.control.fast.model_arrays import Fleet, Floats, Ints, Net
from loki_rl.control.fast.objective_kernels import (
    ROWS,
    VALUES,
    Scratch,
    accuracy,
    new_scratch,
)
from loki_rl.env.fluid.swaps import Clusters, carry_out, pass_time

TICK_S = 0.1
# Share of the SLO that an item may wait in one queue before the early drop takes it, divided by the depth of the tree.
WAIT_SHARE = 0.5
# A request is lost with any of its items, but items of one request are lost together: between 1 (all alike) and fan-out.
LOSS_EXPONENT = 1.5
# A task with children is pressed once a child's queue exceeds this share of the longest one.
PRESSED = 0.5
TOKENS = 1.1
# Less flow than this is none [items per tick].
NOTHING = 1e-6
# Models that stand by, which the plan has and means nothing for, take what exceeds this share of what the others can serve:
# chosen so that accuracy is that of the event twin (within .003 for six constant actions on eight test windows of traffic).
BUSY = 0.95

# Rows of a scratch's `work` behind those of the allocator: items served per model, items per tick that a model takes, and
# may take while its children are behind (0: it stands by), items per tick of those models of a task that the plan means and
# of those that stand by, the most that may wait in it, items on their way to it, and items per tick of the models of the
# same task and kind that come before a model.
SERVED, LIMITS, ALLOWED, ROOMS, SPARE, LONGEST, COMING, BEFORE, ALL_ROWS = range(ROWS, ROWS + 9)
# Rows of its `lists` behind those of the search: models that serve, of each task those that the plan means and then those
# that stand by, the most accurate of each kind first; where tasks begin in it, and where those that stand by.
ACTIVE, STARTS, STANDBY, ALL_LISTS = range(LISTS, LISTS + 4)

# Columns of the figures that `advance` returns for each cluster.
ARRIVALS, LOST, LOSS, USED, LOADS, OK, ACCURACY, FIGURES = 0, 1, 2, 3, 4, 5, 6, 7


class Rules(NamedTuple):
    """What holds in every cluster. tick_s [s]; exponent, busy: see LOSS_EXPONENT and BUSY; waits [T]: longest wait in each
    queue [s]."""

    tick_s: float
    exponent: float
    busy: float
    waits: Floats


def new_rules(fleet: Fleet, exponent: float = LOSS_EXPONENT, busy: float = BUSY) -> Rules:
    depth = max(len(line) for line in fleet.pipeline.lines)
    return Rules(TICK_S, exponent, busy, np.full(len(fleet.net.entry), WAIT_SHARE * fleet.pipeline.slo_s / depth))


def scratch(fleet: Fleet, servers: int) -> Scratch:
    """Room for all loops, sized for this fleet."""
    return new_scratch(fleet.net, servers, ALL_ROWS, ALL_LISTS)


@inlined
def open_models(rules: Rules, net: Net, work: Floats, lists: Ints) -> None:
    """Fill ACTIVE, STARTS, STANDBY, BEFORE, ROOMS, SPARE and LONGEST from LIMITS and ALLOWED."""
    count, tasks = 0, len(rules.waits)
    for task in range(tasks):
        lists[STARTS, task] = count
        count = open_kind(True, task, count, net, work, lists)
        lists[STANDBY, task] = count
        count = open_kind(False, task, count, net, work, lists)
        work[LONGEST, task] = (work[ROOMS, task] + work[SPARE, task]) * rules.waits[task] / rules.tick_s
    lists[STARTS, tasks] = count


@inlined
def open_kind(meant: bool, task: int, count: int, net: Net, work: Floats, lists: Ints) -> int:
    """Put the models of a task that serve, and that the plan means or not, behind the `count` that are there."""
    room = 0.0
    for place in range(net.first[task], net.first[task + 1]):
        model = net.ranked[place]
        if work[LIMITS, model] > 0.0 and (work[ALLOWED, model] > NOTHING) == meant:
            lists[ACTIVE, count] = model
            work[BEFORE, model] = room
            room += work[LIMITS, model]
            count += 1
    work[ROOMS if meant else SPARE, task] = room
    return count


@inlined
def hand_on(task: int, model: int, amount: float, net: Net, work: Floats) -> None:
    """Count items that a model served, and send their children on."""
    work[SERVED, model] += amount
    for column in range(net.below.shape[1]):
        child = net.below[task, column]
        if child >= 0:
            work[COMING, child] += amount * net.fanout[model, child]


@inlined
def serve(task: int, offered: float, busy: float, net: Net, work: Floats, lists: Ints) -> float:
    """Items of one task in one tick; returns the rest. No model waits for what another leaves over, and none is skipped, so
    that the processor has neither a chain to follow nor a branch to guess."""
    spare = min(max(0.0, offered - busy * work[ROOMS, task]), work[SPARE, task])
    serve_kind(task, offered - spare, lists[STARTS, task], lists[STANDBY, task], net, work, lists)
    if spare > 0.0:
        serve_kind(task, spare, lists[STANDBY, task], lists[STARTS, task + 1], net, work, lists)
    return float(max(0.0, offered - spare - work[ROOMS, task]))


@inlined
def serve_kind(task: int, offered: float, begin: int, end: int, net: Net, work: Floats, lists: Ints) -> None:
    """Items for the models at [begin, end) of ACTIVE, the most accurate first."""
    for place in range(begin, end):
        model = lists[ACTIVE, place]
        amount = min(max(0.0, offered - work[BEFORE, model]), work[LIMITS, model])
        if net.below[task, 0] >= 0:
            hand_on(task, model, amount, net, work)
        else:
            work[SERVED, model] += amount


@inlined
def serve_pressed(task: int, offered: float, net: Net, work: Floats, lists: Ints) -> float:
    """As `serve`, for a task whose children are behind: models take no more than they are allowed to, and those that stand
    by what that leaves over."""
    for place in range(lists[STARTS, task], lists[STARTS, task + 1]):
        model = lists[ACTIVE, place]
        amount = min(offered, work[LIMITS, model])
        if place < lists[STANDBY, task]:
            amount = min(amount, work[ALLOWED, model])
        offered -= amount
        hand_on(task, model, amount, net, work)
    return offered


@inlined
def behind(task: int, net: Net, queue: Floats, work: Floats) -> bool:
    """Whether a child's queue is long."""
    found = False
    for column in range(net.below.shape[1]):
        child = net.below[task, column]
        found = found or (child >= 0 and queue[child] > PRESSED * work[LONGEST, child])
    return found


@lean
def play(
    ticks: NDArray[np.float32], begin: int, end: int, rules: Rules, net: Net, queue: Floats, work: Floats, lists: Ints,
) -> tuple[float, float]:  # fmt: skip
    """Ticks [begin, end) of constant capacity (LIMITS and ALLOWED, items per tick). ticks: requests per tick. Adds to
    SERVED; returns requests lost and served in full."""
    entry = net.entry
    open_models(rules, net, work, lists)
    for task in range(len(entry)):
        work[COMING, task] = 0.0
    lost, served_well = 0.0, 0.0
    for tick in range(begin, end):
        kept, passed, dropped_here = 1.0, -1.0, 0.0
        for task in range(len(entry)):
            offered = queue[task] + work[COMING, task] + ticks[tick] * entry[task]
            work[COMING, task] = 0.0
            if net.below[task, 0] >= 0 and behind(task, net, queue, work):
                missing = serve_pressed(task, offered, net, work, lists)
            else:
                missing = serve(task, offered, rules.busy, net, work, lists)
            queue[task] = min(missing, work[LONGEST, task])
            done, dropped = offered - missing, missing - queue[task]
            if passed < 0.0 and entry[task] > 0.0:  # requests are counted where the first of them enter
                passed, dropped_here = done / entry[task], dropped / entry[task]
            elif dropped > 0.0:
                kept *= (1.0 - dropped / (done + dropped)) ** rules.exponent
        lost += dropped_here + passed * (1.0 - kept)
        served_well += passed * kept
    return lost, served_well


@inlined
def take_stock(c: Clusters, physical: Floats, tick_s: float, work: Floats) -> tuple[float, int]:
    """Fill LIMITS from the servers as they are; servers used, and ticks until the next of them is loaded or may go."""
    used, wait_s = 0.0, np.inf
    for place in range(len(physical)):
        work[LIMITS, place] = 0.0
    for server in range(len(c.model)):
        if c.left[server] > 0.0:
            wait_s = min(wait_s, c.left[server])
        if c.hold[server] > 0.0:
            wait_s = min(wait_s, c.hold[server])
        active = c.serves[server]
        used += active >= 0 or c.left[server] > 0.0
        if active >= 0:
            work[LIMITS, active] += physical[active] * c.factor * tick_s
    return used, max(1, int(np.ceil(min(wait_s, 1e6) / tick_s - 1e-9)))


@lean
def advance(
    ticks: NDArray[np.float32], begin: int, end: int, c: Clusters, physical: Floats, rules: Rules, net: Net, room: Scratch,
    figures: Floats,
) -> None:  # fmt: skip
    """One cluster over the ticks [begin, end) of an interval; figures [FIGURES] gets what happened (sums, USED a mean)."""
    work, lists, models = room.work, room.lists, len(c.load_s)
    figures[:] = 0.0
    for place in range(models):
        work[ALLOWED, place] = TOKENS * rules.tick_s * c.tokens[place]
    for tick in range(begin, end):
        figures[ARRIVALS] += ticks[tick]
    now = begin
    while True:
        figures[LOADS] += carry_out(c, net.make)
        if now >= end:
            break
        used, length = take_stock(c, physical, rules.tick_s, work)
        length = min(length, end - now)
        for place in range(models):
            work[SERVED, place] = 0.0
        lost, well = play(ticks, now, now + length, rules, net, c.queue, work, lists)
        figures[LOST] += lost
        figures[OK] += well
        figures[USED] += used * length / (end - begin)
        quality = accuracy(work[SERVED], net, work[VALUES])
        figures[ACCURACY] += well * quality
        figures[LOSS] += well * (1.0 - quality / net.best)
        pass_time(c, length * rules.tick_s)
        now += length
