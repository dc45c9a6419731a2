"""Commands that ask the allocator: plan and capacity."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from loki_rl import terminal
from loki_rl.cli.flags import (
    FloorOpt,
    HeadroomOpt,
    JsonOpt,
    PipelineArg,
    ProfileOpt,
    QueueingOpt,
    ServersOpt,
    SloOpt,
    UsageError,
    queueing_of,
)

if TYPE_CHECKING:
    from loki_rl.core.plan import Plan

# Longest ladder of plans: at up to a tenth of a second each, the user should not take it for a hang.
MAX_LADDER = 1000


def plan(
    pipeline: PipelineArg,
    demand: Annotated[str, typer.Option(help="Requests per second, or FROM:TO:STEP for a ladder.")],
    servers: ServersOpt = None,
    slo_ms: SloOpt = None,
    min_accuracy: FloorOpt = 0.0,
    queueing: QueueingOpt = None,
    headroom: HeadroomOpt = None,
    profile: ProfileOpt = None,
    plot: Annotated[Path | None, typer.Option(help="Draw a ladder's phases to this PNG.")] = None,
    as_json: JsonOpt = False,
) -> None:
    """The best use of the servers for a demand: hardware scaling, then accuracy scaling, then shedding."""
    from loki_rl.config import load_pipeline
    from loki_rl.control.allocator import allocate_jointly
    from loki_rl.control.ladder import ladder
    from loki_rl.control.prices import explain
    from loki_rl.control.request import Part, Request

    loaded = load_pipeline(pipeline, profile=profile, slo_ms=slo_ms)
    demands = _demands(demand)
    if plot is not None and len(demands) == 1:
        raise UsageError("--plot draws a ladder of plans; give --demand as FROM:TO:STEP")
    request = Request(
        demand_rps=demands[0],
        servers=loaded.pipeline.servers if servers is None else servers,
        min_accuracy=min_accuracy,
        queueing=queueing_of(queueing),
        headroom=headroom or 0.0,
    )
    if len(demands) == 1:
        joint = allocate_jointly([Part(loaded.pipeline, request)])
        found = msgspec.structs.replace(joint.plans[0], reasons=explain([Part(loaded.pipeline, request)], joint))
        terminal.say(plan_row(found), as_json, lambda: terminal.plan(loaded.name, found))
        if found.mode == "infeasible":
            raise UsageError("; ".join(found.reasons))
        return
    plans = ladder(loaded.pipeline, request, demands)
    if plot is not None:
        from loki_rl.plots import phases_png

        phases_png(plans, plot, f"{loaded.name}: optimal plans by demand")
    terminal.say({"plans": [plan_row(one) for one in plans]}, as_json, lambda: terminal.ladder(loaded.name, plans))


def capacity(
    pipeline: PipelineArg,
    servers: ServersOpt = None,
    slo_ms: SloOpt = None,
    min_accuracy: FloorOpt = 0.0,
    queueing: QueueingOpt = None,
    headroom: HeadroomOpt = None,
    profile: ProfileOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """The most requests per second that the servers can serve at an accuracy floor."""
    from loki_rl.config import load_pipeline
    from loki_rl.control.allocator import capacity as most

    loaded = load_pipeline(pipeline, profile=profile, slo_ms=slo_ms)
    found = most(
        loaded.pipeline,
        loaded.pipeline.servers if servers is None else servers,
        min_accuracy=min_accuracy,
        queueing=queueing_of(queueing),
        headroom=headroom or 0.0,
    )
    row = {"max_qps": found.capacity_rps, **plan_row(found)}
    terminal.say(row, as_json, lambda: terminal.plan(loaded.name, found))


def plan_row(found: Plan) -> dict[str, Any]:
    """The JSON of a plan: the contract's keys, then the rest."""
    row: dict[str, Any] = msgspec.to_builtins(found)
    certificate = row.pop("certificate")
    del row["epoch"]
    return {**row, **certificate}


def _demands(text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(":")]
    except ValueError:
        numbers = []
    if len(numbers) == 1 and numbers[0] > 0 and isfinite(numbers[0]):
        return numbers
    if len(numbers) == 3 and 0 < numbers[0] <= numbers[1] < float("inf") and numbers[2] > 0:
        first, last, step = numbers
        count = int((last - first) / step + 1e-9) + 1
        if count > MAX_LADDER:
            raise UsageError(f"--demand {text} asks for {count} plans, more than {MAX_LADDER}; take a larger step")
        return [first + k * step for k in range(count)]
    raise UsageError(f"--demand must be a rate above 0 or FROM:TO:STEP, not '{text}'")
