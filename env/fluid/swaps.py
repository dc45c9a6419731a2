"""What the servers of fluid clusters hold, and how they get from one plan to the next, as compiled loops."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from loki_rl.control.compiled import inlined, lean
from loki_rl.control.fast.model_arrays import Fleet, Floats, Ints, Net
from loki_rl.control.fast.objective_kernels import CREDIT, LOADING, READY
from loki_rl.core.servers.rollout import HOLD_S


class Clusters(NamedTuple):
    """E clusters of at most S servers, or the row of one of them (`one`), with the servers that it has. Models are positions
    in a Fleet, -1 is none.

    model [E, S]: resident, or loading while left > 0; left [E, S]: time until it is warm [s]; want [E, S]: what the plan
    wants, -1 = parked; serves [E, S]: what it serves now; hold [E, S]: for how long it still serves what the plan no longer
    wants of it [s]; queue [E, T]: items; tokens [E, M]: flow that the plan means for variants [items/s], and allows them
    while the children of their task are behind; split [E]: of the latency budget; servers [E]; load_s [E, M]; factor [E]:
    real over profiled service rate.
    """

    model: Ints
    left: Floats
    want: Ints
    serves: Ints
    hold: Floats
    queue: Floats
    tokens: Floats
    split: Ints
    servers: Ints
    load_s: Floats
    factor: Floats


def new_clusters(fleet: Fleet, number: int, servers: int) -> Clusters:
    """Empty clusters of `servers` servers each."""
    nothing = np.full((3, number, servers), -1, np.int64)
    return Clusters(
        model=nothing[0],
        left=np.zeros((number, servers)),
        want=nothing[1],
        serves=nothing[2],
        hold=np.zeros((number, servers)),
        queue=np.zeros((number, len(fleet.net.entry))),
        tokens=np.full((number, fleet.models), np.inf),
        split=np.zeros(number, np.int64),
        servers=np.full(number, servers, np.int64),
        load_s=np.tile(fleet.load_s, (number, 1)),
        factor=np.ones(number),
    )


@inlined
def one(c: Clusters, e: int) -> Clusters:
    there = c.servers[e]
    return Clusters(
        c.model[e, :there], c.left[e, :there], c.want[e, :there], c.serves[e, :there], c.hold[e, :there], c.queue[e],
        c.tokens[e], c.split[e], there, c.load_s[e], c.factor[e],
    )  # fmt: skip


@inlined
def longest(load_s: Floats) -> float:
    found = 0.0
    for place in range(len(load_s)):
        found = max(found, load_s[place])
    return found


@lean
def held(c: Clusters, state: Floats) -> None:
    """Fill state [3, M] with servers ready, credit and number of those that load, as the allocator counts them."""
    state[:] = 0.0
    for server in range(len(c.model)):
        resident = c.model[server]
        if resident < 0:
            continue
        if c.left[server] > 0.0:
            state[LOADING, resident] += 1.0
            state[CREDIT, resident] += 1.0 - c.left[server] / max(c.load_s[resident], c.left[server], 1e-9)
            if c.serves[server] >= 0:
                state[READY, c.serves[server]] += 1.0
        else:
            state[READY, resident] += 1.0


@lean
def adopt(counts: Floats, c: Clusters, net: Net, interval_s: float) -> None:
    """Give servers their targets with the fewest loads (core/servers/transition.py): those that serve a model, keep it warm
    or load it come first, then parked ones, those of the same task, and any, a load in flight last. Who should stop serving
    may go once plans have wanted that for a while (core/servers/rollout.py). counts is used up."""
    servers = len(c.model)
    for server in range(servers):
        c.want[server] = -1
    for kind in range(3):
        for server in range(servers):
            resident = c.model[server]
            if c.want[server] >= 0 or resident < 0 or counts[resident] < 1.0:
                continue
            if kind == (2 if c.left[server] > 0.0 else 0 if c.serves[server] >= 0 else 1):
                c.want[server] = resident
                counts[resident] -= 1.0
    for task in range(len(net.first) - 1):
        for target in range(net.first[task], net.first[task + 1]):
            while counts[target] >= 1.0:
                chosen = loader(c, net.first[task], net.first[task + 1])
                if chosen < 0:
                    return
                c.want[chosen] = target
                counts[target] -= 1.0
    slowest_s = longest(c.load_s)
    hold_s = min(HOLD_S, slowest_s) if interval_s < min(HOLD_S, slowest_s) else 0.0
    for server in range(servers):
        leaves = c.serves[server] >= 0 and c.left[server] <= 0.0 and c.want[server] != c.serves[server]
        if not leaves or (net.make and c.want[server] >= 0):
            c.hold[server] = 0.0
        elif c.hold[server] <= 0.0:
            c.hold[server] = hold_s


@inlined
def loader(c: Clusters, first: int, end: int) -> int:
    """The server that should load a model of the task whose models are [first, end); -1 if none is free."""
    chosen, rank = -1, 4
    for server in range(len(c.model)):
        if c.want[server] < 0:
            serves = c.serves[server]
            found = 3 if c.left[server] > 0.0 else 0 if serves < 0 else 1 if first <= serves < end else 2
            if found < rank:
                chosen, rank = server, found
    return chosen


@lean
def settle(c: Clusters) -> None:
    """What the plan wants is warm and serves."""
    for server in range(len(c.model)):
        c.model[server] = c.want[server]
        c.serves[server] = c.want[server]


@lean
def carry_out(c: Clusters, make: bool) -> int:
    """Every server that is not held and warm for something else than it should serve begins to load, serves or parks;
    returns how many load."""
    loads = 0
    for server in range(len(c.model)):
        if c.left[server] > 0.0 or c.hold[server] > 0.0:
            continue
        wanted = c.want[server]
        if wanted < 0 or c.model[server] == wanted:
            c.serves[server] = wanted
        else:
            c.serves[server] = c.serves[server] if make else -1
            c.model[server] = wanted
            c.left[server] = c.load_s[wanted]
            loads += 1
    return loads


@inlined
def pass_time(c: Clusters, seconds: float) -> None:
    """Loads and holds get on by so many seconds."""
    for server in range(len(c.model)):
        if c.hold[server] > 0.0:
            c.hold[server] = c.hold[server] - seconds if c.hold[server] - seconds >= 1e-9 else 0.0
        if c.left[server] > 0.0:
            c.left[server] -= seconds
            if c.left[server] < 1e-9:
                c.left[server], c.serves[server] = 0.0, -1
