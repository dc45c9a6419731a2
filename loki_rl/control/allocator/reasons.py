"""Why a plan is as it is, and why there is none: sentences for people."""

from __future__ import annotations

from math import ceil

from loki_rl.control.allocator.search import Search
from loki_rl.control.formulation.accuracy import TIE
from loki_rl.control.formulation.configurations import Configuration
from loki_rl.control.formulation.latency import latency_model
from loki_rl.control.formulation.prepared import Prepared, prepare
from loki_rl.control.formulation.request import Part, Request
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Certificate, JointPlan, Plan

MISSED = 1e-6


def explain_impossible(search: Search) -> JointPlan:
    """Plans of mode `infeasible` whose reasons name the limit and the nearest value that would do."""
    own = [_own(part, setting) for part, setting in zip(search.parts, search.settings, strict=True)]
    reasons = tuple(reason for reason in own if reason) or (_shared(search),)
    certificate = Certificate(status=search.doubt or "Infeasible")
    plans = tuple(_nothing(part, certificate, reasons) for part in search.parts)
    return JointPlan("infeasible", plans, 0, 0.0, certificate, reasons)


def _nothing(part: Part, certificate: Certificate, reasons: tuple[str, ...]) -> Plan:
    split = {task.name: 1.0 for task in part.pipeline.tasks}
    return Plan(
        "infeasible", (), 0, 0.0, 0.0, part.request.demand_rps, 0.0, split, {}, certificate=certificate, reasons=reasons
    )


def _own(part: Part, setting: Prepared) -> str:
    """What is in the way of a pipeline however many servers there are, or nothing."""
    if missing := _homeless(part, setting):
        return missing
    if not setting.feasible:
        return _slo(setting, part)
    best = reachable(setting)
    if part.request.min_accuracy > best + 1e-9:
        memory = " and the servers' memory" if part.request.pool else ""
        return (
            f"accuracy floor {part.request.min_accuracy:.4f} of '{part.pipeline.name}' is above {best:.4f}, "
            f"the best that fits an SLO of {_ms(setting.slo_s)}{memory}"
        )
    return ""


def _homeless(part: Part, setting: Prepared) -> str:
    """Names a task that runs on no type: for want of memory if that is why."""
    present, pipeline = {c.task for c in setting.all}, part.pipeline
    for position, task in enumerate(pipeline.tasks):
        if position not in present:
            least = min((v.memory_mb, v.name) for one in setting.by_type for v in one.tasks[position].variants)
            largest = max(part.request.types, key=lambda kind: kind.memory_mb)
            if least[0] > largest.memory_mb:
                return (
                    f"no server type has the memory for '{task.name}' of '{pipeline.name}': its smallest variant {least[1]} "
                    f"needs {least[0]:g} MB, the largest type '{largest.name}' has {largest.memory_mb:g} MB"
                )
            return (
                f"no server type runs '{task.name}' of '{pipeline.name}': where a variant fits the memory there are no "
                f"latencies for it; measure them with 'loki-rl profile', or give a type a speed"
            )
    return ""


def _shared(search: Search) -> str:
    """What all pipelines lack together."""
    names = ", ".join(f"'{part.pipeline.name}'" for part in search.parts)
    if search.doubt:
        return f"no plan for {names} was found within {search.parts[0].request.time_limit_s:g} s; allow more time"
    total = sum(search.servers)
    if total < search.tasks:
        return f"{names} needs a server for every task: at least {search.tasks}, not {total}"
    homes = "; ".join(
        f"'{task.name}' on {' or '.join(search.types[pool].name for pool in _pools(setting, position))}"
        for part, setting in zip(search.parts, search.settings, strict=True)
        for position, task in enumerate(part.pipeline.tasks)
    )
    there = ", ".join(f"{kind.count} {kind.name}" for kind in search.types)
    return f"{names} needs a server for every task, of a type that runs it ({homes}); there are {there}"


def _pools(setting: Prepared, task: int) -> list[int]:
    return sorted({c.pool for c in setting.configurations if c.task == task})


def reachable(setting: Prepared) -> float:
    """Best accuracy over the paths inside the budget."""
    best = dict.fromkeys(setting.accuracies.tables, 0.0)
    for arc in setting.network.arcs:
        if arc.accuracy:
            leaf = setting.network.states[arc.state].task
            best[leaf] = max(best[leaf], arc.accuracy)
    return sum(best.values())


def servable(pipeline: Pipeline, request: Request) -> bool:
    """Whether what runs can serve requests inside the SLO and above the floor, if there are servers enough."""
    setting = prepare(pipeline, request)
    return setting.feasible and request.min_accuracy <= reachable(setting) + TIE


def highest_floor(pipeline: Pipeline, request: Request) -> float:
    """The highest accuracy floor that plans can keep: the pipeline's best or, where its models do not fit the SLO, the best
    of those that do, less what a solver may miss it by; 0 where none do. The request's demand and floor do not matter."""
    setting = prepare(pipeline, request)
    best = reachable(setting) if setting.feasible else 0.0
    return pipeline.best_accuracy if best > pipeline.best_accuracy - TIE else best * (1 - MISSED)


def _slo(setting: Prepared, part: Part) -> str:
    """Names the slowest branch at its fastest and the smallest SLO that would do."""
    pipeline = setting.pipeline
    fastest = [min((c for c in setting.all if c.task == t), key=lambda c: c.cost_us) for t in range(len(pipeline.tasks))]
    costs = {leaf: sum(fastest[t].cost_us for t in pipeline.lines[leaf]) for leaf in pipeline.leaves}
    leaf = max(costs, key=lambda leaf: costs[leaf])
    path = " -> ".join(_name(part, fastest[t]) for t in pipeline.lines[leaf])
    return (
        f"SLO {_ms(setting.slo_s)} of '{pipeline.name}' is too short: its fastest path {path} needs "
        f"{costs[leaf] / 1000:.1f} ms of a budget of {setting.budget_us / 1000:.1f} ms; the SLO must be at least "
        f"{_ms(_smallest_slo_s(setting, part, fastest))}"
    )


def _smallest_slo_s(setting: Prepared, part: Part, fastest: list[Configuration]) -> float:
    """In steps of 0.1 ms. Budget and costs are linear in the SLO, so two models tell where each branch just fits."""
    pipeline, ends = setting.pipeline, (setting.slo_s, 2 * setting.slo_s)
    near, far = ([latency_model(part.request.queueing, one, slo_s) for one in setting.by_type] for slo_s in ends)
    smallest = 0.0
    for leaf in pipeline.leaves:
        line = [fastest[t] for t in pipeline.lines[leaf]]
        short, spare = (
            models[0].budget_us - sum(models[c.pool].cost_us(c.task, c.variant, c.batch) for c in line)
            for models in (near, far)
        )
        smallest = max(smallest, setting.slo_s * (1 - short / (spare - short)))
    return ceil(smallest * 1e4 + 0.05) / 1e4


def _name(part: Part, c: Configuration) -> str:
    task, kind = part.pipeline.tasks[c.task], part.request.types[c.pool].name
    where = f" on {kind}" if kind else ""
    return f"{task.name}/{task.variants[c.variant].name}@b{c.batch}{where}={c.cost_us / 1000:.1f}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
