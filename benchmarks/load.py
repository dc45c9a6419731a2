"""Load on a plane of real processes with 20 emulated workers, beside the twin on the same requests: violations at the
planned load, beyond it with the plan held, and while every server changes its model.

Foreign processor time is that of everything on this machine which is not the plane or this script; a run with much of it
says more about the neighbours than about the plane, so it is printed and the run repeated.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from benchmarks.host import busy_s, load_average, own_s
from loki_rl.control.allocator.allocate import allocate
from loki_rl.control.formulation.request import Request
from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Pipeline, Swap
from loki_rl.core.plan import Placement, Plan, Route, Snapshot
from loki_rl.core.requests.ledger import Summary
from loki_rl.env.simulate import simulate, with_load_s
from loki_rl.files.config import load_pipeline
from loki_rl.serving.load.replay import replay
from loki_rl.serving.process.launch import LocalPlane

SERVERS = 20
UNAVOIDABLE = 1 - 1 / 1.2
# A swap: plans change at every second question, a load takes so long, so many servers load at once.
INTERVAL_S, LOAD_S, PARALLEL = 5.0, 0.5, 2


class Case(Struct):
    """most: violations that are right, None where the figure is for comparison. plans: in turn, for two intervals each.
    over: the case whose violations come on top."""

    name: str
    options: ClusterOptions
    plans: list[Plan]
    load: float
    most: float | None
    over: str = ""


class Held:
    """Plans in turn: each answers two questions, then the first comes again."""

    def __init__(self, plans: Sequence[Plan]) -> None:
        self._plans = plans
        self._asked = 0

    def decide(self, _: Snapshot) -> Plan:
        self._asked += 1
        return self._plans[(self._asked // 2) % len(self._plans)]


def held(_name: str, _cluster: ClusterOptions, options: dict[str, Any]) -> Held:
    """The policy factory that the controller's process calls."""
    return Held(msgspec.convert(options["plans"], list[Plan]))


def lesser(pipeline: Pipeline, plan: Plan) -> Plan:
    """The same servers, all with the next faster variant of their task."""
    other = {(place.task, place.variant): _faster(pipeline, place) for place in plan.placements}
    placements = tuple(replace(place, variant=other[place.task, place.variant]) for place in plan.placements)
    flows = {task: {other[task, name]: share for name, share in mix.items()} for task, mix in plan.flows.items()}
    routes = tuple(replace(route, stages=_renamed(pipeline, route, other)) for route in plan.routes)
    return replace(plan, placements=placements, flows=flows, routes=routes)


def _renamed(pipeline: Pipeline, route: Route, other: dict[tuple[str, str], str]) -> tuple[tuple[str, int, str], ...]:
    line = [pipeline.tasks[task].name for task in pipeline.lines[pipeline.index[route.leaf]]]
    return tuple((other[task, name], batch, kind) for task, (name, batch, kind) in zip(line, route.stages, strict=True))


def _faster(pipeline: Pipeline, place: Placement) -> str:
    def seconds(name: str) -> float:
        return pipeline.variant(place.task, name).latency[place.batch].p50

    names = [variant.name for variant in pipeline.task(place.task).variants if place.batch in variant.latency]
    faster = [name for name in names if seconds(name) < seconds(place.variant)]
    return max(faster, key=seconds)


def cases(seconds: float) -> list[Case]:
    pipeline = load_pipeline("traffic").pipeline
    plan = allocate(pipeline, Request(400.0, SERVERS))
    options = ClusterOptions(pipeline, SERVERS, interval_s=seconds + 60.0)
    found = [
        Case("planned load", options, [plan], 0.9, 0.005),
        Case("overload", options, [plan], 1.2, UNAVOIDABLE + 0.03),
        Case("overload, root deadlines alone", replace(options, soft_deadlines=False), [plan], 1.2, None),
    ]
    best = allocate(pipeline, Request(150.0, SERVERS))
    both: tuple[Swap, ...] = ("break", "make")
    for swap in both:
        swapped = replace(with_load_s(pipeline, LOAD_S), swap=swap)
        options = ClusterOptions(swapped, SERVERS, interval_s=INTERVAL_S, parallel_loads=PARALLEL)
        plans = [best, lesser(pipeline, best)]
        held_case = Case(f"no swap, {swap}", options, plans[:1], 0.7, None)
        found += [held_case, Case(f"all servers swap, {swap}", options, plans, 0.7, 0.005, held_case.name)]
    return found


