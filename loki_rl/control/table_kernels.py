"""Memoised answers of the training allocator: from the state of the servers and a target to servers per model. Owns the
rounding of targets, the hash table and the starting points of a search; knows no names."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from loki_rl.control.compiled import compiled
from loki_rl.control.fleet import Floats, Ints, Net
from loki_rl.control.fleet_kernels import BETTER, best_split, descend, slide

# A quick search rounds demand up by less than 4 %, so that questions recur, a deep one by less than 0.2 %; the mean to parts
# of the demand, the loading share to fortieths, the credit of loads to quarters.
QUICK_STEP, DEEP_STEP = 0.04, 0.002
QUICK_PARTS, DEEP_PARTS = 20.0, 200.0
SHARE_STEPS = 40.0
CREDIT_STEPS = 4.0
LOWEST_RPS = 0.05
STARTS = 4

# keys [C], answers [C, M + 1] (servers per model, then the split): an open-addressed hash table.
Memo = tuple[NDArray[np.uint64], NDArray[np.int16], Ints]


def new_memo(capacity: int, models: int) -> Memo:
    """An empty table for at most `capacity` answers (a power of two); the last part counts the answers and the misses."""
    return np.zeros(capacity, np.uint64), np.zeros((capacity, models + 1), np.int16), np.zeros(2, np.int64)


@compiled
def rounded(target: Floats, deep: bool, out: Floats) -> None:
    """The target that is really solved, so that equal keys mean equal questions."""
    size, parts = (DEEP_STEP, DEEP_PARTS) if deep else (QUICK_STEP, QUICK_PARTS)
    step = np.ceil(np.log(max(target[0], LOWEST_RPS) / LOWEST_RPS) / np.log(1.0 + size) - 1e-9)
    out[0] = LOWEST_RPS * (1.0 + size) ** step
    out[1] = out[0] * max(1.0, np.round(min(1.0, target[1] / out[0]) * parts)) / parts
    out[2] = np.round(target[2] * SHARE_STEPS) / SHARE_STEPS


@compiled
def mixed(key: np.uint64, value: int) -> np.uint64:
    """One more number into a hash (splitmix64's finisher)."""
    key = np.uint64(key + np.uint64(value) + np.uint64(0x9E3779B97F4A7C15))
    key = np.uint64((key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9))
    key = np.uint64((key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB))
    return np.uint64(key ^ (key >> np.uint64(31)))


@compiled
def hashed(state: Floats, target: Floats, servers: int, deep: bool) -> np.uint64:
    key = mixed(np.uint64(servers * 2 + deep), int(np.round(np.log(target[0]) * 2000.0)) + 100_000)
    key = mixed(key, int(np.round(target[1] / target[0] * DEEP_PARTS)))
    key = mixed(key, int(np.round(target[2] * SHARE_STEPS)))
    for model in range(state.shape[1]):
        key = mixed(key, int(state[0, model]) + 1000 * int(state[2, model]))
        key = mixed(key, int(np.round(state[1, model] * CREDIT_STEPS)))
    return key if key != np.uint64(0) else np.uint64(1)


@compiled
def search(
    state: Floats,
    target: Floats,
    servers: int,
    rates: Floats,
    net: Net,
    levels: Floats,
    ladder: Floats,
    deep: bool,
    work: Floats,
    counts: Floats,
) -> tuple[float, int]:
    """Least cost found from what runs and from the ladder's plans around the target; counts [M] gets the servers.

    Quick: from what runs and from the best of the ladder's plans. deep: from all of them, then exhaustively from the best.
    """
    high = min(np.searchsorted(levels, target[0]), len(levels) - 1)
    mean = min(np.searchsorted(levels, target[1]), len(levels) - 1)
    trials, values = np.empty((STARTS, state.shape[1])), np.empty(STARTS)
    trials[0] = state[0] + state[2]
    trials[1], trials[2], trials[3] = ladder[high], ladder[max(0, high - 1)], ladder[mean]
    for start in range(STARTS):
        values[start] = best_split(trials[start], state, rates, net, servers, target, work)[0]
    if not deep:
        kept = 1 + int(np.argmin(values[1:]))
        for start in range(1, STARTS):
            values[start] = np.inf if start != kept else values[start]
    value, split = np.inf, 0
    for start in range(STARTS):
        if start > 0 and values[start] == np.inf:
            continue
        found, p = slide(trials[start], state, rates, net, servers, target, work)
        if start == 0 or found < value - BETTER:
            value, split = found, p
            counts[:] = trials[start]
    if deep:
        value, split = descend(counts, state, rates, net, servers, target, work)
    return value, split


@compiled
def answer(
    memo: Memo,
    state: Floats,
    target: Floats,
    servers: int,
    rates: Floats,
    net: Net,
    levels: Floats,
    ladder: Floats,
    deep: bool,
    work: Floats,
    counts: Floats,
) -> int:
    """Servers per model for a state and a target, from the memo or by search; returns the split of the latency budget.

    state: as in `cost`; its credit is rounded in place. The memo starts anew when it is three quarters full.
    """
    keys, answers, used = memo
    asked = np.empty(3)
    rounded(target, deep, asked)
    for model in range(state.shape[1]):
        state[1, model] = np.round(state[1, model] * CREDIT_STEPS) / CREDIT_STEPS
    key = hashed(state, asked, servers, deep)
    mask = np.uint64(len(keys) - 1)
    place = key & mask
    while keys[place] != np.uint64(0):
        if keys[place] == key:
            for model in range(len(counts)):
                counts[model] = answers[place, model]
            return int(answers[place, len(counts)])
        place = (place + np.uint64(1)) & mask
    _, split = search(state, asked, servers, rates, net, levels, ladder, deep, work, counts)
    if 4 * used[0] >= 3 * len(keys):
        keys[:] = np.uint64(0)
        used[0] = 0
        place = key & mask
    keys[place] = key
    for model in range(len(counts)):
        answers[place, model] = np.int16(counts[model])
    answers[place, len(counts)] = np.int16(split)
    used[0] += 1
    used[1] += 1
    return split
