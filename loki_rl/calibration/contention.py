"""How much batches that run on one host at the same time slow each other, found from what each met.

A batch that takes long meets more others, so how much it met says something about itself; how many ran when it began does
not. And while neighbours of the plane slow the host, batches take long and more of them meet. So each batch is compared with
those that begin right after it, under the same neighbours. How much longer than they it took, for its variant, has nothing
to do with the crowd in which it began once the crowds' speeds are taken out of it: the speeds are those for which that holds
of the logarithms (instrumental variables, in forward differences, since what comes later cannot have made the crowd)."""

from __future__ import annotations

import numpy as np

from loki_rl.calibration.batches import Floats, Ints, Jobs
from loki_rl.files.calibration_file import Contention

# Batches that must have begun in a crowd of a size to say anything of it; sizes that have fewer go with their neighbours.
ENOUGH = 50
# Each batch is compared with so many that begin after it.
AFTER = 4
ROUNDS = 30
# No crowd slows more than this, and one that slows less than this is none: planes that only wait show some by chance.
LEAST, NOTHING = 0.02, 0.02
# What lies farther from a variant's middle than so many of its spreads counts as that: one batch moves nothing.
SPREADS = 3.0
# Directions in which the equations say less than this share of what they say elsewhere are left alone.
SOLID = 1e-6
# Logarithms that have moved less are those looked for.
CLOSE = 1e-4


def fit_contention(batches: Jobs) -> Contention:
    """Of at least one batch."""
    shares = batches.shares
    met = float((batches.busy @ np.arange(1, shares.shape[1] + 1)).sum() / batches.busy.sum())
    group_of = _groups(batches.at_begin, shares.shape[1])
    groups = int(group_of[-1]) + 1
    if groups == 1:
        return Contention(met=met)
    in_group = np.stack([shares[:, group_of == group].sum(axis=1) for group in range(groups)], axis=1)
    speeds = _solve(batches, in_group, group_of[batches.at_begin - 1])
    began = np.bincount(group_of[batches.at_begin - 1], minlength=groups)
    falling = np.append(1.0, _falling(speeds[1:], began[1:].astype(np.float64)))
    if falling[-1] > 1.0 - NOTHING:
        return Contention(met=met)
    return Contention(tuple(np.round(falling[group_of], 4).tolist()), met)


def _groups(at_begin: Ints, most: int) -> Ints:
    """[K] the group of each size of a crowd."""
    counts = np.bincount(at_begin, minlength=most + 1)[1:]
    group_of, group, held = np.zeros(most, np.int64), 0, 0
    for place in range(most):
        if held >= ENOUGH and counts[place:].sum() >= ENOUGH:
            group, held = group + 1, 0
        group_of[place] = group
        held += int(counts[place])
    return group_of


def _solve(batches: Jobs, shares: Floats, began: Ints) -> Floats:
    """[G] speeds, the first of them 1: Newton's method on their logarithms and the variants' means."""
    _, models = np.unique(batches.models, return_inverse=True)
    ratio = np.log(batches.seconds / batches.usual_s)
    groups, ahead = shares.shape[1], _Ahead(batches)
    variants = ahead.beyond(np.eye(models.max() + 1)[models])
    told = np.concatenate((variants, np.eye(groups)[began][ahead.first, 1:]), axis=1)
    logs = np.zeros(groups)
    for _ in range(ROUNDS):
        speeds = np.exp(logs)
        mean = shares @ speeds
        moves = np.concatenate((variants, ahead.beyond(-(shares * speeds / mean[:, None])[:, 1:])), axis=1)
        alone = ahead.beyond(_tamed(ratio + np.log(mean), models)[:, None])[:, 0]
        step = np.linalg.lstsq(told.T @ moves, told.T @ alone, rcond=SOLID)[0][-(groups - 1) :]
        before, logs[1:] = logs[1:].copy(), np.clip(logs[1:] + step, np.log(LEAST), 0.0)
        if np.abs(logs[1:] - before).max() < CLOSE:
            break
    return np.exp(logs)


class _Ahead:
    """Batches that have others after them in their recording. first: which; the others in order of their begin."""

    def __init__(self, batches: Jobs) -> None:
        self._order = np.lexsort((batches.begin, batches.recording))
        recording = batches.recording[self._order]
        count = len(recording) - AFTER
        self._whole = recording[:count] == recording[AFTER:] if count > 0 else np.zeros(0, np.bool_)
        self.first = self._order[: max(0, count)][self._whole]

    def beyond(self, values: Floats) -> Floats:
        """[., C] of each of them, less the mean of those after it."""
        values = values[self._order]
        sums = np.cumsum(np.concatenate((np.zeros((1, values.shape[1])), values)), axis=0)
        count = len(self._whole)
        after = (sums[1 + AFTER : 1 + AFTER + count] - sums[1 : 1 + count]) / AFTER
        found: Floats = (values[:count] - after)[self._whole]
        return found


def _tamed(values: Floats, models: Ints) -> Floats:
    """With those far from the middle of their variant drawn near."""
    found = values.copy()
    for model in range(int(models.max()) + 1):
        mine = values[models == model]
        middle = np.median(mine)
        spread = SPREADS * 1.4826 * np.median(np.abs(mine - middle)) + 1e-9
        found[models == model] = np.clip(mine, middle - spread, middle + spread)
    return found


def _falling(values: Floats, weights: Floats) -> Floats:
    """The nearest values that do not rise (pool adjacent violators)."""
    blocks: list[tuple[float, float, int]] = []
    for value, weight in zip(np.minimum(values, 1.0).tolist(), weights.tolist(), strict=True):
        blocks.append((value, weight, 1))
        while len(blocks) > 1 and blocks[-1][0] > blocks[-2][0]:
            (a, aw, an), (b, bw, bn) = blocks.pop(), blocks.pop()
            blocks.append(((a * aw + b * bw) / (aw + bw), aw + bw, an + bn))
    return np.repeat([value for value, _, _ in blocks], [number for _, _, number in blocks])
