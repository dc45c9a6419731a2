"""Microseconds per task-request (one item at one task): the core alone, the event twin, and the live plane."""

from __future__ import annotations

import argparse
import gc
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from msgspec.structs import asdict, replace
from numpy.typing import NDArray

from loki_rl.control.allocator.allocate import allocate
from loki_rl.control.formulation.request import Request
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.core.cluster import addresses, build
from loki_rl.core.effects import Effect
from loki_rl.core.messages import Event
from loki_rl.core.options import ClusterOptions
from loki_rl.core.plan import Plan
from loki_rl.env.simulate import simulate
from loki_rl.files.config import load_pipeline
from loki_rl.serving.load.replay import replay
from loki_rl.serving.process.launch import LocalPlane

# Microseconds per item of a prototype in plain Python, to compare with.
PROTOTYPE_TWIN_US = 1e6 / 167_000
PROTOTYPE_PLANE_US = 31.0

DEMAND_RPS = 400.0
LOAD = 0.9

Told = list[tuple[str, float, Event]]


def poisson(rps: float, seconds: float) -> NDArray[np.float64]:
    """Arrival times [s]."""
    rng = np.random.default_rng(1)
    times = np.cumsum(rng.exponential(1 / rps, round(1.5 * rps * seconds) + 10))
    return times[times < seconds]


def record(options: ClusterOptions, plan: Plan, arrivals: NDArray[np.float64], seconds: float) -> tuple[Told, int]:
    """Everything that the actors of a twin run are told, and the task-requests in it."""
    told: Told = []

    def keep(address: str, now: float, event: Event, _: list[Effect]) -> None:
        told.append((address, now, event))

    done = simulate(options, lambda _: plan, arrivals, seconds, record=keep)
    return told, done.tally.executions


def core_us(options: ClusterOptions, told: Told, executions: int) -> float:
    """The actors alone, told again what they were told in the twin."""
    actors = {address: build(address, options).handle for address in addresses(options)}
    handlers = [(actors[address], now, event) for address, now, event in told]
    began = time.perf_counter()
    for handle, now, event in handlers:
        handle(event, now)
    return 1e6 * (time.perf_counter() - began) / executions


def twin_us(options: ClusterOptions, plan: Plan, arrivals: NDArray[np.float64], seconds: float) -> float:
    done = simulate(options, lambda _: plan, arrivals, seconds)
    return 1e6 * done.wall_s / done.tally.executions


def cpu_s(pid: int) -> float:
    """Processor time that a process has used [s]."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def live_us(options: ClusterOptions, arrivals: NDArray[np.float64]) -> dict[str, float]:
    """Processor time of the plane's processes per task-request: real ZeroMQ, emulated engines. Kind of process -> us."""
    settings = asdict(PolicyOptions(servers=options.servers, demand_rps=DEMAND_RPS))
    with LocalPlane(options, engine="emulated", policy="static", policy_options=settings) as plane:
        before = {name: cpu_s(pid) for name, pid in plane.pids.items()}
        seen = replay(plane.front, options.pipeline.name, arrivals, None, options.pipeline.slo_s)
        used = {name: cpu_s(pid) - before[name] for name, pid in plane.pids.items()}
    found: dict[str, float] = {}
    for name, seconds in used.items():
        kind = name.partition("-")[0]
        found[kind] = found.get(kind, 0.0) + 1e6 * seconds / max(1, seen.tally.executions)
    return found


def measured(runs: int, once: Callable[[], float]) -> tuple[float, float]:
    """Median and least of several runs: on a busy machine only the least says what the code costs."""
    figures = []
    for _ in range(runs):
        gc.collect()
        gc.freeze()  # what was recorded is not the measured code's garbage
        figures.append(once())
    return median(figures), min(figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pipeline", default="traffic")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="of trace time per run")
    parser.add_argument("--live-share", type=float, default=0.5, help="of the twin's arrival rate sent to the live plane")
    parser.add_argument("--no-live", action="store_true")
    args = parser.parse_args()
    pipeline = load_pipeline(args.pipeline).pipeline
    plan = allocate(pipeline, Request(demand_rps=DEMAND_RPS, servers=pipeline.servers))
    options = ClusterOptions(pipeline, pipeline.servers)
    arrivals = poisson(LOAD * plan.capacity_rps, args.seconds)
    told, executions = record(options, plan, arrivals, args.seconds)
    core = measured(args.runs, lambda: core_us(options, told, executions))
    twin = measured(args.runs, lambda: twin_us(options, plan, arrivals, args.seconds))
    print(
        f"{args.pipeline}: {len(arrivals)} requests, {executions} task-requests, {len(told)} events; medians of {args.runs}"
    )
    print(f"core alone      {core[0]:6.2f} us per task-request (least {core[1]:.2f})")
    ratio = twin[0] / PROTOTYPE_TWIN_US
    print(f"twin            {twin[0]:6.2f} us per task-request (least {twin[1]:.2f}), {ratio:.2f} x the prototype's 6.0")
    if not args.no_live:
        _print_live(
            replace(options, lease=30.0), poisson(args.live_share * LOAD * plan.capacity_rps, args.seconds), args.runs
        )


def _print_live(options: ClusterOptions, arrivals: NDArray[np.float64], runs: int) -> None:
    kinds = [live_us(options, arrivals) for _ in range(min(3, runs))]
    figures = {kind: median(run[kind] for run in kinds) for kind in kinds[0]}
    plane = median(sum(run.values()) for run in kinds)
    print(f"live routers    {figures['router']:6.2f} us of processor time per task-request")
    parts = ", ".join(f"{kind} {us:.1f}" for kind, us in figures.items())
    print(f"live plane      {plane:6.2f} us ({parts}), {plane / PROTOTYPE_PLANE_US:.2f} x the prototype's 31")


if __name__ == "__main__":
    main()
