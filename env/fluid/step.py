"""One decision of a batch of clusters: action to plan, interval of the twin, cost, observation and mask, as one compiled
loop. Owns the meaning of actions and of the state's features; knows no gymnasium."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from loki_rl.control.allocator.switching import LONGEST_SHARE, SERVERS, VIOLATION
from loki_rl.control.compiled import inlined, lean, unlocked
from loki_rl.control.fast.local_search import Library
from loki_rl.control.fast.model_arrays import Floats, Ints, Net
from loki_rl.control.fast.objective_kernels import FLOW, ROOM, TRIAL, capacity, spread
from loki_rl.control.fast.table_kernels import Memo, answer
from loki_rl.control.learned.observation import LONG_S, MULTIPLIERS, PATIENCES, adjusted, fill_mask
from loki_rl.env.fluid.dynamics import LOSS, LOST, SERVING, USED, adopt, advance, begin_loads, held

# rates, physical, net, library, memo, deep: of control.table
TableArrays = tuple[Floats, Floats, Net, Library, Memo, bool]
# model, left, want, old, queue, tokens, split, servers, load_s, factor: of env.fluid
ClusterArrays = tuple[Ints, Floats, Ints, Ints, Floats, Floats, Ints, Ints, Floats, Floats]
# ticks, high, mean, floor, exogenous, reference, base cost, lag, chance: of windows [W, ...]
WindowArrays = tuple[NDArray[np.float32], Floats, Floats, Floats, Floats, Floats, Floats, Ints, Floats]
# scale and patience of the non-learning base, largest demand, nominal servers, tick [s], interval [s], loss exponent
Settings = tuple[float, float, float, int, float, float, float]


@inlined
def horizon_share(load_s: float, patience: float, interval_s: float) -> float:
    """Share of the planning horizon that passes while models load (control/allocator/switching.py)."""
    return min(LONGEST_SHARE, load_s / (patience * interval_s))


@inlined
def longest(load_s: Floats) -> float:
    found = 0.0
    for place in range(len(load_s)):
        found = max(found, load_s[place])
    return found


@lean
def plan_and_play(
    e: int, window: int, k: int, action: int, table: TableArrays, clusters: ClusterArrays, windows: WindowArrays,
    settings: Settings, waits: Floats, work: Floats, spots: Ints, state: Floats, counts: Floats, figures: Floats,
) -> None:  # fmt: skip
    """Decision k of cluster e, then its interval. k = 0 makes the first plan, whose models are warm at once."""
    rates, physical, net, library, memo, deep = table
    model, left, want, old, queue, tokens, split, servers, load_s, factor = clusters
    ticks, high, mean = windows[0], windows[1], windows[2]
    demand, patience = adjusted(action, high[window, k], settings[0], settings[1])
    share = 0.0 if k == 0 else horizon_share(longest(load_s[e]), patience, settings[5])
    held(model[e], left[e], old[e], servers[e], load_s[e], state)
    target = work[TRIAL, :4]
    target[0], target[1], target[2], target[3] = demand, min(demand, mean[window, k]), share, windows[8][window, k]
    p = answer(memo, state, target, servers[e], rates, net, library, deep or k == 0, work, counts)
    split[e] = p
    most = capacity(counts, rates[p], net, demand, work)
    spread(net, min(demand, most), work)
    for place in range(len(counts)):
        tokens[e, place] = work[FLOW, place]
    adopt(counts, model[e], left[e], want[e], servers[e], spots[SERVING])
    if k == 0:
        begin_loads(model[e], left[e], want[e], old[e], servers[e], load_s[e], False, spots[SERVING])
        for server in range(servers[e]):
            left[e, server] = 0.0
    size = round(settings[5] / settings[4])
    advance(
        ticks[window], k * size, (k + 1) * size, model[e], left[e], want[e], old[e], queue[e], tokens[e], physical[p],
        servers[e], load_s[e], factor[e], waits, net, settings[6], settings[4], work, spots, figures,
    )  # fmt: skip


@lean
def cost_of(figures: Floats, reference: float, servers: int) -> float:
    """Cost J of one interval (docs/glossary.md), relative to the window's mean arrivals per interval."""
    return float((VIOLATION * figures[LOST] + figures[LOSS]) / reference + SERVERS * figures[USED] / servers)


