"""The allocator's speed: CPU milliseconds per plan, everything included, beside stock solvers on the same problems.

From the repository's root: python -m benchmarks.allocator [--stock-seconds 20] [--only NAME]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from statistics import median
from time import process_time
from typing import Any
from unittest.mock import patch

import numpy as np
import pulp
from msgspec.structs import replace

from loki_rl.control.allocator import written_model
from loki_rl.control.allocator.allocate import allocate, allocate_jointly, capacity
from loki_rl.control.allocator.implicit_model import warm
from loki_rl.control.allocator.ladder import ladder
from loki_rl.control.formulation.request import Part, Request, Slice
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.core.plan import JointPlan, Plan, Server
from loki_rl.core.servers.server_type import ServerType
from loki_rl.files.config import load_pipeline

PIPELINES = Path(__file__).parents[1] / "pipelines"
SHARES = (0.15, 0.3, 0.45, 0.6, 0.75, 0.9)
BATCHES = (1, 2, 4, 8, 16, 32, 64)
GAP = 1e-6


def cpu_ms(work: Callable[[], Any]) -> float:
    """CPU time of this process and of solvers that run beside it."""
    began = _cpu_s()
    work()
    return 1000 * (_cpu_s() - began)


def _cpu_s() -> float:
    children = getrusage(RUSAGE_CHILDREN)
    return process_time() + children.ru_utime + children.ru_stime


def paper() -> Pipeline:
    return load_pipeline(PIPELINES / "traffic.yaml").pipeline


def all_batches() -> Pipeline:
    """The paper's pipeline as if every batch size from 1 to 64 had been profiled."""
    pipeline = paper()
    tasks = [replace(task, variants=tuple(_dense(variant) for variant in task.variants)) for task in pipeline.tasks]
    return replace(pipeline, tasks=tuple(tasks))


def _dense(variant: Variant) -> Variant:
    known = sorted(variant.latency)
    rows = np.array([(row.p50, row.p95, row.p99) for _, row in sorted(variant.latency.items())])
    sizes = range(1, 65)
    columns = [np.interp(sizes, known, rows[:, k]) for k in range(3)]
    return replace(
        variant, latency={b: Latency(*map(float, row)) for b, row in zip(sizes, zip(*columns, strict=True), strict=True)}
    )


def synthetic(parents: Sequence[int], variants: int, slo_s: float) -> Pipeline:
    """A tree of tasks whose more accurate variants are slower and find more to do for the next task."""
    rng = np.random.default_rng(17)
    tasks = []
    for number, parent in enumerate(parents):
        children = [f"t{child}" for child, above in enumerate(parents) if above == number]
        made = tuple(_variant(rng, k / (variants - 1), children) for k in range(variants))
        tasks.append(Task(f"t{number}", made, None if parent < 0 else f"t{parent}", 1.0 if parent < 0 else 0.0))
    leaves = [f"t{number}" for number in range(len(parents)) if number not in parents]
    return Pipeline("synthetic", slo_s, tuple(tasks), dict.fromkeys(leaves, 1 / len(leaves)))


def _variant(rng: np.random.Generator, size: float, children: list[str]) -> Variant:
    """size: 0 the smallest of its task, 1 the largest."""
    each_s = 0.002 * 8**size * rng.uniform(0.8, 1.2)
    latency = {b: Latency(p50, 1.1 * p50, 1.2 * p50) for b in BATCHES for p50 in (each_s * (0.5 + 0.5 * b),)}
    fanout = {child: float(0.8 + 0.6 * size * rng.uniform(0.8, 1.2)) for child in children}
    return Variant(f"v{size:.2f}", float(0.6 + 0.4 * size**0.7), latency, fanout)


CASES: dict[str, tuple[Callable[[], Pipeline], int, float]] = {
    "paper": (paper, 20, 5.0),
    "64 batches": (all_batches, 20, 5.0),
    "chain of 3, 8 variants": (lambda: synthetic((-1, 0, 1), 8, 0.6), 50, 10.0),
    "tree of 7, 8 variants, 0.1 s": (lambda: synthetic((-1, 0, 0, 1, 1, 2, 2), 8, 0.6), 50, 0.1),
    "tree of 7, 8 variants, 2 s": (lambda: synthetic((-1, 0, 0, 1, 1, 2, 2), 8, 0.6), 50, 2.0),
}


