"""The studies of the Loki paper (HPDC'24), made again: effective capacity, servers off-peak, policies end to end, dropping,
SLO, run time. Owns what is run and how each figure is defined; must not know how a report looks nor how runs share cores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from loki_rl.control.allocator import allocate, capacity
from loki_rl.control.request import Request
from loki_rl.core.ledger import Summary
from loki_rl.core.options import DROPS
from loki_rl.core.pipeline import Pipeline
from loki_rl.runs import RunOptions, RunResult, run_twin
from loki_rl.traces.generate import generate
from loki_rl.traces.trace import save_trace

FLOORS = (0.95, 0.9, 0.875, 0.85)
LOADS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7)
TOLERATED = 0.01
SLO_FACTORS = (0.6, 0.8, 1.0, 1.2, 1.6, 2.0)
COMPARED = ("static", "hardware", "proteus", "loki", "exact", "forecast", "clairvoyant")
PUBLISHED = ("hardware", "proteus", "loki")
# Of the shipped day: 20 minutes in 5, the length of the paper's traces; its peak over what hardware scaling alone can serve.
PEAK_OVER_MEAN, LOW_UNDER_PEAK, COMPRESS, PEAK = 1.6, 4.0, 4.0, 1.5
STEADY_S = 40

Row = tuple[str | float, ...]
Play = Callable[[Sequence[RunOptions]], list[RunResult]]


class Claim(Struct, frozen=True):
    """A published figure beside ours. ours: None where it could not be measured; how: how each of the two is defined."""

    name: str
    published: str
    ours: float | None
    how: str


class Study(Struct, frozen=True):
    """A table, and the claims that it speaks to."""

    title: str
    about: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...] = ()


class Subject(Struct, frozen=True):
    """What is studied: a pipeline and its cluster, seeds, a folder for traces, and what plays runs."""

    options: RunOptions
    pipeline: Pipeline
    servers: int
    seeds: tuple[int, ...]
    folder: Path
    play: Play

    @property
    def hardware_rps(self) -> float:
        """What the most accurate variants alone can serve."""
        return capacity(self.pipeline, self.servers, self.pipeline.best_accuracy).capacity_rps

    @property
    def swift(self) -> RunOptions:
        """The same day where models load in no time, as in the paper's simulator."""
        return replace(self.day, load_s=0.0, interval_s=2.0)

    @property
    def day(self) -> RunOptions:
        """The end-to-end trace: a day that hardware scaling alone can serve at its low, but not at its peak."""
        mean_rps = PEAK * self.hardware_rps / PEAK_OVER_MEAN
        return replace(self.options, trace="diurnal", compress=COMPRESS, mean_rps=mean_rps)

    def means(self, cases: Sequence[RunOptions]) -> list[Summary]:
        """For each case the mean over the seeds."""
        runs = [replace(case, seed=seed) for case in cases for seed in self.seeds]
        found, n = self.play(runs), len(self.seeds)
        return [_mean([done.summary for done in found[k * n : (k + 1) * n]]) for k in range(len(cases))]


def _mean(summaries: Sequence[Summary]) -> Summary:
    # Any: a mean of counts is no whole number, and nothing here needs it to be.
    means: dict[str, Any] = {
        name: sum(getattr(one, name) or 0.0 for one in summaries) / len(summaries) for name in Summary.__struct_fields__
    }
    return Summary(**means)


# -- the studies ------------------------------------------------------------------------------------------------------------


def effective_capacity(subject: Subject) -> Study:
    """Largest demand at an accuracy floor: as planned, and as held in the twin."""
    floors = (subject.pipeline.best_accuracy, *FLOORS)
    plans = [capacity(subject.pipeline, subject.servers, floor) for floor in floors]
    held = _held(subject, floors, [plan.capacity_rps for plan in plans])
    alone = held[0][0]
    rows = [
        (100 * floor, plan.capacity_rps, 100 * plan.accuracy, load * plan.capacity_rps, 100 * accuracy, ratio)
        for floor, plan, (load, accuracy) in zip(floors, plans, held, strict=True)
        for ratio in [load * plan.capacity_rps / (alone * plans[0].capacity_rps) if alone else 0.0]
    ]
    how = (
        "published: of a fixed cluster, accuracy scaling against hardware scaling alone; at which accuracy and share of "
        f"violations is not stated with it. Ours: demand that the twin holds with at most {TOLERATED:.0%} of the requests "
        f"violated at an accuracy floor of {FLOORS[-1]:.0%}, over the same without any loss of accuracy"
    )
    return Study(
        "Effective capacity",
        "Plan for the largest demand at an accuracy floor, then Poisson demand in the twin, lowered until it is held.",
        ("floor %", "planned req/s", "accuracy %", "held req/s", "accuracy held %", "x hardware"),
        tuple(rows),
        (Claim("effective capacity", "2.7x", rows[-1][-1] or None, how),),
    )


def _held(subject: Subject, floors: Sequence[float], planned: Sequence[float]) -> list[tuple[float, float]]:
    """For each floor the largest share of the planned demand that the twin holds, and the accuracy it has then."""
    trace = subject.folder / "steady.csv"
    save_trace(generate("ramp", STEADY_S, max(1000.0, 2 * max(planned)), 0, peak=1.0), trace)  # thinned, so still Poisson
    base = replace(subject.options, trace=str(trace), policy="static", interval_s=10.0 * STEADY_S)
    cases = [
        replace(base, min_accuracy=floor, demand_rps=plan * (1 - 1e-6), initial_rps=plan, mean_rps=load * plan)
        for floor, plan in zip(floors, planned, strict=True)
        for load in LOADS
    ]
    means, n = subject.means(cases), len(LOADS)
    found = []
    for k in range(len(planned)):
        rows = zip(LOADS, means[k * n : (k + 1) * n], strict=True)
        holds = [(load, one.accuracy) for load, one in rows if one.slo_violation_ratio <= TOLERATED]
        found.append(max(holds, default=(0.0, 0.0)))
    return found


