"""The switch-aware objective: what a plan costs while its models load, and after. Owns the weights of cost J and the state
of the servers as the allocator sees it; knows no forecast."""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import Any

from msgspec import Struct

from loki_rl.control.accuracy import TIE
from loki_rl.control.model import Counts, Flows, add_row, new_problem, set_objective
from loki_rl.control.request import Request
from loki_rl.control.search import Found, Search
from loki_rl.control.setting import Setting
from loki_rl.control.solver import Solved
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Mode
from loki_rl.core.server_type import as_run_by

# Cost J (DESIGN, section 9): violations, accuracy loss, servers used as a share of the cluster.
VIOLATION = 5.0
ACCURACY = 1.0
SERVERS = 0.1

# Demand beyond what is expected counts by how likely it is to come: the mean of a normal tail from 0 to 2 deviations.
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

# Task, variant, and position of the server's type.
Model = tuple[int, int, int]


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
    of demand_rps but not of expected_rps counts UNLIKELY as much: else every rise of the estimate would set off loads.
    """
    with search.building():
        model = _Model(search.parts[0].request, search.settings[0])
    solved = search.solve(model.problem, model.start(), SWITCH_GAP)
    if not solved.found:
        return None
    counts = [round(solved.values[column.name]) for column in model.counts.columns]
    networks = (search.settings[0].variant_network,)
    mode = model.mode(solved)
    return Found(mode, "least cost", networks, counts, solved.objective, solved.bound, solved.status, search.demands)


class _Model:
    """The MILP: one fleet, two flows (while loading, which may use any variant, and after)."""

    def __init__(self, request: Request, setting: Setting) -> None:
        self.request, self.setting, self.pipeline = request, setting, setting.pipeline
        self.configurations = setting.by_variant
        self.problem = new_problem(maximise=True)
        self.types = request.types
        prices, servers = [kind.price for kind in self.types], [kind.count for kind in self.types]
        # What a server costs, as a share of the cluster.
        self.prices = [price / sum(map(prod, zip(prices, servers, strict=True))) for price in prices]
        self.counts = Counts(self.problem, [self.configurations], servers, self.prices)
        demand = self.request.demand_rps
        self.after = Flows(self.problem, self.setting.variant_network, demand, "c", served=(0.0, 1.0))
        self.after.fit(self.problem, self.counts.columns)
        self._floor(self.after)
        self.loading = Flows(self.problem, self.setting.merged_network, demand * UNBALANCED, "l", served=(0.0, 1.0))
        self.loads: list[tuple[Any, float]] = []
        self._while_loading()
        set_objective(self.problem, self._objective())

    def _floor(self, flows: Flows) -> None:
        if self.request.min_accuracy > 0:
            floor = min(self.request.min_accuracy, self.pipeline.best_accuracy - TIE)
            add_row(self.problem, [*flows.accuracy, (flows.served, -floor)], ">=", 0)

    def _while_loading(self) -> None:
        """break: a server that loads serves nothing. make: it serves its old model until the new one is warm."""
        state = ready(self.pipeline, self.request)
        kept: list[Any] = [self.problem.add_variable(f"k{k:04d}", 0) for k in range(len(self.configurations))]
        self.loading.fit(self.problem, kept)
        models = sorted({(c.task, c.variant, c.pool) for c in self.configurations})
        for model in models:
            mine = [k for k, c in enumerate(self.configurations) if (c.task, c.variant, c.pool) == model]
            able = state.now[model] + state.credit.get(model, 0.0)
            add_row(self.problem, [(kept[k], 1) for k in mine], "<=", able)
            wanted = [(self.counts.columns[k], -1) for k in mine]
            if self.pipeline.swap == "break":
                add_row(self.problem, [*((kept[k], 1) for k in mine), *wanted], "<=", 0)
            load = self.problem.add_variable(f"u{model[0]:02d}_{model[1]:02d}_{model[2]:02d}", 0)
            add_row(self.problem, [*wanted, (load, 1)], ">=", -(state.now[model] + state.loading[model]))
            self.loads.append((load, self.prices[model[2]]))
        for pool in range(len(self.types)) if self.pipeline.swap == "make" else ():
            mine = [k for k, c in enumerate(self.configurations) if c.pool == pool]
            planned = [(total, -value) for total, value in self.counts.all_of(pool)]
            add_row(self.problem, [*((kept[k], 1) for k in mine), *planned], "<=", 0)

    def _objective(self) -> list[tuple[Any, float]]:
        """Coefficients in units of J; a load costs its server's share while it lasts, so that ties stay as they are."""
        share = loading_share(self.pipeline, self.request)
        best = self.pipeline.best_accuracy
        return [
            *self._worth(self.loading, VIOLATION * share),
            *self._worth(self.after, VIOLATION * (1 - share)),
            *((column, ACCURACY * value / best) for column, value in self.after.accuracy),
            *((column, -SERVERS * price) for column, price in self.counts.price),
            *((load, -SERVERS * price * share) for load, price in self.loads),
        ]

    def _worth(self, flows: Flows, weight: float) -> list[tuple[Any, float]]:
        """Terms for what is served: in full up to the expected demand, beyond it by how likely it is to come."""
        demand = self.request.demand_rps
        expected = min(demand, self.request.expected_rps or demand)
        likely = self.problem.add_variable(f"{flows.served.name}_likely", 0, expected / demand)
        add_row(self.problem, [(likely, 1), (flows.served, -1)], "<=", 0)
        scale = weight * demand / expected
        return [(likely, scale * (1 - UNLIKELY)), (flows.served, scale * UNLIKELY)]

    def mode(self, solved: Solved) -> Mode:
        """Which of the plain modes the plan amounts to."""
        served = solved.values[self.after.served.name]
        accuracy = sum(weight * solved.values[column.name] for column, weight in self.after.accuracy)
        if served < 1 - NEARLY:
            return "shed"
        return "hardware" if accuracy > self.pipeline.best_accuracy - NEARLY else "accuracy"

    def start(self) -> dict[str, float]:
        """What runs now, as a first plan."""
        state = ready(self.pipeline, self.request)
        left = state.now + state.loading
        values, used = {}, [0.0] * len(self.types)
        for column, c in zip(self.counts.columns, self.configurations, strict=True):
            values[column.name] = float(left.pop((c.task, c.variant, c.pool), 0))
            used[c.pool] += values[column.name]
        return values if all(used[pool] <= kind.count for pool, kind in enumerate(self.types)) else {}