# Count, price and speed beside the figures of the file.
TYPES = (ServerType("large", 8, 3.0), ServerType("medium", 6, 2.0, speed=0.7), ServerType("small", 6, 1.0, speed=0.45))
# Servers that four pipelines share, and the time for a plan.
SHARED = {"4 pipelines, 1,000 servers": (1_000, 0.09), "4 pipelines, 10,000 servers": (10_000, 0.05)}


def four() -> list[Pipeline]:
    """Two published pipelines, a chain and a tree."""
    social = load_pipeline(PIPELINES / "social.yaml").pipeline
    return [paper(), social, synthetic((-1, 0, 1), 8, 0.6), synthetic((-1, 0, 0, 1, 1, 2, 2), 8, 0.6)]


def stock(seconds: float) -> dict[str, Any]:
    """Solvers through PuLP, one thread."""
    options = {"msg": False, "gapRel": GAP, "timeLimit": seconds}
    found = {"HiGHS": pulp.HiGHS(threads=1, **options), "CBC": _stock_cbc(threads=1, **options)}
    found |= {"Gurobi": pulp.GUROBI(**options)} if find_spec("gurobipy") else {}
    return {name: solver for name, solver in found.items() if solver}


def _stock_cbc(**options: Any) -> Any:
    """CBC where there is one, else None: PuLP 3 brings it (PULP_CBC_CMD), PuLP 4 finds an installed one (COIN_CMD)."""
    names = {"PULP_CBC_CMD", "COIN_CMD"} & set(pulp.listSolvers(onlyAvailable=True))
    return pulp.getSolver(max(names), **options) if names else None


def measure(name: str, seconds: float) -> None:
    """First plan of a pipeline, plans for other demands, and the same problems by stock solvers."""
    make, servers, limit_s = CASES[name]
    first = [cpu_ms(lambda: allocate(make(), Request(1.0, servers, time_limit_s=limit_s))) for _ in range(3)]
    pipeline = make()
    most = capacity(pipeline, servers).capacity_rps
    requests = [Request(share * most, servers, time_limit_s=limit_s) for share in SHARES]
    plans: list[Plan] = []
    own = [cpu_ms(lambda r=request: plans.append(allocate(pipeline, r))) for request in requests]  # type: ignore[misc]
    print(f"{name}: {servers} servers, first plan {median(first):.0f} ms with its models")
    print(f"  {'own':7} median {median(own):8.1f} ms, largest {max(own):9.1f} ms")
    for request, plan, took in zip(requests, plans, own, strict=True):
        c = plan.certificate
        print(f"    {request.demand_rps:7.1f}/s {plan.mode:9} {took:8.1f} ms, gap {c.gap:.1e}, {c.status}")
    # Limits of time would hide problems.
    compare(pipeline, [replace(request, time_limit_s=max(limit_s, 5.0)) for request in requests], seconds)


def compare(pipeline: Pipeline, requests: list[Request], seconds: float) -> None:
    """Every solver on the problems of every request, written down however large."""
    solvers = stock(seconds)
    took: dict[str, list[float]] = {name: [] for name in solvers}
    late = dict.fromkeys(solvers, 0)

    solve = written_model.solve_written  # type: ignore[attr-defined]

    def see(problem: Any, *limits: Any, **more: Any) -> Any:
        for name, solver in solvers.items():
            ms = cpu_ms(lambda solver=solver: problem.solve(solver))  # type: ignore[misc]
            took[name][-1] += ms
            late[name] += ms > 900 * seconds
        return solve(problem, *limits, **more)

    for request in requests:
        for times in took.values():
            times.append(0.0)
        with patch.object(written_model, "solve_written", see):
            allocate(pipeline, replace(request, solver="pulp"))
    for name, times in took.items():
        print(f"  {name:7} median {median(times):8.1f} ms, largest {max(times):9.1f} ms, {late[name]} out of time")


def measure_types() -> None:
    """Plans of the paper's pipeline on servers of three types, in CPU time."""
    pipeline, servers = paper(), sum(kind.count for kind in TYPES)
    first = cpu_ms(lambda: allocate(paper(), Request(1.0, servers, pool=TYPES)))
    most = capacity(pipeline, servers, pool=TYPES).capacity_rps
    print(f"3 server types: {servers} servers, first plan {first:.0f} ms with its models")
    tell({share: [Part(pipeline, Request(share * most, servers, pool=TYPES, time_limit_s=20.0))] for share in SHARES})


