"""Rules that no network is needed for, as agents: every constant action, and one threshold on one feature. What an agent has
learnt is what it saves beyond the best of them. Owns how they are found."""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace

from loki_rl.agents.evaluate.counterfactuals import Judging, best_split, judged
from loki_rl.agents.evaluate.rollouts import base, greedy, play
from loki_rl.control.learned.agent import Card, NumpyAgent
from loki_rl.control.learned.observation import ACTIONS, MULTIPLIERS, NO_ADJUSTMENT, OBSERVATION, ODDS
from loki_rl.env.gym.cluster_options import ClusterEnvOptions, pool_for
from loki_rl.env.gym.spaces import NAMES
from loki_rl.progress import Progress, unseen

# States of training windows that the threshold is chosen on.
STATES = 4000
# The unit behind a threshold is a switch.
STEEP = 1e4


def constant(action: int, card: Card) -> NumpyAgent:
    """The same action wherever it is legal, else none."""
    preferred = np.zeros(ACTIONS, np.float32)
    preferred[NO_ADJUSTMENT] = 1.0
    preferred[action] += 2.0
    return NumpyAgent((np.zeros((OBSERVATION, ACTIONS), np.float32),), (preferred,), card)


def split(feature: int, threshold: float, low: int, high: int, card: Card) -> NumpyAgent:
    """One action where a feature is at most the threshold, another above it; none where that one is not legal."""
    if low == high:
        return constant(low, card)
    inner = np.zeros((OBSERVATION, 1), np.float32)
    inner[feature] = STEEP
    outer, preferred = np.zeros((1, ACTIONS), np.float32), np.full(ACTIONS, -9.0, np.float32)
    preferred[[low, high]] = 0.0
    outer[0, low], outer[0, high], outer[0, NO_ADJUSTMENT] = -1.0, 1.0, 0.0
    preferred[NO_ADJUSTMENT] = 0.5
    return NumpyAgent((inner, outer), (np.array([-STEEP * threshold], np.float32), preferred), card)


def best_rules(
    options: ClusterEnvOptions, windows: int, card: Card, progress: Progress = unseen
) -> dict[str, NumpyAgent]:
    """The constant action that costs least on so many validation windows, and the threshold that is best of all on states of
    training windows. The keys say what they do."""
    validation = pool_for(replace(options, split="validation", windows=windows))
    constants = [constant(action, card) for action in range(ACTIONS)]
    costs = []
    for one in constants:
        costs.append(float(play(validation, greedy(one.weights, one.biases, 0.0)).cost_j.mean()))
        progress(len(costs) / ACTIONS)
    best = int(np.argmin(costs))
    states = judged(pool_for(replace(options, split="train")), base, Judging(), STATES, 0)
    feature, threshold, low, high = best_split(states)
    rule = f"{NAMES[feature]} <= {threshold:.3f} ? {label(low)} : {label(high)}"
    return {f"always {label(best)}": constants[best], rule: split(feature, threshold, low, high, card)}


def label(action: int) -> str:
    """What it multiplies, and by what the odds of that, if at all."""
    row, column = divmod(action, len(MULTIPLIERS))
    return f"x{MULTIPLIERS[column]:g}" + (f" odds x{ODDS[row]:g}" if row else "")
