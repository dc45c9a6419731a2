"""How far one plane goes: plans for up to 10,000 servers (time and proven gap), what actors of a cluster of 1,000 servers
take of a core at 50,000 task-requests a second, and that cluster in the event twin with the hop and plan delays of a plane.

Delays come from a calibration of *traffic* (loki-rl calibrate), or from a plane that is recorded here first; plans take
what they take here for so many servers. What sockets and processes cost beside is measured by benchmarks.router and
benchmarks.edge.

    python -m benchmarks.scaling [--calibration FILE] [--only plans|actors|twin]
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from benchmarks.host import load_average
from loki_rl.calibration.fit import calibrate, read_recordings
from loki_rl.control.allocator.allocate import allocate, capacity
from loki_rl.control.formulation.request import Request, Slice
from loki_rl.control.policies.named import make_policy
from loki_rl.core.cluster import addresses, build
from loki_rl.core.effects import Effect
from loki_rl.core.messages import Event
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Plan, Server, Snapshot
from loki_rl.env.simulate import Simulation, simulate
from loki_rl.env.world import Decide, Habits, Recorder
from loki_rl.files.calibration_file import LEVELS, Calibration, Contention, Mood, PlanTimes, load_calibration
from loki_rl.files.config import load_pipeline
from loki_rl.runs.options import RunOptions
from loki_rl.runs.recorded.recording import RECORDING
from loki_rl.runs.run import Scene, prepare, run_plane
from loki_rl.traces.generate import generate
from loki_rl.traces.trace import save_trace

PIPELINE, POLICY = "traffic", "exact"
CLUSTERS = (20, 1_000, 10_000)
SHARES = (0.15, 0.3, 0.45, 0.6, 0.75, 0.9)
# What `exact` asks with: ends of slices in shares of what is expected, and their chances.
SLICES = ((0.9, 0.98), (1.0, 0.8), (1.15, 0.4), (1.4, 0.1), (2.0, 0.01))
SERVERS, TASK_RPS = 1_000, 50_000.0
RECORDED_RPS, RECORDED_S = 200.0, 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibration", type=Path, help="of traffic; recorded here without")
    parser.add_argument("--only", choices=("plans", "actors", "twin"))
    parser.add_argument("--seconds", type=int, default=20, help="of the twin")
    asked = parser.parse_args()
    print(load_average(), flush=True)
    if asked.only in (None, "plans"):
        for servers in CLUSTERS:
            print_plans(servers)
        print_split()
    with TemporaryDirectory() as name:
        folder = Path(name)
        if asked.only in (None, "actors"):
            print_actors(scene_of(folder, request_rps(folder), min(asked.seconds, 5)))
        if asked.only in (None, "twin"):
            known = recorded(folder) if asked.calibration is None else load_calibration(asked.calibration, _pipeline())
            print_twin(scene_of(folder, request_rps(folder), asked.seconds), delays_of(known))


# -- plans ----------------------------------------------------------------------------------------------------------------


def print_split() -> None:
    """What is lost where several planes, each with its own servers, share the clients."""
    whole = capacity(_pipeline(), SERVERS).capacity_rps
    for planes in (2, 5, 10, 50):
        parts = planes * capacity(_pipeline(), SERVERS // planes).capacity_rps
        print(f"{SERVERS:,} servers in {planes} planes serve {parts / whole:.1%} of what one does", flush=True)


class Asked(Struct):
    """took_ms: of processor time; gap: proven, as a share of the objective."""

    took_ms: float
    gap: float


def print_plans(servers: int) -> None:
    """The plain optimum for six demands, then the question that `exact` asks of a cluster that runs the plan before."""
    pipeline = _pipeline()
    most = capacity(pipeline, servers).capacity_rps
    plain, aware = list[Asked](), list[Asked]()
    plan = allocate(pipeline, Request(SHARES[0] * most, servers))
    for share in SHARES:
        request = Request(share * most, servers)
        plain.append(timed(lambda request=request: allocate(pipeline, request))[0])  # type: ignore[misc]
        slices = tuple(Slice(share * most * end, chance) for end, chance in SLICES)
        aware_request = replace(
            request, current=running(plan, servers), horizon_s=20.0, mean_rps=share * most, slices=slices
        )  # fmt: skip
        found, plan = timed(lambda request=aware_request: allocate(pipeline, request))  # type: ignore[misc]
        aware.append(found)
    print(f"{servers:,} servers, capacity {most:,.0f} requests/s")
    for name, rows in (("plain", plain), ("with switches", aware)):
        times, gap = [row.took_ms for row in rows], max(row.gap for row in rows)
        print(f"  {name:14} median {median(times):8.1f} ms, largest {max(times):8.1f} ms, gap at most {gap:.1e}", flush=True)


def timed(ask: Callable[[], Plan]) -> tuple[Asked, Plan]:
    began = time.process_time()
    plan = ask()
    return Asked(1000 * (time.process_time() - began), plan.certificate.gap), plan


def running(plan: Plan, servers: int) -> tuple[Server, ...]:
    """The servers once a plan has been carried out."""
    stages = [(place.task, place.variant, place.batch) for place in plan.placements for _ in range(place.replicas)]
    held = [Server(number, stage, (stage[:2],)) for number, stage in enumerate(stages)]
    return (*held, *(Server(number) for number in range(len(held), servers)))


# -- a large cluster ------------------------------------------------------------------------------------------------------


def scene_of(folder: Path, rps: float, seconds: int) -> Scene:
    """Steady demand on a large cluster."""
    trace = folder / f"steady-{rps:.0f}-{seconds}.csv"
    save_trace(generate("ramp", seconds, rps, 0, peak=1.0), trace)
    return prepare(RunOptions(PIPELINE, str(trace), POLICY, servers=SERVERS))


def request_rps(folder: Path) -> float:
    """Requests per second that make TASK_RPS, by what a request makes in a first second."""
    scene = scene_of(folder, TASK_RPS / 20, 1)
    return TASK_RPS * len(scene.times) / played(scene).tally.executions


def played(scene: Scene, decide: Decide | None = None, record: Recorder | None = None) -> Simulation:
    chosen = decide or make_policy(POLICY, scene.pipeline, scene.policy).decide
    return simulate(scene.cluster, chosen, scene.times, scene.duration_s, record=record, habits=scene.habits)


def print_actors(scene: Scene) -> None:
    """What each actor takes of a core, alone: told again what it was told in the twin, with nothing carried."""
    told: dict[str, list[tuple[float, Event]]] = defaultdict(list)

    def keep(address: str, now: float, event: Event, _: list[Effect]) -> None:
        told[address].append((now, event))

    done = played(scene, record=keep)
    rate = done.tally.executions / scene.duration_s
    print(f"{SERVERS:,} servers at {rate:,.0f} task-requests/s; each actor alone, without sockets")
    shares: dict[str, list[float]] = defaultdict(list)
    for address in addresses(scene.cluster):
        took = _handled_s(address, scene, told[address])
        shares[_kind(address, scene)].append(took / scene.duration_s)
    for kind, cores in shares.items():
        each = f"{max(cores):.1%} of a core the busiest of {len(cores):,}" if len(cores) > 1 else f"{cores[0]:.1%} of a core"
        print(f"  {kind:28} {each}; the limit at {rate / max(*cores, 1e-9):,.0f} task-requests/s")


def _handled_s(address: str, scene: Scene, told: list[tuple[float, Event]]) -> float:
    handle = build(address, scene.cluster).handle
    began = time.process_time()
    for now, event in told:
        handle(event, now)
    return time.process_time() - began


def _kind(address: str, scene: Scene) -> str:
    """Workers together, every other actor by itself."""
    name, _, number = address.partition(":")
    return f"{name} of {scene.pipeline.tasks[int(number)].name}" if name == "router" else name


# -- with delays ----------------------------------------------------------------------------------------------------------


def recorded(folder: Path) -> Calibration:
    """Of a plane of 20 emulated workers on this host."""
    trace = folder / "learning.csv"
    save_trace(generate("ramp", RECORDED_S, RECORDED_RPS, 0, peak=1.0), trace)
    run_plane(RunOptions(PIPELINE, str(trace), POLICY, "emulated"), folder / "plane")
    return calibrate(read_recordings([folder / "plane" / RECORDING]), "python -m benchmarks.scaling")


def delays_of(known: Calibration) -> Calibration:
    """Its delays alone: a thousand servers do not share the host that was calibrated."""
    return replace(known, contention=Contention(), mood=Mood(), loads=(), fanouts=())


def print_twin(scene: Scene, known: Calibration) -> None:
    """Without delays, which tells what plans take for so many servers; then with those delays, and such plans."""
    took: list[float] = []
    policy = make_policy(POLICY, scene.pipeline, scene.policy)

    def decide(snapshot: Snapshot) -> Plan:
        began = time.perf_counter()
        plan = policy.decide(snapshot)
        took.append(time.perf_counter() - began)
        return plan

    _print_run("no delays", scene, played(scene, decide))
    plans = PlanTimes(None, len(took), tuple(float(second) for second in np.quantile(took, LEVELS)))
    slow = replace(scene, habits=Habits(replace(known, plans=(plans,)), POLICY))
    ways = ", ".join(f"{row.kind} {1e6 * row.seconds[LEVELS.index(0.5)]:.0f} us" for row in known.delays)
    print(f"  delays, medians: {ways}; a plan {1000 * median(took):.0f} ms, at most {1000 * max(took):.0f} ms")
    _print_run("with delays", slow, played(slow))


def _print_run(name: str, scene: Scene, done: Simulation) -> None:
    seen = done.summary
    print(
        f"{name}: {SERVERS:,} servers, {len(scene.times) / scene.duration_s:,.0f} requests/s, "
        f"{done.tally.executions / scene.duration_s:,.0f} task-requests/s for {scene.duration_s:g} s; "
        f"violations {seen.slo_violation_ratio:.3%}, accuracy {seen.accuracy:.2%}, servers {seen.servers_mean:.0f}, "
        f"p50 {seen.p50_ms:.0f} ms, p99 {seen.p99_ms:.0f} ms; {done.wall_s:.0f} s of wall time",
        flush=True,
    )


def _pipeline() -> Pipeline:
    return load_pipeline(PIPELINE).pipeline


if __name__ == "__main__":
    main()