def measure_shared(name: str) -> None:
    """Plans of four pipelines on one cluster; shares: of what a quarter of the cluster could serve of each."""
    servers, limit_s = SHARED[name]
    pipelines = four()
    most = [capacity(pipeline, servers // 4).capacity_rps for pipeline in pipelines]
    questions = {
        share: [
            Part(pipeline, Request(share * rps, servers, time_limit_s=limit_s))
            for pipeline, rps in zip(pipelines, most, strict=True)
        ]
        for share in SHARES
    }
    first = cpu_ms(lambda: allocate_jointly(questions[SHARES[0]]))
    print(f"{name}: first plan {first:.0f} ms with its models")
    tell(questions)


def tell(questions: dict[float, list[Part]]) -> None:
    """Median and largest CPU time of joint plans, then each."""
    plans: dict[float, JointPlan] = {}
    took = {
        share: cpu_ms(lambda share=share, parts=parts: plans.__setitem__(share, allocate_jointly(parts)))  # type: ignore[misc]
        for share, parts in questions.items()
    }
    print(f"  {'own':7} median {median(took.values()):8.1f} ms, largest {max(took.values()):9.1f} ms")
    for share, plan in plans.items():
        c = plan.certificate
        print(f"    {share:.2f} of the most {plan.mode:9} {took[share]:8.1f} ms, gap {c.gap:.1e}, {c.status}")


def measure_ladder() -> None:
    pipeline = paper()
    most = capacity(pipeline, 20).capacity_rps
    demands = [float(d) for d in np.linspace(most / 50, most, 50)]
    # A copy has nothing that could be kept; the file is not read again.
    took = [cpu_ms(lambda: ladder(replace(pipeline), Request(1.0, 20), demands)) for _ in range(5)]
    print(f"ladder of 50 demands, paper: median {median(took):.0f} ms with its models")


# What a policy asks with: ends of slices in shares of what is expected, and their chances.
SLICES = ((0.9, 0.98), (1.0, 0.8), (1.15, 0.4), (1.4, 0.1), (2.0, 0.01))
# By what demand changes at most from one plan to the next.
CHANGES = {"calm": 0.05, "wild": 0.6}


def measure_switches() -> None:
    """A cluster that follows a demand: every plan begins with the servers that the one before it left."""
    pipeline = paper()
    for name, change in CHANGES.items():
        rng, demand, took = np.random.default_rng(0), 300.0, list[float]()
        plan = allocate(pipeline, Request(demand, 20))
        for _ in range(100):
            demand = float(np.clip(demand * np.exp(rng.uniform(-change, change)), 60, 1500))
            request = Request(
                demand, 20, current=_running(plan, 20), horizon_s=float(rng.choice([10, 20, 40])), mean_rps=300.0,
                slices=tuple(Slice(demand * end, chance) for end, chance in SLICES),
            )  # fmt: skip
            plans: list[Plan] = []
            took.append(cpu_ms(lambda request=request, plans=plans: plans.append(allocate(pipeline, request))))  # type: ignore[misc]
            plan = plans[0]
        print(f"switch-aware, paper, {name}: median {median(took):.1f} ms, largest {max(took):.1f} ms")


def _running(plan: Plan, servers: int) -> tuple[Server, ...]:
    """The servers as they are once a plan has been carried out."""
    stages = [(place.task, place.variant, place.batch) for place in plan.placements for _ in range(place.replicas)]
    held = [Server(number, stage, (stage[:2],)) for number, stage in enumerate(stages)]
    return (*held, *(Server(number) for number in range(len(held), servers)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stock-seconds", type=float, default=20.0, help="time limit of a stock solver per problem")
    parser.add_argument("--only", help="one case")
    options = parser.parse_args()
    warm()
    if options.only in (None, "ladder"):
        measure_ladder()
    if options.only in (None, "switches"):
        measure_switches()
    if options.only in (None, "types"):
        measure_types()
    for name in SHARED:
        if options.only in (None, name):
            measure_shared(name)
    for name in CASES:
        if options.only in (None, name):
            measure(name, options.stock_seconds)


if __name__ == "__main__":
    main()
