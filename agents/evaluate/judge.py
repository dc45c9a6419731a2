"""The judge: the policies as anyone runs them, in the event twin with the exact allocator, on windows of every family."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from loki_rl.agents.evaluate.families import Window
from loki_rl.control.fast.model_arrays import Floats
from loki_rl.reports.statistics import Interval, gap_closed, mean_interval
from loki_rl.runs.run import run_twin
from loki_rl.runs.tensorboard.curves import curves

BASE, IDEAL = "exact", "clairvoyant"


class Run(Struct, frozen=True, kw_only=True):
    """What one policy, or one agent by name, cost on one window [J]; violations: share of the requests lost; trusted: share
    of the decisions that an agent was believed in, 1 where there is none."""

    family: str
    window: int
    level: float
    policy: str
    cost_j: float
    violations: float
    accuracy: float
    servers: float
    trusted: float = 1.0


class Verdict(Struct, frozen=True, kw_only=True):
    """One policy on one family, or on all of them, which weigh equally (family ""). saved: J against `exact` on the same
    windows; more_lost: share of the requests that it loses beyond it; share: of the gap to `clairvoyant` that it closes."""

    policy: str
    family: str
    windows: int
    cost_j: float
    violations: float
    trusted: float
    saved: Interval
    more_lost: Interval
    share: Interval


def played(windows: Iterable[Window], methods: Mapping[str, tuple[str, str | None]]) -> Iterator[Run]:
    """Every method on every window. methods: policy and model file by name."""
    for window in windows:
        for name, (policy, model) in methods.items():
            yield run(window, name, policy, model)


def run(window: Window, name: str, policy: str, model: str | None = None) -> Run:
    done = run_twin(replace(window.options, policy=policy, model=model))
    seen, points = done.summary, curves(done.tally, done.duration_s)
    doubted = [point["policy/fallback"] for point in points if "policy/fallback" in point]
    return Run(
        family=window.family, window=window.number, level=window.level, policy=name, cost_j=float(seen.cost_j or 0.0),
        violations=seen.slo_violation_ratio, accuracy=float(seen.accuracy or 0.0), servers=float(seen.servers_mean or 0.0),
        trusted=1.0 - float(np.mean(doubted or [0.0])),
    )  # fmt: skip


def verdicts(runs: Sequence[Run]) -> list[Verdict]:
    """Of every policy but `exact`, by family and then over all."""
    names = list(dict.fromkeys(one.policy for one in runs if one.policy != BASE))
    families = list(dict.fromkeys(one.family for one in runs))
    return [_verdict(runs, name, family) for name in names for family in (*families, "")]


def _verdict(runs: Sequence[Run], name: str, family: str) -> Verdict:
    mine, base, ideal = (_of(runs, one, family) for one in (name, BASE, IDEAL))
    cost, lost, trusted = mine
    saved, more = base[0] - cost, lost - base[1]
    return Verdict(
        policy=name, family=family, windows=len(cost), cost_j=float(cost.mean()), violations=float(lost.mean()),
        trusted=float(trusted.mean()), saved=mean_interval(saved), more_lost=mean_interval(more),
        share=gap_closed(base[0], cost[None], ideal[0] if len(ideal[0]) else base[0]),
    )  # fmt: skip


def _of(runs: Sequence[Run], name: str, family: str) -> Floats:
    """[3, windows] cost, share lost and share trusted, in the order of windows. Over all families every one has as many."""
    rows = [one for one in runs if one.policy == name and family in ("", one.family)]
    rows.sort(key=lambda one: (one.family, one.level, one.window))
    return np.array([(one.cost_j, one.violations, one.trusted) for one in rows]).reshape(-1, 3).T
