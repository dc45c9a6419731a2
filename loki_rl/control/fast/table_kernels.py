"""Memoised answers of the training allocator, as a hash table of rounded questions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from loki_rl.control.compiled import inlined, lean
from loki_rl.control.fast.local_search import Library, search
from loki_rl.control.fast.model_arrays import Ints
from loki_rl.control.fast.objective_kernels import CREDIT, LOADING, READY, Question, Scratch

# A quick search rounds demand by at most 2 %, so that questions recur, a deep one by .1 %; chances by steps of a quarter and
# of a hundredth of themselves; the loading share to fortieths, the credit of loads to quarters.
QUICK_STEP, DEEP_STEP = 0.04, 0.002
QUICK_ODDS, DEEP_ODDS = 0.25, 0.01
LEAST_CHANCE = 1e-4
SHARE_STEPS = 40.0
CREDIT_STEPS = 4.0
LOWEST_RPS = 0.05
# Levels of the library that a deep search starts from.
DEEP_REACH = 1


class Memo(NamedTuple):
    """An open-addressed hash table. keys [C]; answers [C, M + 1]: servers per model, then the split; used [2]: how many
    answers there are, and how many were ever searched for."""

    keys: NDArray[np.uint64]
    answers: NDArray[np.int16]
    used: Ints


def new_memo(capacity: int, models: int) -> Memo:
    """An empty table for at most `capacity` answers (a power of two)."""
    return Memo(np.zeros(capacity, np.uint64), np.zeros((capacity, models + 1), np.int16), np.zeros(2, np.int64))


@inlined
def step_of(value: float, least: float, size: float) -> int:
    """The nearest step of a ladder that rises by `size` from `least`."""
    return int(np.round(np.log(max(value, least) / least) / np.log(1.0 + size)))


@inlined
def rounded(asked: Question, deep: bool) -> Question:
    """The question that is really answered, so that equal keys mean equal questions. Its slices and state are rounded in
    place."""
    size, odds = (DEEP_STEP, DEEP_ODDS) if deep else (QUICK_STEP, QUICK_ODDS)
    for i in range(len(asked.to_rps)):
        asked.to_rps[i] = LOWEST_RPS * (1.0 + size) ** step_of(asked.to_rps[i], LOWEST_RPS, size)
        asked.chance[i] = min(1.0, LEAST_CHANCE * (1.0 + odds) ** step_of(asked.chance[i], LEAST_CHANCE, odds))
    mean = LOWEST_RPS * (1.0 + size) ** step_of(asked.mean, LOWEST_RPS, size)
    share = np.round(asked.share * SHARE_STEPS) / SHARE_STEPS
    for model in range(asked.state.shape[1]):
        asked.state[CREDIT, model] = np.round(asked.state[CREDIT, model] * CREDIT_STEPS) / CREDIT_STEPS
    return Question(asked.to_rps, asked.chance, mean, share, asked.servers, asked.state, asked.rates, asked.net)


@inlined
def mixed(key: np.uint64, value: int) -> np.uint64:
    """One more number into a hash (splitmix64's finisher)."""
    key = np.uint64(key + np.uint64(value) + np.uint64(0x9E3779B97F4A7C15))
    key = np.uint64((key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9))
    key = np.uint64((key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB))
    return np.uint64(key ^ (key >> np.uint64(31)))


@inlined
def hashed(asked: Question, deep: bool) -> np.uint64:
    size, odds = (DEEP_STEP, DEEP_ODDS) if deep else (QUICK_STEP, QUICK_ODDS)
    key = mixed(np.uint64(asked.servers * 2 + deep), int(np.round(asked.share * SHARE_STEPS)))
    key = mixed(key, step_of(asked.mean, LOWEST_RPS, size))
    for i in range(len(asked.to_rps)):
        key = mixed(key, step_of(asked.to_rps[i], LOWEST_RPS, size) * 65536 + step_of(asked.chance[i], LEAST_CHANCE, odds))
    state = asked.state
    for model in range(state.shape[1]):
        ready, loading = int(state[READY, model]), int(state[LOADING, model])
        credit = int(np.round(state[CREDIT, model] * CREDIT_STEPS))
        if ready + loading > 0:
            key = mixed(key, model + 64 * (ready + 1024 * (loading + 1024 * credit)))
    return key if key != np.uint64(0) else np.uint64(1)


@lean
def answer(memo: Memo, question: Question, library: Library, deep: bool, room: Scratch) -> int:
    """room.counts gets the servers per model for a question, from the memo or by search; returns the split of the latency
    budget. The memo starts anew when it is three quarters full."""
    keys, answers, used, counts = memo.keys, memo.answers, memo.used, room.counts
    asked = rounded(question, deep)
    key = hashed(asked, deep)
    mask = np.uint64(len(keys) - 1)
    place = key & mask
    while keys[place] != np.uint64(0):
        if keys[place] == key:
            for model in range(len(counts)):
                counts[model] = answers[place, model]
            return int(answers[place, len(counts)])
        place = (place + np.uint64(1)) & mask
    _, split = search(asked, library, DEEP_REACH if deep else 0, room)
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
