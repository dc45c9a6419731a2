"""Why a plan is as it is, and why there is none: sentences for people. Owns explanations; changes no plan."""

from __future__ import annotations

from loki_rl.control.configurations import Configuration
from loki_rl.control.request import Request
from loki_rl.control.setting import Setting
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Certificate, Plan


def explain_impossible(setting: Setting, request: Request, doubt: str = "") -> Plan:
    """A plan of mode `infeasible` whose reasons name the limit and the nearest value that would do.

    doubt: the solver's word if it ended before it had found out.
    """
    pipeline = setting.pipeline
    if not setting.feasible:
        reason = _slo(setting)
    elif request.min_accuracy > _reachable(setting) + 1e-9:
        reason = (
            f"accuracy floor {request.min_accuracy:.4f} of '{pipeline.name}' is above {_reachable(setting):.4f}, "
            f"the best that fits an SLO of {_ms(setting.slo_s)}"
        )
    elif doubt:
        reason = f"no plan for '{pipeline.name}' was found within {request.time_limit_s:g} s; allow more time"
    else:
        reason = f"'{pipeline.name}' needs a server for every task: at least {len(pipeline.tasks)}, not {request.servers}"
    return Plan(
        mode="infeasible",
        placements=(),
        servers=0,
        accuracy=0.0,
        served_fraction=0.0,
        demand_rps=request.demand_rps,
        capacity_rps=0.0,
        split={task.name: 1.0 for task in pipeline.tasks},
        flows={},
        certificate=Certificate(status=doubt or "Infeasible"),
        reasons=(reason,),
    )


def _reachable(setting: Setting) -> float:
    """Best accuracy over the paths inside the budget."""
    best = dict.fromkeys(setting.accuracies.tables, 0.0)
    for arc in setting.network.arcs:
        if arc.accuracy:
            leaf = setting.network.states[arc.state].task
            best[leaf] = max(best[leaf], arc.accuracy)
    return sum(best.values())


def _slo(setting: Setting) -> str:
    """Names the slowest branch at its fastest and the smallest SLO that would do."""
    pipeline = setting.pipeline
    fastest = [min((c for c in setting.all if c.task == t), key=lambda c: c.cost_us) for t in range(len(pipeline.tasks))]
    costs = {leaf: sum(fastest[t].cost_us for t in pipeline.lines[leaf]) for leaf in pipeline.leaves}
    leaf = max(costs, key=lambda leaf: costs[leaf])
    path = " -> ".join(_name(pipeline, fastest[t]) for t in pipeline.lines[leaf])
    smallest_s = costs[leaf] / 1e6 * setting.slo_s / max(setting.budget_us / 1e6, 1e-9)
    if setting.fixed_us < setting.slo_s * 4e5:
        smallest_s = (costs[leaf] + setting.fixed_us) / 1e6
    return (
        f"SLO {_ms(setting.slo_s)} of '{pipeline.name}' is too short: its fastest path {path} needs "
        f"{costs[leaf] / 1000:.1f} ms of a budget of {setting.budget_us / 1000:.1f} ms; the SLO must be at least "
        f"{_ms(smallest_s)}"
    )


def _name(pipeline: Pipeline, c: Configuration) -> str:
    task = pipeline.tasks[c.task]
    return f"{task.name}/{task.variants[c.variant].name}@b{c.batch}={c.cost_us / 1000:.1f}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
