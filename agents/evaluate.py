"""Evaluation on windows that training never saw: every base tuned on validation with the same grid, every method on the same
test windows, gaps with intervals. Owns the protocol; knows neither training nor files."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from loki_rl.agents.rollouts import Decide, Played, base, play
from loki_rl.agents.statistics import Interval, gap_closed, paired_gain
from loki_rl.control.agent import ILLEGAL, NumpyAgent
from loki_rl.control.fleet import Floats
from loki_rl.env.cluster_options import ClusterEnvOptions, pool_for

# The tuning grid of every base: scale of its demand for capacity, patience of its plans.
SCALES = (0.9, 1.0, 1.1, 1.2, 1.3, 1.45)
PATIENCES = (1.0, 2.0)
BASES = ("exact", "forecast")
IDEAL = "clairvoyant"


class Tuned(Struct, frozen=True):
    """A base with its best scale and patience on validation windows, and how many trials that took."""

    name: str
    scale: float
    patience: float
    cost: float
    trials: int


class Row(Struct, frozen=True, kw_only=True):
    """One method on the test windows, means; cost_low and cost_high: of the mean over windows (bootstrap)."""

    policy: str
    cost_j: float
    cost_low: float
    cost_high: float
    slo_violation_ratio: float
    accuracy: float
    servers: float
    loads: float
    scale: float
    patience: float


class Gap(Struct, frozen=True, kw_only=True):
    """gap_closed from one base to clairvoyance by the agents, and their interquartile mean gain in J per window."""

    base: str
    share: float
    ci_low: float
    ci_high: float
    iqm: float
    iqm_low: float
    iqm_high: float


class Report(Struct, frozen=True):
    """windows, seeds: how much was played; tuned: what each base was tuned to; rows, gaps: the result."""

    pipeline: str
    windows: int
    seeds: int
    tuned: list[Tuned]
    rows: list[Row]
    gaps: list[Gap]


def tune(options: ClusterEnvOptions, name: str, windows: int) -> Tuned:
    """The best of the grid on validation windows."""
    found: list[tuple[float, float, float]] = []
    for scale, patience in product(SCALES, PATIENCES):
        asked = replace(options, split="validation", windows=windows, base=name, scale=scale, patience=patience)
        found.append((float(play(pool_for(asked), base).cost.mean()), scale, patience))
    cost, scale, patience = min(found)
    return Tuned(name, scale, patience, cost, len(found))


def decide_by(agent: NumpyAgent) -> Decide:
    """All clusters at once with one network."""

    def decide(observations: NDArray[np.float32], masks: NDArray[np.int8]) -> NDArray[np.int64]:
        legal = masks.astype(np.bool_)
        chosen: NDArray[np.int64] = np.argmax(np.where(legal, agent.logits(observations, legal), ILLEGAL), axis=1)
        return chosen

    return decide


def evaluate(
    options: ClusterEnvOptions, agents: Sequence[NumpyAgent], windows: int = 100, tuning: int = 32, deep: bool = False
) -> Report:
    """Bases, agents and clairvoyance on test windows. The agents adjust the base that their card names."""
    tuned = [tune(options, name, tuning) for name in (*BASES, IDEAL)]
    test = replace(options, split="test", windows=windows)
    played = {one.name: _play_base(test, one, deep) for one in tuned}
    rows = [_row(one.name, played[one.name], one.scale, one.patience) for one in tuned]
    costs: Floats = np.zeros((0, windows))
    if agents:
        runs = [_play_agent(test, agent, deep) for agent in agents]
        costs = np.stack([run.cost for run in runs])
        rows.append(_row("ppo", _mean(runs), agents[0].card.scale, agents[0].card.patience))
    gaps = [_gap(name, played[name].cost, costs, played[IDEAL].cost) for name in BASES] if agents else []
    if not agents:
        gaps = [_gap("exact", played["exact"].cost, played["forecast"].cost[None, :], played[IDEAL].cost)]
    return Report(options.pipeline, windows, len(agents), tuned, rows, gaps)


def _play_base(test: ClusterEnvOptions, one: Tuned, deep: bool) -> Played:
    return play(pool_for(replace(test, base=one.name, scale=one.scale, patience=one.patience)), base, deep)


def _play_agent(test: ClusterEnvOptions, agent: NumpyAgent, deep: bool) -> Played:
    asked = replace(test, base="forecast", scale=agent.card.scale, patience=agent.card.patience)
    return play(pool_for(asked), decide_by(agent), deep)


def _mean(runs: Sequence[Played]) -> Played:
    return Played(**{name: np.mean([getattr(run, name) for run in runs], axis=0) for name in Played.__struct_fields__})


def _row(policy: str, played: Played, scale: float, patience: float) -> Row:
    interval = _interval(played.cost)
    return Row(
        policy=policy,
        cost_j=interval.value,
        cost_low=interval.low,
        cost_high=interval.high,
        slo_violation_ratio=float(played.violations.mean()),
        accuracy=float(played.accuracy.mean()),
        servers=float(played.servers.mean()),
        loads=float(played.loads.mean()),
        scale=scale,
        patience=patience,
    )


def _interval(costs: Floats) -> Interval:
    from loki_rl.agents.statistics import bootstrap

    return bootstrap(costs[None, :, None], lambda drawn: float(drawn.mean()))


def _gap(name: str, base_cost: Floats, method: Floats, ideal: Floats) -> Gap:
    share, gain = gap_closed(base_cost, method, ideal), paired_gain(base_cost, method)
    return Gap(
        base=name,
        share=share.value,
        ci_low=share.low,
        ci_high=share.high,
        iqm=gain.value,
        iqm_low=gain.low,
        iqm_high=gain.high,
    )


def table(report: Report) -> str:
    """The report as text."""
    lines = [f"{report.pipeline}: {report.windows} test windows, {report.seeds} training seeds"]
    lines += [
        f"  {row.policy:12} J {row.cost_j:.4f} [{row.cost_low:.4f}, {row.cost_high:.4f}]  violations "
        f"{100 * row.slo_violation_ratio:.2f} %  accuracy {row.accuracy:.4f}  servers {row.servers:.2f}  loads "
        f"{row.loads:.1f}  (x{row.scale:g}, {row.patience:g})"
        for row in report.rows
    ]
    lines += [
        f"  gap from {gap.base} closed: {100 * gap.share:.0f} % [{100 * gap.ci_low:.0f}, {100 * gap.ci_high:.0f}]; IQM gain "
        f"{gap.iqm:.4f} [{gap.iqm_low:.4f}, {gap.iqm_high:.4f}]"
        for gap in report.gaps
    ]
    return "\n".join(lines)


def as_json(report: Report) -> dict[str, Any]:
    """The report with the contract's keys."""
    import msgspec

    plain: dict[str, Any] = msgspec.to_builtins(report)
    return {**plain, "gap_closed": plain.pop("gaps"), "results": plain.pop("rows")}
