"""Why a plan is as it is, and why there is none: sentences for people. Owns explanations; changes no plan."""

from __future__ import annotations

from math import ceil

from loki_rl.control.configurations import Configuration
from loki_rl.control.latency import latency_model
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
        reason = _slo(setting, request)
    elif request.min_accuracy > reachable(setting) + 1e-9:
        reason = (
            f"accuracy floor {request.min_accuracy:.4f} of '{pipeline.name}' is above {reachable(setting):.4f}, "
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


def reachable(setting: Setting) -> float:
    """Best accuracy over the paths inside the budget."""
    best = dict.fromkeys(setting.accuracies.tables, 0.0)
    for arc in setting.network.arcs:
        if arc.accuracy:
            leaf = setting.network.states[arc.state].task
            best[leaf] = max(best[leaf], arc.accuracy)
    return sum(best.values())


def _slo(setting: Setting, request: Request) -> str:
    """Names the slowest branch at its fastest and the smallest SLO that would do."""
    pipeline = setting.pipeline
    fastest = [min((c for c in setting.all if c.task == t), key=lambda c: c.cost_us) for t in range(len(pipeline.tasks))]
    costs = {leaf: sum(fastest[t].cost_us for t in pipeline.lines[leaf]) for leaf in pipeline.leaves}
    leaf = max(costs, key=lambda leaf: costs[leaf])
    path = " -> ".join(_name(pipeline, fastest[t]) for t in pipeline.lines[leaf])
    return (
        f"SLO {_ms(setting.slo_s)} of '{pipeline.name}' is too short: its fastest path {path} needs "
        f"{costs[leaf] / 1000:.1f} ms of a budget of {setting.budget_us / 1000:.1f} ms; the SLO must be at least "
        f"{_ms(_smallest_slo_s(setting, request, fastest))}"
    )


def _smallest_slo_s(setting: Setting, request: Request, fastest: list[Configuration]) -> float:
    """In steps of 0.1 ms. Budget and costs are linear in the SLO, so two models tell where each branch just fits."""
    pipeline, ends = setting.pipeline, (setting.slo_s, 2 * setting.slo_s)
    near, far = (latency_model(request.queueing, pipeline, slo_s) for slo_s in ends)
    smallest = 0.0
    for leaf in pipeline.leaves:
        line = [(c.task, c.variant, c.batch) for c in (fastest[t] for t in pipeline.lines[leaf])]
        short, spare = (model.budget_us - sum(model.cost_us(*stage) for stage in line) for model in (near, far))
        smallest = max(smallest, setting.slo_s * (1 - short / (spare - short)))
    return ceil(smallest * 1e4 + 0.05) / 1e4


def _name(pipeline: Pipeline, c: Configuration) -> str:
    task = pipeline.tasks[c.task]
    return f"{task.name}/{task.variants[c.variant].name}@b{c.batch}={c.cost_us / 1000:.1f}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