@lean
def observe(
    e: int, window: int, k: int, last: int, table: TableArrays, clusters: ClusterArrays, windows: WindowArrays,
    settings: Settings, work: Floats, state: Floats, counts: Floats, out: NDArray[np.float32], mask: NDArray[np.int8],
) -> None:  # fmt: skip
    """Observation and mask before decision k; last: the action before, -1 at the start."""
    rates, net = table[0], table[2]
    model, left, want, old, queue, _, split, servers, load_s, _ = clusters
    high, exogenous = windows[1][window, k] * settings[0], windows[4][window, k]
    fixed = len(exogenous)
    for place in range(fixed):
        out[place] = exogenous[place]
    rate = rates[split[e]]
    for place in range(len(counts)):
        counts[place], state[0, place] = 0.0, 0.0
    used, loading, last_s = 0.0, 0.0, 0.0
    for server in range(servers[e]):
        resident = model[e, server]
        if left[e, server] > 0.0:
            loading += 1.0
            last_s = max(last_s, left[e, server])
            state[0, resident] += 1.0
            if old[e, server] >= 0:
                counts[old[e, server]] += 1.0
        elif want[e, server] >= 0:
            counts[resident] += 1.0
            state[0, resident] += 1.0
        used += want[e, server] >= 0 or left[e, server] > 0.0
    now = capacity(counts, rate, net, high, work)
    wait = 0.0
    for task in range(queue.shape[1]):
        wait = max(wait, queue[e, task] / max(work[ROOM, task], 1e-6))
    after = capacity(state[0], rate, net, high, work)
    out[fixed] = clipped(np.log(max(now, 1e-3) / high))
    out[fixed + 1] = clipped(np.log(max(after, 1e-3) / high))
    out[fixed + 2] = loading / servers[e]
    out[fixed + 3] = min(1.0, last_s / LONG_S)
    out[fixed + 4] = min(1.0, longest(load_s[e]) / LONG_S)
    out[fixed + 5] = min(1.0, wait)
    out[fixed + 6] = used / servers[e]
    out[fixed + 7] = MULTIPLIERS[last % len(MULTIPLIERS)] - 1.0 if last >= 0 else 0.0
    out[fixed + 8] = PATIENCES[last // len(MULTIPLIERS)] / PATIENCES[1] if last >= 0 else 0.0
    out[fixed + 9] = servers[e] / settings[3]
    out[fixed + 10] = windows[7][window] / 2.0
    out[fixed + 11] = clipped(np.log(settings[2] / high))
    fill_mask(mask, high, windows[3][window, k], settings[2] * servers[e] / settings[3])


@inlined
def clipped(value: float) -> float:
    return min(2.0, max(-2.0, value))


@unlocked
def step_all(
    first: int, end: int, actions: Ints, window: Ints, k: Ints, last: Ints, table: TableArrays, clusters: ClusterArrays,
    windows: WindowArrays, settings: Settings, waits: Floats, work: Floats, spots: Ints, state: Floats, counts: Floats,
    figures: Floats, rewards: Floats, out: NDArray[np.float32], mask: NDArray[np.int8],
) -> None:  # fmt: skip
    """Clusters first to end - 1: decide, play, count, observe. figures [E, FIGURES], rewards [E] = cost of the base - cost.
    Of what is passed, only rows of these clusters and the scratch are written to."""
    for e in range(first, end):
        plan_and_play(
            e, window[e], k[e], actions[e], table, clusters, windows, settings, waits, work, spots, state, counts,
            figures[e],
        )  # fmt: skip
        rewards[e] = windows[6][window[e], k[e]] - cost_of(figures[e], windows[5][window[e]], clusters[7][e])
        k[e] += 1
        last[e] = actions[e]
        observe(e, window[e], k[e], last[e], table, clusters, windows, settings, work, state, counts, out[e], mask[e])


@unlocked
def start_all(
    which: Ints, window: Ints, k: Ints, table: TableArrays, clusters: ClusterArrays, windows: WindowArrays,
    settings: Settings, waits: Floats, work: Floats, spots: Ints, state: Floats, counts: Floats, figures: Floats,
    first_cost: Floats, out: NDArray[np.float32], mask: NDArray[np.int8],
) -> None:  # fmt: skip
    """Clusters `which`: the base's first plan, warm, and its interval; first_cost [E] is what that costs."""
    for e in which:
        plan_and_play(e, window[e], 0, -1, table, clusters, windows, settings, waits, work, spots, state, counts, figures[e])
        first_cost[e] = cost_of(figures[e], windows[5][window[e]], clusters[7][e])
        k[e] = 1
        observe(e, window[e], 1, -1, table, clusters, windows, settings, work, state, counts, out[e], mask[e])
