"""A pipeline of a detector and two leaf tasks, and makers that the tests of its routers share."""

from __future__ import annotations

from typing import Any

from loki_rl.core.effects import Effect, Send
from loki_rl.core.messages import Ended, Execute, Pressure, Ready, Result, Submit
from loki_rl.core.options import ClusterOptions, DropPolicy
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.core.plan import Placement, Plan
from loki_rl.core.requests.items import Family
from loki_rl.core.routing.pull_router import PullRouter

MS = 0.001
SLO = 0.1


def latency(first: float, each: float) -> dict[int, Latency]:
    times = {n: (first + (n - 1) * each) * MS for n in (1, 2, 4)}
    return {n: Latency(s, s, 2 * s) for n, s in times.items()}


def variants(children: dict[str, float]) -> tuple[Variant, ...]:
    """fine: 20 ms and 10 more for each further item; rough: 5 ms and 1 more."""
    return (Variant("rough", 0.5, latency(5, 1), children), Variant("fine", 0.9, latency(20, 10), children))


PIPELINE = Pipeline(
    name="fork",
    slo_s=SLO,
    tasks=(
        Task("find", variants({"read": 2.0, "sort": 1.0}), entry=1.0),
        Task("read", variants({}), parent="find"),
        Task("sort", variants({}), parent="find"),
    ),
    leaf_weights={"read": 0.5, "sort": 0.5},
    hop_s=0.0,
)
FIND, READ = 0, 1
ROUGH, FINE = 0, 1


def make(task: int = READ, drop: DropPolicy = "reroute", **options: Any) -> PullRouter:
    return PullRouter(ClusterOptions(PIPELINE, 4, drop=drop, lead_s=0.0, **options), task)


def items(*numbers: int, t0: float = 0.0, timeout: float = SLO) -> Submit:
    return Submit([Family(PIPELINE.entry_id(number, 0), t0, t0 + timeout, 0) for number in numbers])


def roots(batch: Execute) -> list[int]:
    return [family.id >> 31 for family in batch.families]


def batches(effects: list[Effect]) -> dict[str, Execute]:
    return {e.to: e.message for e in effects if isinstance(e, Send) and isinstance(e.message, Execute)}


def settled(effects: list[Effect]) -> list[Ended]:
    return [e.message for e in effects if isinstance(e, Send) and isinstance(e.message, Ended)]


def pressures(effects: list[Effect]) -> list[tuple[str, bool]]:
    return [(e.to, e.message.overloaded) for e in effects if isinstance(e, Send) and isinstance(e.message, Pressure)]


def ready(number: int, variant: int, batch: int = 4, serial: int = 1) -> Ready:
    return Ready(number, 0, serial, variant, batch)


def result(batch: Execute, number: int, fanouts: list[tuple[int, ...]] | None = None, error: str = "") -> Result:
    return Result(number, 0, batch.batch, batch.variant, fanouts or [], 0.0, error)


def plan(split: float, fine: float = 0.5, rps: float = 20.0) -> Plan:
    flows = {"find": {"rough": 1 - fine, "fine": fine}, "read": {"fine": 1.0}, "sort": {"fine": 1.0}}
    placements = (Placement("find", "fine", 1, 1), Placement("find", "rough", 1, 1))
    return Plan("accuracy", placements, 2, 0.5, 1.0, rps, rps, {"find": split, "read": 1.0, "sort": 1.0}, flows)