def poisson(rps: float, seconds: float, seed: int) -> NDArray[np.float64]:
    times = np.cumsum(np.random.default_rng(seed).exponential(1 / rps, round(1.5 * rps * seconds) + 10))
    return times[times < seconds]


class Live(Struct):
    """foreign: processors that others used meanwhile; late_ms: how late an emulated model's timer was, in the mean."""

    summary: Summary
    lost: int
    foreign: float
    late_ms: float


def live(case: Case, arrivals: NDArray[np.float64]) -> Live:
    pipeline = case.options.pipeline
    plane = LocalPlane(
        case.options,
        engine="emulated",
        policy="held",
        policy_factory="benchmarks.load:held",
        policy_options={"plans": msgspec.to_builtins(case.plans)},
    )
    with plane:
        busy, own, began = busy_s(), own_s(plane.pids.values()), time.monotonic()
        seen = replay(plane.front, pipeline.name, arrivals, None, pipeline.slo_s)
        wall = time.monotonic() - began
        foreign = (busy_s() - busy - (own_s(plane.pids.values()) - own)) / wall
    byes = [bye for bye in plane.byes.values() if bye.timers]
    late_ms = 1000 * sum(bye.late_s for bye in byes) / max(1, sum(bye.timers for bye in byes))
    counted = seen.figures
    ended = counted.ok + counted.late + counted.dropped + counted.rejected + counted.cancelled + counted.failed
    return Live(counted, len(arrivals) - ended, foreign, late_ms)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0, help="of requests per run")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--twin", action="store_true", help="the twin alone")
    args = parser.parse_args()
    print(f"traffic, {SERVERS} servers, {args.seconds:g} s a run; {load_average()}")
    print(f"unavoidable at load 1.2: {UNAVOIDABLE:.1%}; a swap: {PARALLEL} servers at a time, {LOAD_S:g} s a load")
    titles = f"{'violated':>9}{'accuracy':>9}{'switches':>9}{'lost':>6}{'foreign':>9}{'timer':>8}"
    print(f"{'case':34}{'load':>5}{'':7}{titles}  limit")
    seen: dict[tuple[str, str, int], float] = {}
    for case in cases(args.seconds):
        for run in range(args.runs):
            arrivals = poisson(case.load * case.plans[0].capacity_rps, args.seconds, run)
            outcomes: dict[str, tuple[Summary, Live | None]] = {
                "twin": (simulate(case.options, Held(case.plans).decide, arrivals, args.seconds).summary, None)
            }
            if not args.twin:
                played = live(case, arrivals)
                outcomes["plane"] = played.summary, played
            for driver, (summary, played_live) in outcomes.items():
                seen[case.name, driver, run] = summary.slo_violation_ratio
                base = seen.get((case.over, driver, run), 0.0)
                print(row(case, driver, summary, played_live, base), flush=True)


def row(case: Case, driver: str, summary: Summary, seen: Live | None, base: float) -> str:
    violated = summary.slo_violation_ratio
    figures = f"{violated:9.2%}{summary.accuracy:9.4f}{summary.switches or 0:9}"
    beside = " " * 23 if seen is None else f"{seen.lost:6}{seen.foreign:9.2f}{seen.late_ms:6.1f}ms"
    if case.most is None:
        return f"{case.name:34}{case.load:5.1f} {driver:6}{figures}{beside}"
    limit = base + case.most
    verdict = f"<= {limit:.1%} {'met' if violated <= limit else 'MISSED'}"
    return f"{case.name:34}{case.load:5.1f} {driver:6}{figures}{beside}  {verdict}"


if __name__ == "__main__":
    main()
