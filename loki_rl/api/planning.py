"""What the allocator is asked: plans for a demand, for a ladder of demands, and the most that can be served."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import asdict, replace

from loki_rl.api.arguments import checked, listed, path
from loki_rl.api.shown import Picture, frame, picture
from loki_rl.control.allocator.allocate import allocate_jointly
from loki_rl.control.allocator.allocate import capacity as largest
from loki_rl.control.allocator.ladder import ladder as plans_of
from loki_rl.control.explain.prices import explain
from loki_rl.control.formulation.request import Part, Queueing, Request, RequestError, Solver
from loki_rl.core.plan import Plan
from loki_rl.core.servers.server_type import ServerType
from loki_rl.files.config import PipelineFile, load_pipeline
from loki_rl.files.pool_file import load_pool
from loki_rl.options import MOST_HEADROOM, Fraction, Rate, Servers, Slo
from loki_rl.reports.plots import phases_png, placements_png

if TYPE_CHECKING:
    from pandas import DataFrame

Named = str | Path | PipelineFile


class PlanResult(Plan, frozen=True, kw_only=True):
    """A plan, with the name of the pipeline that it is for. Its attributes are those of `Plan`: mode, servers, accuracy
    0..1, served_fraction 0..1, demand_rps [1/s], capacity_rps [1/s], placements, reasons, certificate ..."""

    pipeline: str

    def __repr__(self) -> str:
        return (
            f"<{self.pipeline}: {self.mode} mode at {self.demand_rps:g}/s, {self.servers} servers, accuracy "
            f"{self.accuracy:.4f}, {self.served_fraction:.1%} served, capacity {self.capacity_rps:.1f}/s>"
        )

    def to_pandas(self) -> DataFrame:
        """A row for each placement: task, variant, batch (at most so many items), replicas, server_type. Raises
        TableError."""
        return frame([asdict(place) for place in self.placements])

    def plot(self) -> Picture:
        """The servers that each variant has. Raises PlotError without matplotlib, or for a plan that places nothing."""
        title = f"{self.pipeline}: {self.mode} mode at {self.demand_rps:g} requests/s"
        return picture(lambda file: placements_png(self, file, title))


class Ladder(Struct, frozen=True):
    """The plans for rising demands. pipeline: its name."""

    pipeline: str
    plans: tuple[PlanResult, ...]

    def __repr__(self) -> str:
        return f"<{self.pipeline}: {len(self.plans)} plans, {self.plans[0].demand_rps:g} to {self.plans[-1].demand_rps:g}/s>"

    def to_pandas(self) -> DataFrame:
        """A row for each demand_rps [1/s], its index: mode, servers, price, accuracy and served_fraction 0..1, capacity_rps
        [1/s]. Raises TableError."""
        names = ("demand_rps", "mode", "servers", "price", "accuracy", "served_fraction", "capacity_rps")
        return frame([{name: getattr(plan, name) for name in names} for plan in self.plans], "demand_rps")

    def plot(self) -> Picture:
        """Accuracy, servers and served share against demand. Raises PlotError without matplotlib."""
        return picture(lambda file: phases_png(self.plans, file, f"{self.pipeline}: optimal plans by demand"))


class Cluster(Struct, frozen=True):
    """What plans are made for. servers: how many; types: of them, empty where all are alike."""

    servers: int
    types: tuple[ServerType, ...] = ()


class Terms(Struct, frozen=True):
    """What a plan is made for, as `plan` has it."""

    demand: Rate = 1.0
    servers: Servers = None
    pool: str | None = None
    slo_ms: Slo | None = None
    min_accuracy: Fraction = 0.0
    queueing: Queueing = "tail"
    headroom: Annotated[float, Meta(ge=0, le=MOST_HEADROOM)] = 0.0
    solver: Solver = "search"

    def request(self, file: PipelineFile) -> Request:
        """To the allocator. Raises ConfigError for a pool that is wrong."""
        return question(
            cluster_for([file], self.servers, self.pool),
            self.demand,
            min_accuracy=self.min_accuracy,
            queueing=self.queueing,
            headroom=self.headroom,
            solver=self.solver,
        )


class Demands(Struct, frozen=True):
    """Of a ladder [1/s]."""

    demands: Annotated[list[Rate], Meta(min_length=1)]


def plan(
    pipeline: Named,
    demand: float,
    servers: int | None = None,
    *,
    pool: str | None = None,
    slo_ms: float | None = None,
    min_accuracy: float = 0.0,
    queueing: Queueing = "tail",
    headroom: float = 0.0,
    solver: Solver = "search",
) -> PlanResult:
    """The best use of the servers for a demand: hardware scaling, then accuracy scaling, then shedding.

    pipeline: file, name of one that ships, or what `load_pipeline` gave. demand: [1/s]. servers: the file's if None. pool:
    pool file, or the name of one that ships, instead of a number of servers. slo_ms: end-to-end deadline [ms], the file's if
    None. min_accuracy: least mean accuracy of what is served, 0..1. queueing: latency model, "tail" or "half-slo". headroom:
    share of demand added before planning. solver: "search", or "pulp" for HiGHS on the written model.

    A demand that cannot be served at all gives a plan of mode "infeasible", whose reasons say why. Raises ConfigError for a
    file or an argument that is wrong.
    """
    terms = _terms("plan", demand, servers, pool, slo_ms, min_accuracy, queueing, headroom, solver)
    file = read(pipeline, terms.slo_ms)
    part = Part(file.pipeline, terms.request(file))
    joint = allocate_jointly([part])
    return named(file, replace(joint.plans[0], reasons=explain([part], joint)))


def ladder(
    pipeline: Named,
    demands: Sequence[float],
    servers: int | None = None,
    *,
    pool: str | None = None,
    slo_ms: float | None = None,
    min_accuracy: float = 0.0,
    queueing: Queueing = "tail",
    headroom: float = 0.0,
    solver: Solver = "search",
) -> Ladder:
    """The best plan for each of these demands [1/s], at least one; the rest is as in `plan`, and so is what it raises."""
    terms = _terms("ladder", 1.0, servers, pool, slo_ms, min_accuracy, queueing, headroom, solver)
    rising = sorted(checked({"demands": listed(demands)}, Demands, "ladder").demands)
    file = read(pipeline, terms.slo_ms)
    plans = plans_of(file.pipeline, terms.request(file), rising)
    return Ladder(file.name, tuple(named(file, one) for one in plans))


def capacity(
    pipeline: Named,
    servers: int | None = None,
    *,
    pool: str | None = None,
    slo_ms: float | None = None,
    min_accuracy: float = 0.0,
    queueing: Queueing = "tail",
    headroom: float = 0.0,
    solver: Solver = "search",
) -> PlanResult:
    """The most that the servers can serve at an accuracy floor, as a plan whose capacity_rps [1/s] that is. The rest is as
    in `plan`, and so is what it raises."""
    terms = _terms("capacity", 1.0, servers, pool, slo_ms, min_accuracy, queueing, headroom, solver)
    file = read(pipeline, terms.slo_ms)
    asked = terms.request(file)
    shared = (asked.servers, asked.min_accuracy, asked.queueing)
    return named(file, largest(file.pipeline, *shared, headroom=asked.headroom, pool=asked.pool, solver=asked.solver))


def _terms(where: str, *given: object) -> Terms:
    """In the order of their fields. Raises ConfigError that names the one at fault."""
    return checked(dict(zip(Terms.__struct_fields__, given, strict=True)), Terms, where)


def read(pipeline: Named, slo_ms: float | None = None, profile: str | None = None) -> PipelineFile:
    """The file of a pipeline, with another SLO [ms] or profile where they are given. Raises ConfigError."""
    if isinstance(pipeline, PipelineFile):
        if slo_ms is None and profile is None:
            return pipeline
        pipeline = pipeline.path
    return load_pipeline(path(pipeline, "pipeline"), profile=None if profile is None else Path(profile), slo_ms=slo_ms)


def cluster_for(files: Sequence[PipelineFile], servers: int | None, pool: str | None) -> Cluster:
    """The servers as given, else as many as the pool has, else as in the pipeline's file. Raises ConfigError for a pool that
    is wrong, RequestError where nothing says how many servers several pipelines share."""
    types = () if pool is None else load_pool(pool, files).types
    if servers is not None:
        return Cluster(servers, types)
    if types:
        return Cluster(sum(kind.count for kind in types), types)
    if len(files) > 1:
        raise RequestError("several pipelines share a cluster; give its servers or a pool")
    return Cluster(files[0].pipeline.servers)


def question(
    at: Cluster, demand_rps: float, *, min_accuracy: float, queueing: Queueing, headroom: float, solver: Solver
) -> Request:
    """To the allocator about this cluster."""
    return Request(
        demand_rps=demand_rps,
        servers=at.servers,
        min_accuracy=min_accuracy,
        queueing=queueing,
        headroom=headroom,
        solver=solver,
        pool=at.types,
    )


def named(file: PipelineFile, found: Plan) -> PlanResult:
    """The plan with the name of its pipeline."""
    return PlanResult(pipeline=file.name, **{name: getattr(found, name) for name in Plan.__struct_fields__})


def plan_row(found: Plan) -> dict[str, Any]:
    """The JSON of a plan: what the glossary names, then the rest."""
    row: dict[str, Any] = msgspec.to_builtins(found)
    certificate = row.pop("certificate")
    row.pop("pipeline", None)
    del row["epoch"]
    return {**row, **certificate}
