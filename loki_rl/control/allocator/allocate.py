"""The exact allocator: hardware scaling, then accuracy scaling, then shedding, each proven, for pipelines that share a
cluster. Knows no observed demand and no cluster state beyond its request."""

from __future__ import annotations

from collections.abc import Sequence

from loki_rl.control.allocator.modes import accuracy, hardware
from loki_rl.control.allocator.plan_writer import write
from loki_rl.control.allocator.reasons import explain_impossible
from loki_rl.control.allocator.search import Search
from loki_rl.control.allocator.shedding import shed
from loki_rl.control.allocator.switching import switch
from loki_rl.control.formulation.accuracy import TIE
from loki_rl.control.formulation.request import Part, Queueing, Request, Solver, check_parts
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import JointPlan, Plan
from loki_rl.core.servers.server_type import ServerType


def allocate(pipeline: Pipeline, request: Request, known: Plan | None = None) -> Plan:
    """The best plan for a request: cheapest servers if the most accurate variants suffice, else the most accurate mix that
    serves all (then the cheapest), else serve the most at the accuracy floor (then most accurately), else infeasible, with
    the reason. Where no types are named every server has price 1, so cheapest is fewest. known: a plan of the same pipeline
    to begin with; of equally good plans it may decide which comes out.

    Raises RequestError for a request that makes no sense. The modes are Loki's (HPDC'24, section 4); the model is a linear
    one on trees, without its big-M and bilinear terms.
    """
    return allocate_jointly([Part(pipeline, request)], [known] if known else []).plans[0]


def allocate_jointly(parts: Sequence[Part], known: Sequence[Plan] = ()) -> JointPlan:
    """The best plans for pipelines that share a cluster, with the modes of `allocate`: accuracies and what is served count
    by weight. Nothing is shed while all can be served, and nothing is planned if one is infeasible. known: a plan of each.

    Raises RequestError for a request that makes no sense, or requests about different clusters.
    """
    check_parts(parts)
    search = Search(parts, known=known)
    if not _possible(search):
        return explain_impossible(search)
    plans = _moved(search) if parts[0].request.horizon_s is not None else _fresh(search)
    return plans or explain_impossible(search)


def _possible(search: Search) -> bool:
    """Whether every part fits its SLO, and its floor is one that a pipeline can have."""
    floors = all(part.request.min_accuracy <= part.pipeline.best_accuracy + TIE for part in search.parts)
    return floors and all(setting.feasible for setting in search.settings)


def _moved(search: Search) -> JointPlan | None:
    """From the servers as they are; where time ran out before that served anything, from none."""
    found = switch(search)
    plans = write(search, found) if found else None
    if plans is None and search.doubt:
        search.unproven = True
        found = shed(search)
        plans = write(search, found) if found else None
    return plans


def _fresh(search: Search) -> JointPlan | None:
    only_best = all(part.request.min_accuracy >= part.pipeline.best_accuracy - TIE for part in search.parts)
    found = hardware(search) or (None if only_best else accuracy(search)) or shed(search)
    return write(search, found) if found else None


def capacity(
    pipeline: Pipeline,
    servers: int,
    min_accuracy: float = 0.0,
    queueing: Queueing = "tail",
    slo_s: float | None = None,
    headroom: float = 0.0,
    pool: tuple[ServerType, ...] = (),
    solver: Solver = "search",
) -> Plan:
    """The largest demand that `servers` can serve at an accuracy floor, as a plan whose capacity_rps is that demand.
    The rest is as in `Request`. Raises RequestError as `allocate`.
    """
    request = Request(
        demand_rps=1.0,
        servers=servers,
        slo_s=slo_s,
        min_accuracy=min_accuracy,
        headroom=headroom,
        queueing=queueing,
        pool=pool,
        solver=solver,
    )
    parts = [Part(pipeline, request)]
    check_parts(parts)
    search = Search(parts, unlimited=True)
    found = shed(search) if _possible(search) else None
    if found is None:
        return explain_impossible(search).plans[0]
    found.mode = "hardware" if found.networks[0] is search.settings[0].best_network else "accuracy"
    return (write(search, found) or explain_impossible(search)).plans[0]
