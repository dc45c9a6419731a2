"""Violations at equal accuracy and servers: a base tuned to what the agents use, so that one figure is left to compare. Owns
that search; a cost would hide which of the three was traded for which."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from loki_rl.agents.evaluate.methods import PATIENCES, Method
from loki_rl.agents.evaluate.rollouts import Means, Played, means
from loki_rl.control.fast.model_arrays import Floats
from loki_rl.env.gym.cluster_options import ClusterEnvOptions
from loki_rl.reports.statistics import Interval, bootstrap

SCALES = (0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.1)
# Equal: accuracy within a tenth of a point, servers within a hundredth.
POINT, PART = 0.001, 0.01


class MatchedComparison(Struct, frozen=True, kw_only=True):
    """A base as near to the agents' accuracy and servers as its grid comes on validation windows, and both on test windows.
    less: share by which the agents' violations are lower; equal: whether both are equal on validation."""

    base: str
    scale: float
    patience: float
    equal: bool
    of_base: Means
    of_agents: Means
    less: Interval


def matched(options: ClusterEnvOptions, name: str, agents: Sequence[Method], tuning: int, windows: int) -> MatchedComparison:
    """The base of that name against the agents, all with the quick search, since the grid is played too. tuning: validation
    windows; windows: test windows."""
    validation = replace(options, split="validation", windows=tuning)
    wanted = means(*(agent.play(validation) for agent in agents))
    grid = [Method(name, name, scale, patience) for scale, patience in product(SCALES, PATIENCES)]
    near = [(_distance(means(one.play(validation)), wanted), place) for place, one in enumerate(grid)]
    distance, place = min(near)
    test = replace(options, split="test", windows=windows)
    base, runs = grid[place].play(test), [agent.play(test) for agent in agents]
    return MatchedComparison(
        base=name,
        scale=grid[place].scale,
        patience=grid[place].patience,
        equal=distance <= 1.0,
        of_base=means(base),
        of_agents=means(*runs),
        less=_less(base, runs),
    )


def _distance(mine: Means, wanted: Means) -> float:
    """The larger of both differences, in units of what counts as equal."""
    return max(abs(mine.accuracy - wanted.accuracy) / POINT, abs(mine.servers / wanted.servers - 1) / PART)


def _less(base: Played, runs: Sequence[Played]) -> Interval:
    pairs = np.stack([np.stack((base.slo_violation_ratio, run.slo_violation_ratio), axis=-1) for run in runs])

    def share(drawn: Floats) -> float:
        lost = float(drawn[..., 0].mean())
        return 1 - float(drawn[..., 1].mean()) / lost if lost > 0 else 0.0

    return bootstrap(pairs, share)
