"""Evaluation on windows that training never saw: all bases tuned alike, all methods on the same test windows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from msgspec.structs import asdict, replace

from loki_rl.agents.evaluate.event_check import Fidelity, fidelity
from loki_rl.agents.evaluate.methods import BARE, BASES, IDEAL, PPO, Method, Tuned, contenders, tune
from loki_rl.agents.evaluate.rollouts import Means, Played, mean_of, means
from loki_rl.agents.evaluate.shifts import Shifted, shifts
from loki_rl.control.fast.model_arrays import Floats
from loki_rl.control.learned.agent import NumpyAgent
from loki_rl.env.gym.cluster_options import ClusterEnvOptions
from loki_rl.reports.statistics import bootstrap, gap_closed, improvement, mean_interval, paired_gain


class Row(Means, frozen=True, kw_only=True):
    """One method on the test windows; cost_low and cost_high: of the mean over windows (bootstrap)."""

    policy: str
    cost_low: float
    cost_high: float
    action: int


class Gap(Struct, frozen=True, kw_only=True):
    """room: what clairvoyance saves against a base [J], not above 0 where knowing the demand is worth nothing; share: of it
    that the agents save, their interquartile mean gain in J per window, how often they
    are cheaper, and what they lose beyond the base, as a share of all requests."""

    base: str
    room: float
    share: float
    ci_low: float
    ci_high: float
    iqm: float
    iqm_low: float
    iqm_high: float
    improved: float
    excess: float
    excess_low: float
    excess_high: float


class Asked(Struct, frozen=True, kw_only=True):
    """What to evaluate. windows: test windows; tuning: validation windows; deep: the thorough search of the allocator table
    for the main table; shifts: the shift matrix, with these traces; events: windows of the event twin."""

    windows: int = 100
    tuning: int = 32
    deep: bool = False
    shifts: bool = False
    traces: tuple[str, ...] = ()
    events: int = 0


class Report(Struct, frozen=True, kw_only=True):
    """windows, seeds: how much was played; tuned: what each base was tuned to; rows, gaps: the result; by_seed: of each
    agent alone; shifts, fidelity: empty where not asked for."""

    pipeline: str
    windows: int
    seeds: int
    tuned: list[Tuned]
    rows: list[Row]
    gaps: list[Gap]
    by_seed: list[Row]
    shifts: list[Shifted]
    fidelity: list[Fidelity]
    costs: dict[str, list[float]]


def evaluate(options: ClusterEnvOptions, agents: Sequence[NumpyAgent], asked: Asked) -> Report:
    """Bases, agents and clairvoyance on test windows. The agents adjust policy `exact`."""
    tuned = [tune(options, name, asked.tuning) for name in (*BASES, IDEAL)]
    methods = contenders(tuned, agents)
    test = replace(options, split="test", windows=asked.windows)
    played = [one.play(test, asked.deep) for one in methods]
    plain = len(methods) - len(agents)
    mine = played[plain:]
    rows = list(map(_row, methods, played))
    bases = {row.policy: result for row, result in zip(rows[:plain], played, strict=False)}
    agent = [mean_of(mine)] if mine else []
    return Report(
        pipeline=options.pipeline,
        windows=asked.windows,
        seeds=len(agents),
        tuned=tuned,
        rows=rows[:plain] + [_row(methods[-1], one) for one in agent],
        gaps=[_gap(name, bases, mine or [bases["exact"]]) for name in (*BASES, BARE)],
        by_seed=rows[plain:],
        shifts=shifts(options, methods, asked.windows, asked.traces) if asked.shifts else [],
        fidelity=fidelity(options, methods[: plain + 1], asked.events) if asked.events else [],
        costs={name: one.cost_j.tolist() for name, one in (*bases.items(), *((PPO, one) for one in agent))},
    )


def _row(method: Method, played: Played) -> Row:
    cost = mean_interval(played.cost_j)
    return Row(
        policy=method.name, cost_low=cost.low, cost_high=cost.high, action=method.action,
        **asdict(means(played)),
    )  # fmt: skip


def _gap(name: str, bases: dict[str, Played], runs: Sequence[Played]) -> Gap:
    base = bases[name]
    costs: Floats = np.stack([run.cost_j for run in runs])
    more: Floats = np.stack([run.slo_violation_ratio for run in runs]) - base.slo_violation_ratio
    share, gain = gap_closed(base.cost_j, costs, bases[IDEAL].cost_j), paired_gain(base.cost_j, costs)
    excess = bootstrap(more[..., None], lambda drawn: float(drawn.mean()))
    return Gap(
        base=name,
        room=float((base.cost_j - bases[IDEAL].cost_j).mean()),
        share=share.value,
        ci_low=share.low,
        ci_high=share.high,
        iqm=gain.value,
        iqm_low=gain.low,
        iqm_high=gain.high,
        improved=improvement(base.cost_j, costs),
        excess=excess.value,
        excess_low=excess.low,
        excess_high=excess.high,
    )
