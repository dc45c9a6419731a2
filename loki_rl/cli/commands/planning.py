"""Commands that ask the allocator: plan and capacity."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from loki_rl.api.planning import capacity as largest
from loki_rl.api.planning import cluster_for, plan_row, question, read
from loki_rl.cli import terminal
from loki_rl.cli.flags import Fields, Json, UsageError
from loki_rl.cli.provenance import tell_profile
from loki_rl.control.allocator.allocate import allocate_jointly
from loki_rl.control.allocator.ladder import ladder
from loki_rl.control.explain.prices import explain
from loki_rl.control.formulation.request import Part, Request
from loki_rl.core.plan import JointPlan
from loki_rl.errors import FailureError
from loki_rl.files.config import PipelineFile
from loki_rl.options import LEAST_RPS, MOST_RPS, Fraction, Help, Servers, Slo
from loki_rl.reports.plots import phases_png
from loki_rl.runs.options import Headroom, PoolName, ProfileName, QueueingName, RunOptions, SolverName

T = TypeVar("T")

# Longest ladder of plans: at up to a tenth of a second each, the user should not take it for a hang.
MAX_LADDER = 1000
# What of a run the allocator asks about.
ASKED = ("pipeline", "servers", "pool", "slo_ms", "min_accuracy", "queueing", "solver", "headroom", "profile")


def plan(
    pipeline: Annotated[list[str], Help("Pipeline files, or names of some in pipelines/.", "pipeline")],
    demand: Annotated[list[str], Help("Requests per second, or FROM:TO:STEP for a ladder; one for each pipeline.")],
    servers: Servers = None,
    pool: PoolName = None,
    weight: Annotated[
        list[float] | None, Help("How much a pipeline counts beside the others; one for each pipeline.")
    ] = None,
    slo_ms: Annotated[list[Slo] | None, Help("End-to-end deadline [ms]; for all, or for each pipeline.")] = None,
    min_accuracy: Annotated[
        list[Fraction] | None, Help("Least mean accuracy of what is served; for all, or for each pipeline.")
    ] = None,
    queueing: QueueingName = None,
    solver: SolverName = "search",
    headroom: Headroom = None,
    profile: ProfileName = None,
    plot: Annotated[Path | None, Help("Draw a ladder's phases to this PNG.")] = None,
    as_json: Json = False,
) -> None:
    """The best use of the servers for a demand: hardware scaling, then accuracy scaling, then shedding.

    Several pipelines share the servers; their accuracies and what is served count by weight.
    """
    if profile is not None and len(pipeline) > 1:
        raise UsageError("--profile is for one pipeline; name profiles in a --pool file")
    slos: Sequence[float | None] = _each("--slo-ms", slo_ms, pipeline) or [None] * len(pipeline)
    files = [read(name, slo, profile) for name, slo in zip(pipeline, slos, strict=True)]
    for file in files:
        tell_profile(file)
    demands = [_demands(text) for text in _each("--demand", demand, pipeline, shared=False) or []]
    if plot is not None and len(demands[0]) == 1:
        raise UsageError("--plot draws a ladder of plans; give --demand as FROM:TO:STEP")
    if len(files) > 1 and any(len(levels) > 1 for levels in demands):
        raise UsageError("a ladder of demands is for one pipeline; give each of several one rate")
    if len(files) > 1 and servers is None and pool is None:
        raise UsageError("several pipelines share a cluster; give its --servers or a --pool")
    at = cluster_for(files, servers, pool)
    floors = _each("--min-accuracy", min_accuracy, pipeline) or [0.0] * len(pipeline)
    requests = [
        question(
            at,
            levels[0],
            min_accuracy=floor,
            queueing=queueing or "tail",
            headroom=headroom or 0.0,
            solver=solver,
        )
        for levels, floor in zip(demands, floors, strict=True)
    ]
    if len(demands[0]) > 1:
        _plan_ladder(files[0], requests[0], demands[0], plot, as_json)
    else:
        weights = _each("--weight", weight, pipeline, shared=False) or [1.0] * len(pipeline)
        _plan_once(files, requests, weights, as_json)


def _plan_once(files: Sequence[PipelineFile], requests: Sequence[Request], weights: Sequence[float], as_json: bool) -> None:
    parts = [Part(*one) for one in zip((file.pipeline for file in files), requests, weights, strict=True)]
    joint = allocate_jointly(parts)
    with terminal.progress_bars() as bars:
        progress = partial(bars, "what more would be worth")
        if requests[0].pool:  # where there are several types of servers each plan takes a second or two
            progress(0.0)
        reasons = explain(parts, joint, progress)
    joint = msgspec.structs.replace(joint, reasons=reasons)
    if len(parts) == 1:
        found = msgspec.structs.replace(joint.plans[0], reasons=joint.reasons)
        terminal.say(plan_row(found), as_json, lambda: terminal.plan(files[0].name, found))
    else:
        terminal.say(joint_row(parts, joint), as_json, lambda: terminal.joint_plan([file.name for file in files], joint))
    if joint.mode == "infeasible":
        raise FailureError("; ".join(joint.reasons))


def _plan_ladder(file: PipelineFile, request: Request, demands: list[float], plot: Path | None, as_json: bool) -> None:
    with terminal.progress_bars() as bars:
        plans = ladder(file.pipeline, request, demands, partial(bars, "plans"))
    if plot is not None:
        phases_png(plans, plot, f"{file.name}: optimal plans by demand")
    terminal.say({"plans": [plan_row(one) for one in plans]}, as_json, lambda: terminal.ladder(file.name, plans))


def capacity(options: Annotated[RunOptions, Fields(ASKED)], as_json: Json = False) -> None:
    """The most requests per second that the servers can serve at an accuracy floor."""
    file = options.file
    tell_profile(file)
    found = largest(
        file,
        options.servers,
        pool=options.pool,
        min_accuracy=options.min_accuracy,
        queueing=options.queueing or "tail",
        headroom=options.headroom or 0.0,
        solver=options.solver,
    )
    row = {"max_qps": found.capacity_rps, **plan_row(found)}
    terminal.say(row, as_json, lambda: terminal.plan(file.name, found))


def joint_row(parts: Sequence[Part], joint: JointPlan) -> dict[str, Any]:
    """The JSON of several pipelines' plans: the contract's keys for all of them, then a plan for each."""
    total = sum(part.weight for part in parts)
    rows = [
        {"pipeline": part.pipeline.name, "weight": part.weight, **plan_row(plan)}
        for part, plan in zip(parts, joint.plans, strict=True)
    ]
    return {
        "mode": joint.mode,
        "servers": joint.servers,
        "price": joint.price,
        **{key: sum(row["weight"] * row[key] for row in rows) / total for key in ("accuracy", "served_fraction")},
        "placements": [{"pipeline": row["pipeline"], **place} for row in rows for place in row["placements"]],
        **msgspec.to_builtins(joint.certificate),
        "reasons": list(joint.reasons),
        "plans": rows,
    }


def _each(flag: str, values: Sequence[T] | None, pipelines: Sequence[str], shared: bool = True) -> list[T] | None:
    """One value for each pipeline; shared: a single one is for all."""
    if not values:
        return None
    if len(values) == 1 and shared:
        return [values[0]] * len(pipelines)
    if len(values) != len(pipelines):
        raise UsageError(f"{flag} stands {len(values)} times; give it once for each of {len(pipelines)} pipelines")
    return list(values)


def _demands(text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(":")]
    except ValueError:
        numbers = []
    if len(numbers) == 1 and LEAST_RPS <= numbers[0] <= MOST_RPS:
        return numbers
    if len(numbers) == 3 and LEAST_RPS <= numbers[0] <= numbers[1] <= MOST_RPS and numbers[2] >= LEAST_RPS:
        first, last, step = numbers
        count = int((last - first) / step + 1e-9) + 1
        if count > MAX_LADDER:
            raise UsageError(f"--demand {text} asks for {count} plans, more than {MAX_LADDER}; take a larger step")
        return [first + k * step for k in range(count)]
    rate = f"a rate from {LEAST_RPS:g} to {MOST_RPS:g} requests/s"
    raise UsageError(f"--demand must be {rate} or FROM:TO:STEP, not '{text}'")