def off_peak(subject: Subject) -> Study:
    """Servers that the plan needs when demand is low."""
    low = PEAK / LOW_UNDER_PEAK
    shares = (0.1, 0.25, low, 0.5, 0.75, 1.0)
    full = subject.hardware_rps
    used = [
        allocate(subject.pipeline, Request(demand_rps=share * full * (1 - 1e-6), servers=subject.servers)).servers
        for share in shares
    ]
    rows = [(round(share * full, 1), n, subject.servers / n) for share, n in zip(shares, used, strict=True)]
    how = (
        "published: against systems that use the whole cluster whatever the demand. Ours: servers of the cluster over those "
        "of the plan, most accurate variants, at the low of the end-to-end day; the demand decides, as the table shows"
    )
    return Study(
        "Servers off-peak",
        "Exact plans; no run.",
        ("demand req/s", "servers", "times fewer"),
        tuple(rows),
        (Claim("servers off-peak", "2.67x fewer", rows[shares.index(low)][2], how),),
    )


def as_published(subject: Subject) -> Study:
    """Policies of the paper under its conditions: models load in no time, a plan every second."""
    day = replace(subject.day, load_s=0.0, interval_s=1.0)
    means = _policies(subject, day, PUBLISHED)
    rivals = {name: one.slo_violation_ratio for name, one in means.items() if name != "loki"}
    worst, ours = max(rivals, key=rivals.__getitem__), means["loki"].slo_violation_ratio
    how = (
        "published: against other systems; the script of its figure plots the share of sub-requests that were dropped. "
        f"Ours: {worst} over loki, share of requests not answered in full by the deadline, whole day"
    )
    claim = Claim("violations", "up to 10x fewer", rivals[worst] / ours if ours else None, how)
    about = f"A day in five minutes, peak {PEAK:g} times what hardware scaling alone can serve; models load in no time."
    return Study("End to end, as published", about, ("policy", *FIGURES), _rows(means), (claim,))


def end_to_end(subject: Subject) -> Study:
    """All policies where loading a model takes its time."""
    means = _policies(subject, subject.day, COMPARED)
    about = "The same day with the pipeline's load times, which the paper's simulator did not have."
    return Study("End to end, with load times", about, ("policy", *FIGURES), _rows(means))


def _policies(subject: Subject, day: RunOptions, names: Sequence[str]) -> dict[str, Summary]:
    return dict(zip(names, subject.means([replace(day, policy=name) for name in names]), strict=True))


def _rows(means: dict[str, Summary]) -> tuple[Row, ...]:
    return tuple((name, *_figures(one)) for name, one in means.items())


FIGURES = ("violations %", "leaf violations %", "accuracy %", "servers", "J")


def _figures(one: Summary) -> tuple[float, ...]:
    shares = (one.slo_violation_ratio, one.leaf_violation_ratio or 0.0, one.accuracy)
    return (*(100 * share for share in shares), one.servers_mean or 0.0, one.cost_j or 0.0)


def dropping(subject: Subject) -> Study:
    """The four dropping policies under one controller."""
    means = subject.means([replace(subject.swift, policy="loki", drop=drop) for drop in DROPS])
    rows = _rows(dict(zip(DROPS, means, strict=True)))
    about = (
        "The same day under policy loki, models load in no time; drops by deadline at no task, the last, every task, and "
        "with rerouting."
    )
    return Study("Dropping", about, ("dropping", *FIGURES), rows)


def slo_sensitivity(subject: Subject) -> Study:
    """Capacity and the same day under tighter and looser SLOs."""
    day, slo_ms = subject.swift, [round(1000 * subject.pipeline.slo_s * factor) for factor in SLO_FACTORS]
    plans = [capacity(subject.pipeline, subject.servers, 0.9, slo_s=ms / 1000).capacity_rps for ms in slo_ms]
    means = subject.means([replace(day, policy="loki", slo_ms=float(ms)) for ms in slo_ms])
    rows = [(ms, plan, *_figures(one)) for ms, plan, one in zip(slo_ms, plans, means, strict=True)]
    about = "Planned capacity at an accuracy floor of 90 %, and the same day under policy loki, models load in no time."
    return Study("SLO", about, ("SLO ms", "capacity req/s", *FIGURES), tuple(rows))


def run_time(subject: Subject) -> Study:
    """What decisions cost: plans, and requests in the routers."""
    demands = [subject.hardware_rps * (0.1 + 0.1 * k) for k in range(30)]
    plans = [allocate(subject.pipeline, Request(demand_rps=demand, servers=subject.servers)) for demand in demands]
    times = sorted(plan.certificate.build_ms + plan.certificate.solve_ms for plan in plans)
    case = replace(subject.day, policy="static", interval_s=1e4, to_s=240.0)
    began = process_time()
    executions = run_twin(case).summary.task_executions or 1
    each_us = 1e6 * (process_time() - began) / executions
    rows = (
        ("plan, median of 30 demands [ms]", median(times)),
        ("plan, slowest [ms]", times[-1]),
        ("task request: gateway, router, worker and twin, CPU [us]", each_us),
    )
    return Study("Run time", "On this host, beside whatever else runs on it.", ("what", "value"), rows)


STUDIES = (effective_capacity, off_peak, as_published, end_to_end, dropping, slo_sensitivity, run_time)
