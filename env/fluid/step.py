"""One decision of a batch of clusters: action to plan, interval of the twin, cost, observation and mask, compiled."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from loki_rl.control.allocator.switching import LONGEST_SHARE, SERVERS, VIOLATION
from loki_rl.control.compiled import inlined, lean, unlocked
from loki_rl.control.fast.local_search import Library
from loki_rl.control.fast.model_arrays import Floats, Ints, Net
from loki_rl.control.fast.objective_kernels import CHANCE, FLOW, ROOM, TO, Question, Scratch, capacity, spread
from loki_rl.control.fast.table_kernels import Memo, answer
from loki_rl.control.learned.observation import NO_ADJUSTMENT, StateFigures, fill_mask, fill_slices, fill_state
from loki_rl.env.fluid.dynamics import LOSS, LOST, USED, Rules, advance
from loki_rl.env.fluid.swaps import Clusters, adopt, held, longest, one, settle
from loki_rl.env.fluid.windows import Windows

Plain = tuple[Any, ...]


class World(NamedTuple):
    """What the clusters of one thread are planned and played with. rates, physical, net: of a Fleet; library, memo, deep:
    of the table; most_rps, servers: of the whole cluster; interval_s [s]; base_cost [W, K + 1]: what the base pays."""

    rates: Floats
    physical: Floats
    net: Net
    library: Library
    memo: Memo
    clusters: Clusters
    windows: Windows
    rules: Rules
    deep: bool
    most_rps: float
    servers: int
    interval_s: float
    base_cost: Floats


class Episodes(NamedTuple):
    """Of every cluster [E, ...]: its window, its next decision k, the last action, and what came of it. rewards: cost of the
    base less its own; first_cost: of the interval before the first decision."""

    window: Ints
    k: Ints
    last: Ints
    figures: Floats
    rewards: Floats
    first_cost: Floats
    observations: NDArray[np.float32]
    masks: NDArray[np.int8]


@lean
def plan_and_play(e: int, action: int, world: World, episodes: Episodes, room: Scratch) -> None:
    """The next decision of cluster e, then its interval. The first one makes a plan whose models are warm at once."""
    net, windows, window, k = world.net, world.windows, episodes.window[e], episodes.k[e]
    c, counts, slices, expected = one(world.clusters, e), room.counts, room.slices, windows.expected[window, k]
    fill_slices(slices, windows.to_rps[window, k], windows.chance[window, k], expected, action)
    # Of the planning horizon passes while models load (control/allocator/switching.py):
    share = 0.0 if k == 0 else min(LONGEST_SHARE, longest(c.load_s) / windows.horizon_s[window, k])
    held(c, room.state)
    asked = Question(
        slices[TO], slices[CHANCE], windows.mean[window, k], share, len(c.model), room.state, world.rates, net
    )  # fmt: skip
    p = answer(world.memo, asked, world.library, world.deep or k == 0, room)
    world.clusters.split[e] = p
    most = capacity(counts, world.rates[p], net, expected, room.work)
    spread(net, min(expected, most), room.work)
    for place in range(len(counts)):
        if counts[place] > 0.0 or k == 0:  # who is to leave goes on as the former plan meant it
            c.tokens[place] = room.work[FLOW, place]
    adopt(counts, c, net, world.interval_s)
    if k == 0:
        settle(c)
    size = round(world.interval_s / world.rules.tick_s)
    advance(
        windows.ticks[window], k * size, (k + 1) * size, c, world.physical[p], world.rules, net, room, episodes.figures[e]
    )


@lean
def cost_of(e: int, world: World, episodes: Episodes) -> float:
    """Cost J of the last interval (docs/glossary.md), relative to the window's mean arrivals per interval."""
    figures = episodes.figures[e]
    lost = (VIOLATION * figures[LOST] + figures[LOSS]) / world.windows.reference[episodes.window[e]]
    return float(lost + SERVERS * figures[USED] / world.clusters.servers[e])


