"""Memoised answers of the training allocator: from the state of the servers and a target to servers per model. Owns the
rounding of targets and the hash table; knows no names and no search."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from loki_rl.control.compiled import inlined, lean
from loki_rl.control.fast.local_search import Library, search
from loki_rl.control.fast.model_arrays import Floats, Ints, Net
from loki_rl.control.fast.objective_kernels import ASKED

# A quick search rounds demand up by less than 4 %, so that questions recur, a deep one by less than 0.2 %; the mean to parts
# of the demand, the loading share and the chance of what is not expected to fortieths, the credit of loads to quarters.
QUICK_STEP, DEEP_STEP = 0.04, 0.002
QUICK_PARTS, DEEP_PARTS = 20.0, 200.0
SHARE_STEPS = 40.0
CREDIT_STEPS = 4.0
LOWEST_RPS = 0.05
# Levels of the library that a deep search starts from.
DEEP_REACH = 1

# keys [C], answers [C, M + 1] (servers per model, then the split): an open-addressed hash table.
Memo = tuple[NDArray[np.uint64], NDArray[np.int16], Ints]


def new_memo(capacity: int, models: int) -> Memo:
    """An empty table for at most `capacity` answers (a power of two); the last part counts the answers and the misses."""
    return np.zeros(capacity, np.uint64), np.zeros((capacity, models + 1), np.int16), np.zeros(2, np.int64)


@inlined
def rounded(target: Floats, deep: bool, out: Floats) -> None:
    """The target that is really solved, so that equal keys mean equal questions."""
    size, parts = (DEEP_STEP, DEEP_PARTS) if deep else (QUICK_STEP, QUICK_PARTS)
    step = np.ceil(np.log(max(target[0], LOWEST_RPS) / LOWEST_RPS) / np.log(1.0 + size) - 1e-9)
    out[0] = LOWEST_RPS * (1.0 + size) ** step
    out[1] = out[0] * max(1.0, np.round(min(1.0, target[1] / out[0]) * parts)) / parts
    out[2] = np.round(target[2] * SHARE_STEPS) / SHARE_STEPS
    out[3] = np.round(target[3] * SHARE_STEPS) / SHARE_STEPS


@inlined
def mixed(key: np.uint64, value: int) -> np.uint64:
    """One more number into a hash (splitmix64's finisher)."""
    key = np.uint64(key + np.uint64(value) + np.uint64(0x9E3779B97F4A7C15))
    key = np.uint64((key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9))
    key = np.uint64((key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB))
    return np.uint64(key ^ (key >> np.uint64(31)))


@inlined
def hashed(state: Floats, target: Floats, servers: int, deep: bool) -> np.uint64:
    key = mixed(np.uint64(servers * 2 + deep), int(np.round(np.log(target[0]) * 2000.0)) + 100_000)
    key = mixed(key, int(np.round(target[1] / target[0] * DEEP_PARTS)))
    key = mixed(key, int(np.round(target[2] * SHARE_STEPS)) * 64 + int(np.round(target[3] * SHARE_STEPS)))
    for model in range(state.shape[1]):
        ready, loading, credit = int(state[0, model]), int(state[2, model]), int(np.round(state[1, model] * CREDIT_STEPS))
        if ready + loading > 0:
            key = mixed(key, model + 64 * (ready + 1024 * (loading + 1024 * credit)))
    return key if key != np.uint64(0) else np.uint64(1)


@lean
def answer(
    memo: Memo, state: Floats, target: Floats, servers: int, rates: Floats, net: Net, library: Library, deep: bool,
    work: Floats, counts: Floats,
) -> int:  # fmt: skip
    """Servers per model for a state and a target, from the memo or by search; returns the split of the latency budget.

    state: as in `best_splits`; its credit is rounded in place. The memo starts anew when it is three quarters full.
    """
    keys, answers, used = memo
    asked = work[ASKED, :4]
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
    _, split = search(state, asked, servers, rates, net, library, DEEP_REACH if deep else 0, work, counts)
    if 4 * used[0] >= 3 * len(keys):
        for old in range(len(keys)):
            keys[old] = np.uint64(0)
        used[0] = 0
        place = key & mask
    keys[place] = key
    for model in range(len(counts)):
        answers[place, model] = np.int16(counts[model])
    answers[place, len(counts)] = np.int16(split)
    used[0] += 1
    used[1] += 1
    return split
