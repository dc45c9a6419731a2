"""The switch-aware objective: what a plan costs while its models load, and after."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from math import inf

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from loki_rl.control.allocator.search import Found, Search
from loki_rl.control.allocator.transition import transition_of
from loki_rl.control.allocator.written_transition import Model, Question
from loki_rl.control.branch_and_price.route_pricing import best_routes, graph_of, servers_per_flow
from loki_rl.control.formulation.accuracy import TIE
from loki_rl.control.formulation.prepared import Prepared
from loki_rl.control.formulation.request import Request, Slice
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.servers.server_type import as_run_by

# Cost J (docs/glossary.md): violations, accuracy loss, servers used as a share of the cluster.
VIOLATION = 5.0
ACCURACY = 1.0
SERVERS = 0.1

# While models load, servers are where the old plan wanted them and queues are long: the event twin then serves so much less
# than the servers that are ready could.
UNBALANCED = 1.25

# What comes after the loads counts at least half, however long they take. A plan that is judged by the time of loading alone
# keeps a cluster that is too small for ever: no load is worth its server.
LONGEST_SHARE = 0.5

# Narrower slices, as shares of all that may come, take no part.
NARROW = 1e-6

# Demand beyond so many times what servers could serve that are never idle takes no part: shares of it would be too small.
FAR = 2.0

# Serving the mean demand is worth about 6 (5 of it for serving at all), so this is 1e-4 of J; more would save little time.
SWITCH_GAP = 2e-5


class Ready(Struct):
    """Servers by model and type: able to serve now, and loading (with the sum of the shares already done)."""

    now: Counter[Model]
    loading: Counter[Model]
    credit: dict[Model, float]


def ready(pipeline: Pipeline, request: Request) -> Ready:
    """What the cluster holds. A parked server counts for its models: it serves again at once."""
    now: Counter[Model] = Counter()
    loading: Counter[Model] = Counter()
    credit: dict[Model, float] = {}
    pools = {kind.name: pool for pool, kind in enumerate(request.types)}
    for server in request.current:
        pool = pools.get(server.server_type)
        held = [server.serving[:2]] if server.serving else [] if server.loading else list(server.resident)
        now.update(model for name in held if (model := _model(pipeline, pool, *name)))
        if server.loading and (model := _model(pipeline, pool, *server.loading[:2])):
            load_s = max(load_time_s(pipeline, request, model), server.remaining_s, 1e-9)
            loading[model] += 1
            credit[model] = credit.get(model, 0.0) + 1 - server.remaining_s / load_s
    return Ready(now, loading, credit)


def _model(pipeline: Pipeline, pool: int | None, task: str, variant: str) -> Model | None:
    position = pipeline.index.get(task)
    if position is None or variant not in pipeline.variant_index[position] or pool is None:
        return None
    return position, pipeline.variant_index[position][variant], pool


def load_time_s(pipeline: Pipeline, request: Request, model: Model) -> float:
    """Time to load a model [s]."""
    task, variant, pool = model
    if request.load_s is not None:
        return request.load_s
    return as_run_by(pipeline, request.types[pool]).tasks[task].variants[variant].load_s


def loading_share(pipeline: Pipeline, request: Request) -> float:
    """Share of the horizon that passes while the slowest model loads, of a horizon that is long enough."""
    models = [
        (t, v, pool)
        for pool in range(len(request.types))
        for t, task in enumerate(pipeline.tasks)
        for v in range(len(task.variants))
    ]
    slowest = max(load_time_s(pipeline, request, model) for model in models)
    return min(LONGEST_SHARE, slowest / (request.horizon_s or 1.0))


def switch(search: Search) -> Found | None:
    """The plan of least cost J over the horizon, reached from the servers as they are; None if nothing can be served.

    minimise 5 (f short_while_loading + (1 - f) short_after) + accuracy loss + 0.1 price / cluster's, f = load time /
    horizon. While loading, a model has at most the servers that it has now and keeps, and these serve less. Demand that may
    come counts by its chance, and so does its accuracy: most of the time the most accurate of the servers serve alone.
    """
    request = search.parts[0].request
    found = _least_cost(search, request)
    if found or search.doubt:
        return found
    # Demand far below its mean is worth no server; but a cluster that turns everybody away is none.
    return _least_cost(search, replace(request, slices=(), mean_rps=None))


def _least_cost(search: Search, request: Request) -> Found | None:
    setting = search.settings[0]
    with search.building():
        question = question_of(request, setting)
        kept = transition_of(setting, search.solver, len(question.slices))
    solved = search.noted(kept.ask(question, search.left_s, SWITCH_GAP))
    most_rps = sum(kept.served) * question.demand_rps if solved.found else 0.0
    if most_rps < NARROW * request.demand_rps:
        return None
    return Found(
        "accuracy", "least cost", (setting.variant_network,), kept.counts, solved.objective, solved.bound, solved.status,
        search.demands, most_rps=most_rps,
    )  # fmt: skip


def question_of(request: Request, setting: Prepared) -> Question:
    """The request in units of J; a load costs its server's share while it lasts, so that ties stay as they are."""
    pipeline, state, share = setting.pipeline, ready(setting.pipeline, request), loading_share(setting.pipeline, request)
    cut = _cut(request, FAR * _most_rps(request, setting))
    levels = [one.to_rps for one in cut]
    most, weight = levels[-1], levels[-1] / (request.mean_rps or request.demand_rps)
    whole = sum(kind.price * kind.count for kind in request.types)
    return Question(
        demand_rps=most,
        loading_rps=most * UNBALANCED,
        slices=tuple((high - low) / most for low, high in pairwise((0.0, *levels))),
        chances=tuple(one.chance for one in cut),
        floor=min(request.min_accuracy, pipeline.best_accuracy - TIE) if request.min_accuracy > 0 else 0.0,
        servers=tuple(kind.count for kind in request.types),
        able={model: state.now[model] + state.credit.get(model, 0.0) for model in (*state.now, *state.credit)},
        there=dict(state.now + state.loading),
        start=_start(request, setting),
        worth=(
            weight * VIOLATION * share,
            weight * VIOLATION * (1 - share),
            weight * ACCURACY / pipeline.best_accuracy,
        ),
        prices=tuple(SERVERS * kind.price / whole for kind in request.types),
        load_share=share,
        unloadable=frozenset(
            model
            for one in request.unloadable
            for pool, kind in enumerate(request.types)
            if kind.name == one.server_type and (model := _model(pipeline, pool, one.task, one.variant))
        ),
    )


