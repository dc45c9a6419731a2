"""What happens to methods where the world is not the one they were tuned and trained in: other load times, other bursts,
other traces, another pipeline. Owns the list of shifts; nothing is tuned anew for any of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from loki_rl.agents.evaluate.methods import PPO, Method
from loki_rl.agents.evaluate.rollouts import Played
from loki_rl.control.fast.model_arrays import Floats
from loki_rl.env.gym.cluster_options import MEAN_SHARE, ClusterEnvOptions, table_of
from loki_rl.reports.statistics import mean_gain, paired_gain

SHIFTS: dict[str, dict[str, Any]] = {
    "none": {},
    "load time 2 s": {"load_s": 2.0},
    "load time 10 s": {"load_s": 10.0},
    "load time 20 s": {"load_s": 20.0},
    "three times as many bursts": {"bursts": 3.0},
    "bursts twice as high": {"heights": 2.0},
    "no bursts": {"bursts": 0.0},
    "drawn load times, rates, servers, lags": {"randomise": True},
}
OTHER_PIPELINES = ("traffic", "social")


class Shifted(Struct, frozen=True):
    """One method under one shift, means over the windows. gain, saved: interquartile mean and mean of the cost J saved
    against the same windows under `forecast`, with their intervals."""

    shift: str
    policy: str
    cost_j: float
    slo_violation_ratio: float
    accuracy: float
    servers: float
    gain: float
    gain_low: float
    gain_high: float
    saved: float
    saved_low: float
    saved_high: float


def shifts(options: ClusterEnvOptions, methods: Sequence[Method], windows: int, traces: Sequence[str] = ()) -> list[Shifted]:
    """Every method on test windows of every shift, with the quick search: there are many. traces: other
    traces to cut windows from, at the usual mean demand."""
    test = replace(options, split="test", windows=windows)
    worlds = {name: replace(test, **changed) for name, changed in SHIFTS.items()}
    worlds |= {f"trace {trace.rsplit('/', 1)[-1].split('.')[0]}": _on_trace(test, trace) for trace in traces}
    other = next(name for name in OTHER_PIPELINES if name != options.pipeline)
    worlds[f"pipeline {other}"] = replace(test, pipeline=other, servers=None, mean_rps=None, trace=None)
    return [row for name, world in worlds.items() for row in _rows(name, world, methods)]


def _on_trace(test: ClusterEnvOptions, trace: str) -> ClusterEnvOptions:
    return replace(test, trace=trace, mean_rps=test.mean_rps or MEAN_SHARE * table_of(test).best_rps)


def _rows(shift: str, world: ClusterEnvOptions, methods: Sequence[Method]) -> list[Shifted]:
    played = [(one.name, one.play(world)) for one in methods]
    base = next(result for name, result in played if name == "forecast").cost
    named = {name: [result for other, result in played if other == name] for name, _ in played}
    return [_row(shift, name, runs, base) for name, runs in named.items()]


def _row(shift: str, policy: str, runs: Sequence[Played], base: Floats) -> Shifted:
    costs: Floats = np.stack([run.cost for run in runs])
    gain, saved = paired_gain(base, costs), mean_gain(base, costs)
    return Shifted(
        shift=shift,
        policy=policy,
        cost_j=_mean(runs, "cost"),
        slo_violation_ratio=_mean(runs, "violations"),
        accuracy=_mean(runs, "accuracy"),
        servers=_mean(runs, "servers"),
        gain=gain.value,
        gain_low=gain.low,
        gain_high=gain.high,
        saved=saved.value,
        saved_low=saved.low,
        saved_high=saved.high,
    )


def _mean(runs: Sequence[Played], part: str) -> float:
    return float(np.mean([getattr(run, part) for run in runs]))


def slow_loads(rows: Sequence[Shifted]) -> float:
    """Most requests that the agents lose where models load for 10 or 20 s, as a share."""
    mine = [row for row in rows if row.policy == PPO and row.shift in ("load time 10 s", "load time 20 s")]
    return max((row.slo_violation_ratio for row in mine), default=0.0)
