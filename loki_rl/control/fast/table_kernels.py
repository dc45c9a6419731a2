"""Memoised answers of the training allocator, as a hash table of rounded questions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from loki_rl.control.compiled import inlined, lean
from loki_rl.control.fast.local_search import Library, search
from loki_rl.control.fast.model_arrays import Ints
from loki_rl.control.fast.objective_kernels import CREDIT, LOADING, READY, Question, Scratch

# A quick search rounds demand up by less than 4 %, so that questions recur, a deep one by less than 0.2 %; the mean to parts
# of the demand, the loading share and the chance of what is not expected to fortieths, the credit of loads to quarters.
QUICK_STEP, DEEP_STEP = 0.04, 0.002
QUICK_PARTS, DEEP_PARTS = 20.0, 200.0
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
def rounded(asked: Question, deep: bool) -> Question:
    """The question that is really answered, so that equal keys mean equal questions. Its state is rounded in place."""
    size, parts = (DEEP_STEP, DEEP_PARTS) if deep else (QUICK_STEP, QUICK_PARTS)
    step = np.ceil(np.log(max(asked.demand, LOWEST_RPS) / LOWEST_RPS) / np.log(1.0 + size) - 1e-9)
    demand = LOWEST_RPS * (1.0 + size) ** step
    expected = demand * max(1.0, np.round(min(1.0, asked.expected / demand) * parts)) / parts
    share = np.round(asked.share * SHARE_STEPS) / SHARE_STEPS
    chance = np.round(asked.chance * SHARE_STEPS) / SHARE_STEPS
    for model in range(asked.state.shape[1]):
        asked.state[CREDIT, model] = np.round(asked.state[CREDIT, model] * CREDIT_STEPS) / CREDIT_STEPS
    return Question(demand, expected, share, chance, asked.servers, asked.state, asked.rates, asked.net)


@inlined
def mixed(key: np.uint64, value: int) -> np.uint64:
    """One more number into a hash (splitmix64's finisher)."""
    key = np.uint64(key + np.uint64(value) + np.uint64(0x9E3779B97F4A7C15))
    key = np.uint64((key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9))
    key = np.uint64((key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB))
    return np.uint64(key ^ (key >> np.uint64(31)))


@inlined
def hashed(asked: Question, deep: bool) -> np.uint64:
    key = mixed(np.uint64(asked.servers * 2 + deep), int(np.round(np.log(asked.demand) * 2000.0)) + 100_000)
    key = mixed(key, int(np.round(asked.expected / asked.demand * DEEP_PARTS)))
    key = mixed(key, int(np.round(asked.share * SHARE_STEPS)) * 64 + int(np.round(asked.chance * SHARE_STEPS)))
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
