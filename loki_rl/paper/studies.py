"""The studies of the Loki paper (HPDC'24), made again: effective capacity, servers off-peak, policies end to end, dropping,
SLO, run time. Owns what is run and how each figure is defined; must not know how a report looks nor how runs share cores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import mean, median
from time import process_time

from msgspec.structs import replace

from loki_rl.control.allocator.allocate import allocate, capacity
from loki_rl.control.formulation.request import Request
from loki_rl.core.options import DROPS
from loki_rl.core.requests.ledger import Summary
from loki_rl.paper.study import Chart, Claim, Making, Row, Runs, Study, Subject, means
from loki_rl.runs.options import RunOptions
from loki_rl.runs.result import RunResult
from loki_rl.runs.run import run_twin
from loki_rl.runs.tensorboard.curves import whole_seconds
from loki_rl.traces.generate import generate
from loki_rl.traces.trace import save_trace

FLOORS = (0.95, 0.9, 0.875, 0.85)
LOADS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7)
TOLERATED = 0.01
SLO_FACTORS = (0.6, 0.8, 1.0, 1.2, 1.6, 2.0)
COMPARED = ("static", "hardware", "proteus", "loki", "exact", "forecast", "clairvoyant")
PUBLISHED = ("hardware", "proteus", "loki")
BY_TABLE = ", by table"
# Of the shipped day: 20 minutes in 5, the length of the paper's traces; its peak over what hardware scaling alone can serve.
PEAK_OVER_MEAN, LOW_UNDER_PEAK, COMPRESS, PEAK = 1.6, 4.0, 4.0, 1.5
QUIET = 0.1
STEADY_S = 40

FIGURES = ("violations %", "leaf violations %", "accuracy %", "servers", "J")
SHOWN = ("violations %", "accuracy %", "servers", "J")


def day(subject: Subject) -> RunOptions:
    """The end-to-end trace: a day that hardware scaling alone can serve at its low, but not at its peak."""
    mean_rps = PEAK * subject.hardware_rps / PEAK_OVER_MEAN
    return replace(subject.options, trace="diurnal", compress=COMPRESS, mean_rps=mean_rps)


def swift(subject: Subject) -> RunOptions:
    """The same day where models load in no time, as in the paper's simulator."""
    return replace(day(subject), load_s=0.0, interval_s=2.0)


# -- the studies ------------------------------------------------------------------------------------------------------------


def effective_capacity(subject: Subject) -> Making:
    """Largest demand at an accuracy floor: as planned, and as held in the twin."""
    floors = (subject.best, *FLOORS)
    plans = [capacity(subject.pipeline, subject.servers, floor) for floor in floors]
    trace = subject.folder / "steady.csv"
    most = max(plan.capacity_rps for plan in plans)
    save_trace(generate("ramp", STEADY_S, max(1000.0, 2 * most), 0, peak=1.0), trace)  # thinned, so still Poisson
    base = replace(subject.options, trace=str(trace), policy="static", interval_s=10.0 * STEADY_S)
    runs = yield {
        _held_at(floor, load): replace(
            base,
            min_accuracy=floor,
            demand_rps=plan.capacity_rps * (1 - 1e-6),
            initial_rps=plan.capacity_rps,
            mean_rps=load * plan.capacity_rps,
        )
        for floor, plan in zip(floors, plans, strict=True)
        for load in LOADS
    }
    found = means(runs)
    held = [_held([(load, found[_held_at(floor, load)]) for load in LOADS]) for floor in floors]
    alone = held[0][0] * plans[0].capacity_rps
    rows = tuple(
        (f"{100 * floor:.1f}", plan.capacity_rps, 100 * plan.accuracy, load * plan.capacity_rps, 100 * accuracy, ratio)
        for floor, plan, (load, accuracy) in zip(floors, plans, held, strict=True)
        for ratio in [load * plan.capacity_rps / alone if alone else 0.0]
    )
    how = (
        "published: of a fixed cluster, accuracy scaling against hardware scaling alone; at which accuracy and share of "
        f"violations is not stated with it. Ours: demand that the twin holds with at most {TOLERATED:.0%} of the requests "
        f"violated at an accuracy floor of {FLOORS[-1]:.1%}, over the same without any loss of accuracy"
    )
    return Study(
        "Effective capacity",
        "Plan for the largest demand at an accuracy floor, then Poisson demand in the twin, lowered until it is held.",
        ("floor %", "planned req/s", "accuracy %", "held req/s", "accuracy held %", "x hardware"),
        rows,
        (Claim("effective capacity", "2.7x", 2.7, float(rows[-1][-1]) or None, how),),
        Chart("bars", ("planned req/s", "held req/s")),
    )


