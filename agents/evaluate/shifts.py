"""What happens to methods in a world that they were not tuned and trained in; nothing is tuned anew for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from msgspec.structs import asdict, replace

from loki_rl.agents.evaluate.methods import PPO, Method
from loki_rl.agents.evaluate.rollouts import Means, Played, means
from loki_rl.control.fast.model_arrays import Floats
from loki_rl.env.gym.cluster_options import MEAN_SHARE, OF_TRACES, ClusterEnvOptions, table_of
from loki_rl.reports.statistics import Interval, mean_gain, paired_gain

SHIFTS: dict[str, dict[str, Any]] = {
    "none": {},
    "load time 2 s": {"load_s": 2.0},
    "load time 10 s": {"load_s": 10.0},
    "load time 20 s": {"load_s": 20.0},
    "three times as many bursts": {"bursts": 3.0},
    "bursts twice as high": {"heights": 2.0},
    "no bursts": {"bursts": 0.0},
    "drawn load times, rates, servers, lags": {"randomise": True, "load_s": None},
}
OTHER_PIPELINES = ("traffic", "social")


class Shifted(Means, frozen=True, kw_only=True):
    """One method under one shift. gain, saved: interquartile mean and mean of the cost J saved against the same windows
    under tuned `exact`."""

    shift: str
    policy: str
    gain: Interval
    saved: Interval


def shifts(options: ClusterEnvOptions, methods: Sequence[Method], windows: int, traces: Sequence[str] = ()) -> list[Shifted]:
    """Every method on test windows of every shift, with the quick search: there are many. traces: other
    traces to cut windows from, at the usual mean demand."""
    test = replace(options, split="test", windows=windows)
    worlds = {name: replace(test, **changed) for name, changed in SHIFTS.items()}
    worlds |= {f"trace {trace.rsplit('/', 1)[-1].split('.')[0]}": _on_trace(test, trace) for trace in traces}
    other = next(name for name in OTHER_PIPELINES if name != options.pipeline)
    worlds[f"pipeline {other}"] = replace(test, pipeline=other, servers=None, mean_rps=None, trace=None, **OF_TRACES)
    return [row for name, world in worlds.items() for row in _rows(name, world, methods)]


def _on_trace(test: ClusterEnvOptions, trace: str) -> ClusterEnvOptions:
    return replace(test, **OF_TRACES, trace=trace, mean_rps=test.mean_rps or MEAN_SHARE * table_of(test).best_rps)


def _rows(shift: str, world: ClusterEnvOptions, methods: Sequence[Method]) -> Iterator[Shifted]:
    played: dict[str, list[Played]] = {}
    for one in methods:
        played.setdefault(one.name, []).append(one.play(world))
    base = played["exact"][0].cost_j
    for policy, runs in played.items():
        costs: Floats = np.stack([run.cost_j for run in runs])
        gain, saved = paired_gain(base, costs), mean_gain(base, costs)
        yield Shifted(shift=shift, policy=policy, gain=gain, saved=saved, **asdict(means(*runs)))


def slow_loads(rows: Sequence[Shifted]) -> float:
    """Most requests that the agents lose where models load for 10 or 20 s, as a share."""
    mine = [row for row in rows if row.policy == PPO and row.shift in ("load time 10 s", "load time 20 s")]
    return max((row.slo_violation_ratio for row in mine), default=0.0)
