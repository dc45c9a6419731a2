"""What every action would have cost on the same future: demand does not depend on actions, so from one state of a cluster
each of them is played on a copy (hindsight learning for exogenous inputs, Sinclair et al., ICML 2023). Owns these labels."""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loki_rl.agents.evaluate.rollouts import Decide
from loki_rl.control.fast.model_arrays import Floats, Ints
from loki_rl.control.learned.observation import ACTIONS, NO_ADJUSTMENT
from loki_rl.env.fluid.batch import Batch, Pool

# States that are judged side by side.
GROUPS = 128
# An action that was played less often may have been lucky.
FEWEST = 30


class Judging(Struct, frozen=True, kw_only=True):
    """How an action is judged. hold: decisions that it is played for, since a load takes longer than one; ahead: decisions
    until what it did is over, those included; tried: actions of a state that are played beside "no adjustment", drawn from
    the legal ones; lost_j: cost J of a lost request beside what it costs anyhow."""

    hold: int = 8
    ahead: int = 40
    tried: int = 5
    lost_j: float = 2.0


class Examples(Struct, frozen=True, eq=False):
    """n states that were visited. observations [n, OBSERVATION]; legal [n, ACTIONS]; saved [n, ACTIONS]: cost J of "no
    adjustment" less that of the action, summed over `ahead` decisions, not a number where it was not played; window, k
    [n]: the window and the decision that the state comes from."""

    observations: NDArray[np.float32]
    legal: NDArray[np.bool_]
    saved: NDArray[np.float32]
    window: Ints
    k: Ints


def joined(*sets: Examples) -> Examples:
    """All of several sets; equal numbers are the same window."""
    return Examples(*(np.concatenate([getattr(one, name) for one in sets]) for name in Examples.__struct_fields__))


def judged(pool: Pool, follow: Decide, judging: Judging, states: int, seed: int) -> Examples:
    """At least so many states that `follow` visits, with what actions would have saved there. follow: of rows of
    observations alone, since it decides for copies too."""
    rng, found, number = np.random.default_rng(seed), list[Examples](), 0
    groups, size = min(GROUPS, states), judging.tried + 1
    batch = Batch(pool, groups * size)
    lead = np.arange(groups) * size
    while number < states:
        windows = rng.integers(pool.size, size=groups)
        _begin(batch, np.repeat(windows, size), follow, int(rng.integers(judging.ahead)))
        while batch.k[0] + judging.ahead <= pool.options.intervals + 1:
            observations, legal = batch.observations[lead].copy(), batch.masks[lead].astype(np.bool_)
            actions = _tried(legal, judging.tried, rng)
            k = batch.k[lead].copy()
            saved = _saved(actions, _played(batch, actions, follow, judging))
            found.append(Examples(observations, legal, saved, windows, k))
            number += groups
            # Any of the copies goes on: it has followed the policy since.
            batch.copy(np.repeat(lead + rng.integers(size, size=groups), size), np.arange(batch.number))
    return joined(*found)


def _begin(batch: Batch, windows: Ints, follow: Decide, decisions: int) -> None:
    """Every group on its window, so many decisions after its begin."""
    batch.pool.ensure(windows, costs=False)
    batch.start(np.arange(batch.number), windows)
    for _ in range(decisions):
        batch.step(follow(batch.observations, batch.masks))


def _tried(legal: NDArray[np.bool_], number: int, rng: np.random.Generator) -> Ints:
    """[groups, 1 + number] "no adjustment", then others that are legal, where there are so few some more than once."""
    drawn = np.where(legal, rng.random(legal.shape), 2.0)
    drawn[:, NO_ADJUSTMENT] = 1.0  # behind all others that are legal
    places = np.arange(number) % np.maximum(1, legal.sum(axis=1) - 1)[:, None]
    others = np.take_along_axis(np.argsort(drawn, axis=1), places, axis=1)
    return np.column_stack((np.full(len(legal), NO_ADJUSTMENT), others))


def _played(batch: Batch, actions: Ints, follow: Decide, judging: Judging) -> Floats:
    """[groups, tried] cost J of each action and what follows it."""
    totals = batch.hold(actions.ravel(), judging.hold)
    for _ in range(judging.ahead - judging.hold):
        batch.step(follow(batch.observations, batch.masks))
        totals += np.column_stack((batch.costs, batch.lost))
    return (totals[:, 0] + judging.lost_j * totals[:, 1]).reshape(actions.shape)


def _saved(actions: Ints, costs: Floats) -> NDArray[np.float32]:
    saved = np.full((len(actions), ACTIONS), np.nan, np.float32)
    np.put_along_axis(saved, actions, costs[:, :1] - costs, axis=1)
    saved[:, NO_ADJUSTMENT] = 0.0
    return saved


def best_split(examples: Examples) -> tuple[int, float, int, int]:
    """The rule of one threshold that saves most on these states, of all that there are: feature, threshold, action at most
    there, action above it."""
    best = (-np.inf, 0, 0.0, NO_ADJUSTMENT, NO_ADJUSTMENT)
    for feature in range(examples.observations.shape[1]):
        order = np.argsort(examples.observations[:, feature], kind="stable")
        values = examples.observations[order, feature]
        ends = np.flatnonzero(np.append(values[1:] > values[:-1], True))
        sums = sums_of(Examples(*(getattr(examples, name)[order] for name in Examples.__struct_fields__)))
        below, above = worth_of(*(one[ends] for one in sums)), worth_of(*(one[-1] - one[ends] for one in sums))
        place = int((below.max(axis=1) + above.max(axis=1)).argmax())
        low, high = int(below[place].argmax()), int(above[place].argmax())
        found = float(below[place, low] + above[place, high])
        best = max(best, (found, feature, float(values[ends[place]]), low, high))
    return best[1:]


def sums_of(examples: Examples) -> tuple[Floats, Floats, Floats]:
    """Of the first 1, 2, ... states [n, ACTIONS]: what actions saved where they were played, how often that was, and how
    often they were legal."""
    played = ~np.isnan(examples.saved)
    saved = np.where(played, examples.saved, 0.0).astype(np.float64)
    return saved.cumsum(axis=0), played.cumsum(axis=0), examples.legal.cumsum(axis=0)


def worth_of(saved: Floats, played: Floats, legal: Floats) -> Floats:
    """What they would have saved wherever they were legal; nothing is known of one that was hardly ever played."""
    return np.where(played >= FEWEST, saved / np.maximum(played, 1) * legal, 0.0)
