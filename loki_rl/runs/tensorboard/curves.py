"""Curves of a run: one value per tag and second of trace time, the same tags and seconds for every driver."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from math import ceil

from msgspec.structs import replace

from loki_rl.core.messages import Outcome
from loki_rl.core.plan import Plan
from loki_rl.core.requests.ledger import PlanRecord, Second, Tally

MODES = ("hardware", "accuracy", "shed", "infeasible")


def whole_seconds(tally: Tally, duration_s: float) -> list[Second]:
    """Every second of the trace, the same number for every driver. What a slow client sent after the end of the trace counts
    to its last second, so that no request is lost."""
    length = max(1, ceil(duration_s - 1e-9))
    seconds = [
        Second(servers=found.servers, loads=found.loads) if (found := tally.seconds.get(number)) else Second()
        for number in range(length)
    ]
    for number, source in tally.seconds.items():
        target = seconds[min(max(number, 0), length - 1)]
        target.add(replace(source, servers=0, loads=0))
    return seconds


def plans_in_force(plans: Sequence[PlanRecord], length: int) -> list[Plan]:
    """The plan of every second: the last that came in force by its end (before any, the first); empty without any."""
    ordered = sorted(plans, key=lambda record: record.time)
    times = [record.time for record in ordered]
    return [ordered[max(0, bisect_left(times, number + 1) - 1)].plan for number in range(length if ordered else 0)]


def curves(tally: Tally, duration_s: float, cluster: bool = True) -> list[dict[str, float]]:
    """tag -> value, for every second of the trace.

    All tags have a point in all seconds, so that runs can be compared point by point: a second without arrivals violated
    nothing (0), one without any request in time keeps the accuracy of the last that had (the first ones that of the first).
    cluster: whether servers were counted; whoever measures from outside knows nothing of them.
    """
    seconds = whole_seconds(tally, duration_s)
    plans = plans_in_force(tally.plans, len(seconds))
    points = [_serving(second, cluster) for second in seconds]
    for point, accuracy in zip(points, _accuracies(seconds), strict=True):
        point["serving/accuracy"] = accuracy
    for point, plan in zip(points, plans, strict=False):
        point |= _planned(plan)
    return points


def point(second: Second, accuracy: float | None, plan: Plan | None) -> dict[str, float]:
    """Of one second by itself. accuracy: of the latest requests that were in time, None before any was; plan: in force."""
    known = {} if accuracy is None else {"serving/accuracy": accuracy}
    return _serving(second, True) | known | ({} if plan is None else _planned(plan))


def _serving(second: Second, cluster: bool) -> dict[str, float]:
    ok = second.outcomes[Outcome.OK]
    point: dict[str, float] = {
        "serving/slo_violation_ratio": 1 - ok / second.arrivals if second.arrivals else 0.0,
        "serving/demand_rps": second.arrivals,
        "serving/goodput_rps": ok,
    }
    return point | {"serving/servers_used": second.servers, "serving/switches": second.loads} if cluster else point


def _accuracies(seconds: Sequence[Second]) -> list[float]:
    known = [second.accuracy_sum / ok if (ok := second.outcomes[Outcome.OK]) else None for second in seconds]
    last = next((value for value in known if value is not None), 0.0)
    filled = []
    for value in known:
        last = last if value is None else value
        filled.append(last)
    return filled


def _planned(plan: Plan) -> dict[str, float]:
    adjustment = plan.adjustment
    asked = {} if adjustment is None else {
        "policy/headroom": adjustment.factor - 1,
        "policy/odds": adjustment.odds,
        "policy/fallback": float(adjustment.fallback),
    }  # fmt: skip
    return asked | {
        "policy/planned_demand_rps": plan.demand_rps,
        "policy/planned_capacity_rps": plan.capacity_rps,
        "policy/planned_accuracy": plan.accuracy,
        "policy/planned_servers": plan.servers,
        "policy/served_fraction": plan.served_fraction,
        "policy/mode": MODES.index(plan.mode),
        "policy/solve_ms": plan.certificate.solve_ms,
        "policy/gap": plan.certificate.gap,
    }