@lean
def observe(e: int, world: World, episodes: Episodes, room: Scratch) -> None:
    """Observation and mask before the next decision."""
    windows, window, k, out = world.windows, episodes.window[e], episodes.k[e], episodes.observations[e]
    c, counts, coming, net = one(world.clusters, e), room.counts, room.state[0], world.net
    expected, rate, servers = windows.expected[window, k], world.rates[world.clusters.split[e]], len(c.model)
    exogenous = windows.exogenous[window, k]
    for place in range(len(exogenous)):
        out[place] = exogenous[place]
    for place in range(len(counts)):
        counts[place], coming[place] = 0.0, 0.0
    used, loading, last_s = 0.0, 0.0, 0.0
    for server in range(servers):
        serves = c.serves[server]
        if c.left[server] > 0.0:
            loading += 1.0
            last_s = max(last_s, c.left[server])
            coming[c.model[server]] += 1.0
        elif serves >= 0:
            coming[serves] += 1.0
        if serves >= 0:
            counts[serves] += 1.0
        used += serves >= 0 or c.left[server] > 0.0
    ready = capacity(counts, rate, net, expected, room.work)
    wait = 0.0
    for task in range(len(c.queue)):
        wait = max(wait, c.queue[task] / max(room.work[ROOM, task], 1e-6))
    planned = capacity(coming, rate, net, expected, room.work)
    figures = StateFigures(
        ready, planned, loading, last_s, longest(c.load_s), wait, used, episodes.last[e], servers, windows.lag_s[window]
    )
    fill_state(out, figures, expected, world.most_rps, world.servers)
    top, most_rps = windows.to_rps[window, k, -1], world.most_rps * servers / world.servers
    fill_mask(episodes.masks[e], expected, top, windows.floor[window, k], most_rps)


def unnamed(record: tuple[Any, ...]) -> Plain:
    """The record and those in it as plain tuples: what Python calls takes these, since numba looks 10 us at the records, and
    2 at the same without names."""
    return tuple(unnamed(field) if isinstance(field, tuple) else field for field in record)


@inlined
def named(world: Plain, episodes: Plain, room: Plain) -> tuple[World, Episodes, Scratch]:
    rates, physical, net, library, memo, clusters, windows, rules, deep, most, servers, interval, cost = world
    all_of = World(
        rates, physical, Net(*net), Library(*library), Memo(*memo), Clusters(*clusters), Windows(*windows), Rules(*rules),
        deep, most, servers, interval, cost,
    )  # fmt: skip
    return all_of, Episodes(*episodes), Scratch(*room)


@unlocked
def step_all(first: int, end: int, actions: Ints, shared: Plain, of_all: Plain, own: Plain) -> None:
    """Clusters first to end - 1: decide, play, count, observe. shared, of_all, own: a World, Episodes and Scratch `unnamed`.
    Of what is passed, only rows of these clusters, the memo and the scratch are written to."""
    world, episodes, room = named(shared, of_all, own)
    for e in range(first, end):
        move(e, actions[e], world, episodes, room)
        observe(e, world, episodes, room)


@lean
def move(e: int, action: int, world: World, episodes: Episodes, room: Scratch) -> None:
    """One decision of cluster e and what it is worth."""
    plan_and_play(e, action, world, episodes, room)
    episodes.rewards[e] = world.base_cost[episodes.window[e], episodes.k[e]] - cost_of(e, world, episodes)
    episodes.k[e] += 1
    episodes.last[e] = action


@unlocked
def hold_all(
    first: int, end: int, actions: Ints, decisions: int, totals: Floats, shared: Plain, of_all: Plain, own: Plain
) -> None:
    """As `step_all` for so many decisions or until the episode is over, with the action wherever it is legal and none where
    it is not. totals [E, 2] gets the cost J and the requests lost, summed over the decisions."""
    world, episodes, room = named(shared, of_all, own)
    for e in range(first, end):
        totals[e, 0], totals[e, 1] = 0.0, 0.0
        for _ in range(min(decisions, world.base_cost.shape[1] - episodes.k[e])):
            move(e, actions[e] if episodes.masks[e, actions[e]] else NO_ADJUSTMENT, world, episodes, room)
            observe(e, world, episodes, room)
            totals[e, 0] += cost_of(e, world, episodes)
            totals[e, 1] += episodes.figures[e, LOST] / world.windows.reference[episodes.window[e]]


@unlocked
def start_all(which: Ints, shared: Plain, of_all: Plain, own: Plain) -> None:
    """Clusters `which`, at k = 0: the base's first plan, warm, and its interval."""
    world, episodes, room = named(shared, of_all, own)
    for e in which:
        plan_and_play(e, NO_ADJUSTMENT, world, episodes, room)
        episodes.first_cost[e] = cost_of(e, world, episodes)
        episodes.k[e] = 1
        observe(e, world, episodes, room)
