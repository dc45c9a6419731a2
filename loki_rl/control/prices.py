"""What limits a plan, and what a little more of each resource would be worth: the allocator asked again with one number
changed. Owns these questions and their sentences; must not be asked inside a control loop, which has no time for them."""

from __future__ import annotations

from msgspec.structs import replace

from loki_rl.control.accuracy import TIE
from loki_rl.control.allocator import allocate, capacity
from loki_rl.control.reasons import reachable
from loki_rl.control.request import Request
from loki_rl.control.setting import prepare
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Plan

MORE_S = 0.010
POINT = 0.01
SEEN = 1e-6
# Nobody is told to buy more than this many times the servers that there are.
MOST_TIMES = 1024


def explain(pipeline: Pipeline, request: Request, plan: Plan) -> tuple[str, ...]:
    """What binds, then the prices of a server, of 10 ms of SLO and of a point of accuracy; an infeasible plan's own reasons.

    Servers are taken as empty, whatever runs.
    """
    if plan.mode == "infeasible":
        return plan.reasons
    asked = replace(request, current=(), horizon_s=None)
    slo_s = pipeline.slo_s if request.slo_s is None else request.slo_s
    more_servers = allocate(pipeline, replace(asked, servers=request.servers + 1))
    more_time = allocate(pipeline, replace(asked, slo_s=slo_s + MORE_S))
    return (
        *plan.reasons,
        *_binding(pipeline, asked, plan),
        f"one more server: {_change(plan, more_servers)}",
        f"{1000 * MORE_S:g} ms more SLO: {_change(plan, more_time)}",
        f"one point of accuracy less: {_point(pipeline, asked, plan)}",
    )


def _binding(pipeline: Pipeline, request: Request, plan: Plan) -> list[str]:
    """The constraints in the way of a better plan, each with the nearest value that is not."""
    if plan.mode == "hardware":
        return [f"nothing binds: {plan.servers} of {request.servers} servers do with the most accurate variants"]
    if plan.mode == "accuracy":
        return _accuracy_limits(pipeline, request, plan)
    found = [f"{_servers(request.servers)} bind: to serve all needs {_needed(fewest_servers(pipeline, request))}"]
    if request.min_accuracy > 0:
        free = allocate(pipeline, replace(request, min_accuracy=0.0))
        if free.served_fraction == 1:
            found.append(f"the accuracy floor {request.min_accuracy:.4f} binds: to serve all it must be {free.accuracy:.4f}")
    return found


def _accuracy_limits(pipeline: Pipeline, request: Request, plan: Plan) -> list[str]:
    setting, found = prepare(pipeline, request), []
    best = reachable(setting)
    if best < pipeline.best_accuracy - SEEN:
        found.append(f"the SLO of {1000 * setting.slo_s:.1f} ms binds: no accuracy above {best:.4f} fits it")
    if plan.accuracy < best - SEEN:
        needed = _needed(fewest_servers(pipeline, replace(request, min_accuracy=best - TIE)))
        found.append(f"{_servers(request.servers)} bind: to serve all with accuracy {best:.4f} needs {needed}")
    return found


def fewest_servers(pipeline: Pipeline, request: Request) -> int | None:
    """The smallest cluster that serves the whole demand at the request's floor; None if even a huge one does not."""

    def serves(servers: int) -> bool:
        return allocate(pipeline, replace(request, servers=servers)).served_fraction == 1

    low, high = 0, 1
    while not serves(high):
        if high > MOST_TIMES * request.servers:
            return None
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if serves(middle) else (middle, high)
    return high


def _point(pipeline: Pipeline, request: Request, plan: Plan) -> str:
    """What a lower accuracy buys: a lower floor where one binds, else more demand."""
    if plan.mode == "shed":
        if request.min_accuracy <= 0:
            return "buys nothing, no accuracy is asked for"
        lower = replace(request, min_accuracy=max(0.0, request.min_accuracy - POINT))
        return _change(plan, allocate(pipeline, lower))
    now, then = (
        capacity(pipeline, request.servers, floor, request.queueing, request.slo_s, request.headroom).capacity_rps
        for floor in (plan.accuracy - TIE, max(0.0, plan.accuracy - POINT))
    )
    return f"{then - now:.1f} requests/s more can be served"


def _change(before: Plan, after: Plan) -> str:
    """The first difference in the order of what counts."""
    served = (after.served_fraction - before.served_fraction) * before.demand_rps
    if served > SEEN * before.demand_rps:
        return f"{served:.1f} requests/s more are served"
    if after.accuracy > before.accuracy + SEEN:
        return f"accuracy rises by {after.accuracy - before.accuracy:.4f}"
    if after.servers < before.servers:
        return f"{_servers(before.servers - after.servers)} fewer"
    return "changes nothing"


def _servers(count: int) -> str:
    return f"{count} server{'s' if count > 1 else ''}"


def _needed(count: int | None) -> str:
    return "more servers than anyone has" if count is None else f"{count}"
