"""The exact allocator: hardware scaling, then accuracy scaling, then shedding, each proven. Owns the order of modes; knows
no observed demand and no cluster state beyond its request."""

from __future__ import annotations

from loki_rl.control.accuracy import TIE
from loki_rl.control.modes import accuracy, hardware, shed
from loki_rl.control.reasons import explain_impossible
from loki_rl.control.request import Queueing, Request, check
from loki_rl.control.search import Search
from loki_rl.control.switching import switch
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Plan


def allocate(pipeline: Pipeline, request: Request) -> Plan:
    """The best plan for a request: fewest servers if the most accurate variants suffice, else the most accurate mix that
    serves all (then fewest servers), else serve the most at the accuracy floor (then most accurately), else infeasible with
    the reason.

    Raises RequestError for a request that makes no sense. The modes are Loki's (HPDC'24, section 4); the model is a linear
    one on trees, without its big-M and bilinear terms.
    """
    check(request)
    search = Search(pipeline, request)
    if not search.setting.feasible or request.min_accuracy > pipeline.best_accuracy + TIE:
        return explain_impossible(search.setting, request)
    plan = _moved(search) if request.horizon_s is not None else _fresh(search)
    return plan or explain_impossible(search.setting, request, search.doubt)


def _moved(search: Search) -> Plan | None:
    """From the servers as they are; where time ran out before that served anything, from none."""
    found = switch(search)
    plan = search.plan(found) if found else None
    if plan is None and search.doubt:
        search.unproven = True
        found = shed(search)
        plan = search.plan(found) if found else None
    return plan


def _fresh(search: Search) -> Plan | None:
    only_best = search.request.min_accuracy >= search.pipeline.best_accuracy - TIE
    found = hardware(search) or (None if only_best else accuracy(search)) or shed(search)
    return search.plan(found) if found else None


def capacity(
    pipeline: Pipeline,
    servers: int,
    min_accuracy: float = 0.0,
    queueing: Queueing = "tail",
    slo_s: float | None = None,
    headroom: float = 0.0,
) -> Plan:
    """The largest demand that `servers` can serve at an accuracy floor, as a plan whose capacity_rps is that demand.

    Raises RequestError as `allocate`.
    """
    request = Request(
        demand_rps=1.0, servers=servers, slo_s=slo_s, min_accuracy=min_accuracy, headroom=headroom, queueing=queueing
    )
    check(request)
    search = Search(pipeline, request, unlimited=True)
    if not search.setting.feasible or min_accuracy > pipeline.best_accuracy + TIE:
        return explain_impossible(search.setting, request)
    found = shed(search)
    if found is None:
        return explain_impossible(search.setting, request)
    found.mode = "hardware" if found.network is search.setting.best_network else "accuracy"
    return search.plan(found) or explain_impossible(search.setting, request, search.doubt)