def _cut(request: Request, far_rps: float) -> list[Slice]:
    """The slices that matter: those of some width that may come at all, as far as `far_rps`; all of the demand for sure if
    there are none."""
    found, below = list[Slice](), 0.0
    for one in request.slices:
        to_rps = min(one.to_rps, far_rps)
        if one.chance > 0 and to_rps - below > NARROW * min(request.slices[-1].to_rps, far_rps):
            found.append(Slice(to_rps, one.chance))
            below = to_rps
    return found or [Slice(min(request.demand_rps, far_rps), 1.0)]


def _most_rps(request: Request, setting: Prepared) -> float:
    """No cluster of these servers serves more [1/s]."""
    graph = graph_of(setting.merged_network)
    alike = np.append(np.ones(len(graph.rate) - 1), 0.0)
    needed = -best_routes(graph, servers_per_flow(graph, 1.0, reserving=False), alike, 0.0)[0]
    return request.servers / needed if needed > 0 else inf


def _start(request: Request, setting: Prepared) -> tuple[int, ...]:
    """Servers per configuration as they serve, or will."""
    pools = {kind.name: pool for pool, kind in enumerate(request.types)}
    counts, places = [0] * len(setting.by_variant), dict[tuple[int, ...], int]()
    for k, c in enumerate(setting.by_variant):
        places[c.task, c.variant, c.pool, c.batch] = k
        places.setdefault((c.task, c.variant, c.pool), k)
    for server in request.current:
        if (stage := server.loading or server.serving) and (
            model := _model(setting.pipeline, pools.get(server.server_type), *stage[:2])
        ):
            chosen = places.get((*model, stage[2]), places.get(model))
            if chosen is not None:
                counts[chosen] += 1
    return tuple(counts)
