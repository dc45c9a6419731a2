"""What limits plans, and what a little more of each resource would be worth: the allocator asked again with one number
changed. A control loop has no time for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from msgspec.structs import replace

from loki_rl.control.allocator.allocate import allocate_jointly, capacity
from loki_rl.control.allocator.reasons import reachable
from loki_rl.control.formulation.accuracy import TIE
from loki_rl.control.formulation.prepared import prepare
from loki_rl.control.formulation.request import Part, with_count
from loki_rl.core.plan import JointPlan, Plan
from loki_rl.core.servers.server_type import ServerType
from loki_rl.options import MOST_SERVERS
from loki_rl.progress import Progress, unseen

MORE_S = 0.010
POINT = 0.01
SEEN = 1e-6
# Nobody is told to buy more than this many times the servers that there are.
MOST_TIMES = 1024


def explain(parts: Sequence[Part], joint: JointPlan, progress: Progress = unseen) -> tuple[str, ...]:
    """What binds, then the prices of a server of each type, of 10 ms of SLO and of a point of accuracy; an infeasible plan's
    own reasons. Each is found by planning once more, which takes its time on several types of servers.

    Servers are taken as empty, whatever runs.
    """
    if joint.mode == "infeasible":
        return joint.reasons
    asked = [replace(part, request=replace(part.request, current=(), horizon_s=None)) for part in parts]
    steps: list[Callable[[], list[str]]] = [
        partial(_binding, asked, joint),
        *(partial(_one_more_server, asked, joint, kind) for kind in _types(asked)),
        *(partial(_more_time, asked, joint, place) for place in range(len(asked))),
        partial(_points, asked, joint),
    ]
    found = list(dict.fromkeys(reason for plan in joint.plans for reason in plan.reasons))
    for number, step in enumerate(steps):
        found += step()
        progress((number + 1) / len(steps))
    return tuple(found)


def _types(parts: Sequence[Part]) -> tuple[ServerType, ...]:
    """As asked: those of which there is none can be bought as well."""
    return parts[0].request.pool or parts[0].request.types


def _with_servers(parts: Sequence[Part], kind: ServerType, count: int) -> list[Part]:
    """The same question with another number of servers of one type."""

    def changed(part: Part) -> Part:
        plain = not part.request.pool
        return replace(
            part, request=replace(part.request, servers=count) if plain else with_count(part.request, kind, count)
        )

    return [changed(part) for part in parts]


def _one_more_server(parts: Sequence[Part], joint: JointPlan, kind: ServerType) -> list[str]:
    if parts[0].request.servers >= MOST_SERVERS:
        return []
    richer = allocate_jointly(_with_servers(parts, kind, kind.count + 1))
    of = f" of type '{kind.name}'" if kind.name else ""
    return [f"one more server{of}: {_change(parts, joint, richer)}"]


def _more_time(parts: Sequence[Part], joint: JointPlan, place: int) -> list[str]:
    """For the pipeline at this place."""
    part = parts[place]
    slo_s = part.pipeline.slo_s if part.request.slo_s is None else part.request.slo_s
    patient = replace(part, request=replace(part.request, slo_s=slo_s + MORE_S))
    of = f" of '{part.pipeline.name}'" if len(parts) > 1 else ""
    slower = allocate_jointly([*parts[:place], patient, *parts[place + 1 :]])
    return [f"{1000 * MORE_S:g} ms more SLO{of}: {_change(parts, joint, slower)}"]


def _binding(parts: Sequence[Part], joint: JointPlan) -> list[str]:
    """The constraints in the way of better plans, each with the nearest value that is not."""
    there = parts[0].request.servers
    if joint.mode == "hardware":
        cost = f" at a price of {joint.price:g}" if parts[0].request.pool else ""
        return [f"nothing binds: {joint.servers} of {there} servers{cost} do with the most accurate variants"]
    limits = [limit for part, plan in zip(parts, joint.plans, strict=True) for limit in _own_limits(part, plan)]
    return [*limits, *_server_limits(parts, joint), *_floor_limits(parts, joint)]


def _own_limits(part: Part, plan: Plan) -> list[str]:
    setting = prepare(part.pipeline, part.request)
    best = reachable(setting)
    if plan.mode == "shed" or best >= part.pipeline.best_accuracy - SEEN:
        return []
    memory = " and the servers' memory" if part.request.pool else ""
    return [
        f"the SLO of {1000 * setting.slo_s:.1f} ms binds: no accuracy above {best:.4f} of '{part.pipeline.name}' fits "
        f"it{memory}"
    ]


def _server_limits(parts: Sequence[Part], joint: JointPlan) -> list[str]:
    """Whether more servers would do, and how many where all are alike."""
    there, best = _servers(parts[0].request.servers), [reachable(prepare(part.pipeline, part.request)) for part in parts]
    if joint.mode == "accuracy" and all(plan.accuracy >= most - SEEN for plan, most in zip(joint.plans, best, strict=True)):
        return []
    what, wanted = "to serve all", list(parts)
    if joint.mode == "accuracy":
        what = "to serve all with accuracy " + " and ".join(f"{most:.4f}" for most in best)
        wanted = [
            replace(part, request=replace(part.request, min_accuracy=most - TIE))
            for part, most in zip(parts, best, strict=True)
        ]
    if len(_types(parts)) == 1:
        return [f"{there} bind: {what} needs {_needed(fewest_servers(wanted))}"]
    return [f"{there} bind: {what} needs more, of the types that are worth something below"]


def _floor_limits(parts: Sequence[Part], joint: JointPlan) -> list[str]:
    """Floors without which all could be served."""
    if joint.mode != "shed" or not any(part.request.min_accuracy for part in parts):
        return []
    free = allocate_jointly([replace(part, request=replace(part.request, min_accuracy=0.0)) for part in parts])
    if any(plan.served_fraction < 1 for plan in free.plans):
        return []
    return [
        f"the accuracy floor {part.request.min_accuracy:.4f}{_of(parts, part)} binds: to serve all it must be "
        f"{plan.accuracy:.4f}"
        for part, plan in zip(parts, free.plans, strict=True)
        if plan.accuracy < part.request.min_accuracy
    ]


def _of(parts: Sequence[Part], part: Part) -> str:
    return f" of '{part.pipeline.name}'" if len(parts) > 1 else ""


def fewest_servers(parts: Sequence[Part]) -> int | None:
    """The smallest cluster of servers of one type that serves all demand at the floors; None if even a huge one does not."""
    (kind,) = _types(parts)

    def serves(servers: int) -> bool:
        plans = allocate_jointly(_with_servers(parts, kind, servers)).plans
        return all(plan.served_fraction == 1 for plan in plans)

    low, high, most = 0, 1, min(MOST_TIMES * kind.count, MOST_SERVERS)
    while not serves(high):
        if high >= most:
            return None
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if serves(middle) else (middle, high)
    return high


def _points(parts: Sequence[Part], joint: JointPlan) -> list[str]:
    """What a lower accuracy buys a pipeline that is alone, or has a floor that binds."""
    if len(parts) == 1:
        return [f"one point of accuracy less: {_point(parts[0], joint)}"]
    return [
        f"one point of accuracy of '{part.pipeline.name}' less: {_change(parts, joint, allocate_jointly(lower))}"
        for i, part in enumerate(parts)
        if joint.mode == "shed" and part.request.min_accuracy > 0
        for lower in ([*parts[:i], _lower(part), *parts[i + 1 :]],)
    ]


def _lower(part: Part) -> Part:
    return replace(part, request=replace(part.request, min_accuracy=max(0.0, part.request.min_accuracy - POINT)))


def _point(part: Part, joint: JointPlan) -> str:
    """A lower floor where one binds, else more demand."""
    request, plan = part.request, joint.plans[0]
    if plan.mode == "shed":
        if request.min_accuracy <= 0:
            return "buys nothing, no accuracy is asked for"
        return _change([part], joint, allocate_jointly([_lower(part)]))
    shared = (request.queueing, request.slo_s, request.headroom, request.pool, request.solver)
    now, then = (
        capacity(part.pipeline, request.servers, floor, *shared).capacity_rps
        for floor in (plan.accuracy - TIE, max(0.0, plan.accuracy - POINT))
    )
    return f"{then - now:.1f} requests/s more can be served"


def _change(parts: Sequence[Part], before: JointPlan, after: JointPlan) -> str:
    """The first difference of each plan in the order of what counts."""
    found = [
        (part.pipeline.name, said)
        for part, old, new in zip(parts, before.plans, after.plans, strict=True)
        if (said := _difference(old, new))
    ]
    if found:
        return ", ".join(said if len(parts) == 1 else f"{said} ('{name}')" for name, said in found)
    if after.price < before.price - SEEN:
        typed = bool(parts[0].request.pool)
        return (
            f"{_servers(before.servers - after.servers)} fewer" if not typed else f"{before.price - after.price:g} cheaper"
        )
    return "changes nothing"


def _difference(before: Plan, after: Plan) -> str:
    served = (after.served_fraction - before.served_fraction) * before.demand_rps
    if abs(served) > SEEN * before.demand_rps:
        return f"{abs(served):.1f} requests/s {'more' if served > 0 else 'fewer'} are served"
    if abs(after.accuracy - before.accuracy) > SEEN:
        word = "rises" if after.accuracy > before.accuracy else "falls"
        return f"accuracy {word} by {abs(after.accuracy - before.accuracy):.4f}"
    return ""


def _servers(count: int) -> str:
    return f"{count} server{'s' if count > 1 else ''}"


def _needed(count: int | None) -> str:
    return "more servers than anyone has" if count is None else f"{count}"