def _held_at(floor: float, load: float) -> str:
    return f"floor {floor:.4f} at load {load:g}"


def _held(loads: Iterable[tuple[float, Summary]]) -> tuple[float, float]:
    """The largest load that was held, and the accuracy it has then."""
    held = ((load, one.accuracy or 0.0) for load, one in loads if one.slo_violation_ratio <= TOLERATED)
    return max(held, default=(0.0, 0.0))


def off_peak(subject: Subject) -> Making:
    """Servers that the plan needs when demand is low."""
    yield {}
    shares = (0.1, 0.25, PEAK / LOW_UNDER_PEAK, 0.5, 0.75, 1.0)
    full = subject.hardware_rps
    used = [
        allocate(subject.pipeline, Request(demand_rps=share * full * (1 - 1e-6), servers=subject.servers)).servers
        for share in shares
    ]
    rows = tuple((round(share * full, 1), n, subject.servers / n) for share, n in zip(shares, used, strict=True))
    return Study(
        "Servers off-peak",
        "Exact plans with the most accurate variants; no run.",
        ("demand req/s", "servers", "times fewer"),
        rows,
        chart=Chart("lines", ("servers", "times fewer")),
    )


def as_published(subject: Subject) -> Making:
    """Policies of the paper under its conditions: models load in no time, a plan every second; by both data planes."""
    base = replace(swift(subject), interval_s=1.0)
    runs = yield {name: replace(base, policy=name) for name in PUBLISHED} | {
        name + BY_TABLE: replace(base, policy=name, routing="table") for name in PUBLISHED
    }
    found = means(runs)
    about = (
        f"A day in five minutes, peak {PEAK:g} times what hardware scaling alone can serve; models load in no time, a plan "
        "every second. Workers pull; below, the same by the paper's routing tables."
    )
    claims = (_violations(found), _servers(runs))
    return Study(
        "End to end, as published", about, ("policy", *FIGURES), _rows(found), claims, Chart("bars", SHOWN), PUBLISHED
    )


def _violations(found: dict[str, Summary]) -> Claim:
    """The worst rival over loki where workers pull; what each rival has, on either data plane, stands beside it."""
    shares = {name: one.slo_violation_ratio for name, one in found.items()}
    rivals = [name for name in PUBLISHED if name != "loki"]
    ratios = {
        rival + plane: shares[rival + plane] / shares["loki" + plane]
        for plane in ("", BY_TABLE)
        for rival in rivals
        if shares["loki" + plane]
    }
    how = (
        "published: against other systems; the script of its figure plots the share of sub-requests that were dropped. "
        "Ours: the worst rival over loki, share of requests not answered in full by the deadline, whole day. Of loki's: "
        + (", ".join(f"{name} {ratio:.2f}x" for name, ratio in ratios.items()) or "loki had none")
    )
    worst = max((ratios[name] for name in rivals if name in ratios), default=None)
    return Claim("violations", "up to 10x fewer", 10.0, worst, how)


def _servers(runs: Runs) -> Claim:
    """What keeps its whole cluster busy over loki, while demand is lowest."""
    rival, ours = _quiet_servers(runs["proteus"]), _quiet_servers(runs["loki"])
    how = (
        "published: against systems that use the whole cluster whatever the demand. Ours: proteus over loki, mean servers "
        f"in the {QUIET:.0%} of the seconds with the least demand; how low the day gets decides, as the table off-peak shows"
    )
    return Claim("servers off-peak", "2.67x fewer", 2.67, rival / ours if ours else None, how)


