"""The same windows and methods in both twins: whether the fluid one ranks methods as the event twin does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from loki_rl.agents.evaluate.methods import Method
from loki_rl.agents.evaluate.rollouts import Means, Played, means
from loki_rl.env.fluid.dynamics import ACCURACY, ARRIVALS, FIGURES, LOADS, LOST, OK, USED
from loki_rl.env.gym.cluster_options import ClusterEnvOptions, pool_for
from loki_rl.env.gym.event_cluster import EventTwin

INTERVALS = 20


class Fidelity(Struct, frozen=True):
    """Means of one method over the same windows in both twins."""

    policy: str
    fluid: Means
    event: Means


def fidelity(options: ClusterEnvOptions, methods: Sequence[Method], windows: int) -> list[Fidelity]:
    """Every method on the first test windows, INTERVALS decisions each."""
    asked = replace(options, split="test", windows=windows, intervals=INTERVALS)
    return [Fidelity(one.name, means(one.play(asked, deep=True)), means(in_events(one, asked))) for one in methods]


def same_order(rows: Sequence[Fidelity]) -> bool:
    """Whether both twins order the methods alike by cost."""
    return sorted(rows, key=lambda row: row.fluid.cost_j) == sorted(rows, key=lambda row: row.event.cost_j)


def in_events(method: Method, options: ClusterEnvOptions) -> Played:
    """All windows of the options in the event twin."""
    asked = method.on(options)
    pool = pool_for(asked)
    pool.ensure(np.arange(options.windows), costs=False)
    rows = [_window(EventTwin(pool, asked), method, number) for number in range(options.windows)]
    return Played(*(np.array(column) for column in zip(*rows, strict=True)))


def _window(twin: EventTwin, method: Method, number: int) -> tuple[float, ...]:
    decide = method.rule()
    twin.paired = False
    twin.start(np.array([0]), np.array([number]))
    total, cost, intervals = np.zeros(FIGURES), 0.0, twin.options.intervals
    for _ in range(intervals):
        twin.step(decide(twin.observations, twin.masks))
        total, cost = total + twin.figures[0], cost - twin.rewards.item(0)
    return (
        cost / intervals,
        float(total[LOST] / max(total[ARRIVALS], 1.0)),
        float(total[ACCURACY] / max(total[OK], 1e-9)),
        float(total[USED] / intervals),
        float(total[LOADS]),
    )
