"""The switch-aware objective: what a plan costs while its models load, and after."""

from __future__ import annotations

from collections import Counter

from msgspec import Struct

from loki_rl.control.allocator.search import Found, Search
from loki_rl.control.allocator.transition import Model, Question, transition_of
from loki_rl.control.formulation.accuracy import TIE
from loki_rl.control.formulation.prepared import Prepared
from loki_rl.control.formulation.request import Request
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Mode
from loki_rl.core.servers.server_type import as_run_by

# Cost J (docs/glossary.md): violations, accuracy loss, servers used as a share of the cluster.
VIOLATION = 5.0
ACCURACY = 1.0
SERVERS = 0.1

# Demand beyond what is expected counts by how likely it is to come; where nobody says, as the mean of a normal tail from 0
# to 2 deviations.
UNLIKELY = 0.2

# While models load, servers are where the old plan wanted them and queues are long: the event twin then serves so much less
# than the servers that are ready could.
UNBALANCED = 1.25

# What comes after the loads counts at least half, however long they take. A plan that is judged by the time of loading alone
# keeps a cluster that is too small for ever: no load is worth its server.
LONGEST_SHARE = 0.5

NEARLY = 1e-6

# The objective is about 6 (5 of it for serving all), so this is 1e-4 of J; more would save no time.
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
    horizon. While loading, a model has at most the servers that it has now and keeps, and these serve less. What is short
    of demand_rps but not of expected_rps counts by its chance to come: else every rise of the estimate would set off loads.
    """
    with search.building():
        kept = transition_of(search.settings[0], search.solver)
        question = question_of(search.parts[0].request, search.settings[0])
    solved = search.noted(kept.ask(question, search.left_s, SWITCH_GAP))
    if not solved.found:
        return None
    networks, best = (search.settings[0].variant_network,), search.parts[0].pipeline.best_accuracy
    mode: Mode = "shed" if kept.served < 1 - NEARLY else "hardware" if kept.accuracy > best - NEARLY else "accuracy"
    flows = [kept.flow] if kept.served == 1 else ()
    return Found(
        mode, "least cost", networks, kept.counts, solved.objective, solved.bound, solved.status, search.demands, flows
    )


def question_of(request: Request, setting: Prepared) -> Question:
    """The request in units of J; a load costs its server's share while it lasts, so that ties stay as they are."""
    pipeline, state, share = setting.pipeline, ready(setting.pipeline, request), loading_share(setting.pipeline, request)
    expected = min(request.demand_rps, request.expected_rps or request.demand_rps)
    whole = sum(kind.price * kind.count for kind in request.types)
    floor = min(request.min_accuracy, pipeline.best_accuracy - TIE) if request.min_accuracy > 0 else 0.0
    return Question(
        demand_rps=request.demand_rps,
        loading_rps=request.demand_rps * UNBALANCED,
        likely=expected / request.demand_rps,
        unlikely=UNLIKELY if request.chance is None else request.chance,
        floor=floor,
        servers=tuple(kind.count for kind in request.types),
        able={model: state.now[model] + state.credit.get(model, 0.0) for model in (*state.now, *state.credit)},
        there=dict(state.now + state.loading),
        worth=(VIOLATION * share, VIOLATION * (1 - share), ACCURACY / pipeline.best_accuracy),
        prices=tuple(SERVERS * kind.price / whole for kind in request.types),
        load_share=share,
        unloadable=frozenset(
            model
            for one in request.unloadable
            for pool, kind in enumerate(request.types)
            if kind.name == one.server_type and (model := _model(pipeline, pool, one.task, one.variant))
        ),
    )