def _quiet_servers(seeds: Sequence[RunResult]) -> float:
    used = []
    for done in seeds:
        seconds = sorted(whole_seconds(done.tally, done.duration_s), key=lambda second: second.arrivals)
        used += [second.servers for second in seconds[: max(1, round(QUIET * len(seconds)))]]
    return mean(used)


def end_to_end(subject: Subject) -> Making:
    """All policies where loading a model takes its time."""
    runs = yield {name: replace(day(subject), policy=name) for name in COMPARED}
    about = "The same day with the pipeline's load times, which the paper's simulator did not have."
    return Study(
        "End to end, with load times", about, ("policy", *FIGURES), _rows(means(runs)), (), Chart("bars", SHOWN), COMPARED
    )


def _rows(found: dict[str, Summary]) -> tuple[Row, ...]:
    return tuple((name, *_figures(one)) for name, one in found.items())


def _figures(one: Summary) -> tuple[float, ...]:
    shares = (one.slo_violation_ratio, one.leaf_violation_ratio or 0.0, one.accuracy or 0.0)
    return (*(100 * share for share in shares), one.servers_mean or 0.0, one.cost_j or 0.0)


def dropping(subject: Subject) -> Making:
    """The four dropping policies under one controller."""
    runs = yield {drop: replace(swift(subject), policy="loki", drop=drop) for drop in DROPS}
    about = (
        "The same day under policy loki, models load in no time; drops by deadline at no task, the last, every task, and "
        "with rerouting."
    )
    return Study("Dropping", about, ("dropping", *FIGURES), _rows(means(runs)), (), Chart("bars", SHOWN))


def slo_sensitivity(subject: Subject) -> Making:
    """Capacity and the same day under tighter and looser SLOs."""
    slo_ms = [round(1000 * subject.pipeline.slo_s * factor) for factor in SLO_FACTORS]
    runs = yield {f"{ms} ms": replace(swift(subject), policy="loki", slo_ms=float(ms)) for ms in slo_ms}
    plans = [capacity(subject.pipeline, subject.servers, 0.9, slo_s=ms / 1000).capacity_rps for ms in slo_ms]
    found = means(runs)
    rows = tuple((ms, plan, *_figures(found[f"{ms} ms"])) for ms, plan in zip(slo_ms, plans, strict=True))
    about = "Planned capacity at an accuracy floor of 90 %, and the same day under policy loki, models load in no time."
    panels = ("capacity req/s", "violations %", "accuracy %", "servers")
    return Study("SLO", about, ("SLO ms", "capacity req/s", *FIGURES), rows, (), Chart("lines", panels))


def run_time(subject: Subject) -> Making:
    """What decisions cost: plans, and requests in the routers."""
    yield {}
    demands = [subject.hardware_rps * (0.1 + 0.1 * k) for k in range(30)]
    plans = [allocate(subject.pipeline, Request(demand_rps=demand, servers=subject.servers)) for demand in demands]
    times = sorted(plan.certificate.build_ms + plan.certificate.solve_ms for plan in plans)
    case = replace(day(subject), policy="static", interval_s=1e4, to_s=240.0)
    began = process_time()
    executions = run_twin(case).summary.task_executions or 1
    each_us = 1e6 * (process_time() - began) / executions
    rows: tuple[Row, ...] = (
        ("plan, median of 30 demands [ms]", median(times)),
        ("plan, slowest [ms]", times[-1]),
        ("task request: gateway, router, worker and twin, CPU [us]", each_us),
    )
    return Study("Run time", "On this host, beside whatever else runs on it.", ("what", "value"), rows)


STUDIES: tuple[Callable[[Subject], Making], ...] = (
    effective_capacity, off_peak, as_published, end_to_end, dropping, slo_sensitivity, run_time,
)  # fmt: skip
