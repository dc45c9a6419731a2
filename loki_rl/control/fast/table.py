"""The allocator for training: local search from plans of the exact ladder, memoised, behind the function of the exact one.
Owns the translation between requests, plans and arrays; proves nothing."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter

import numpy as np
from msgspec import Struct

from loki_rl.control.allocator.allocate import allocate, capacity
from loki_rl.control.allocator.switching import ACCURACY, SERVERS, UNLIKELY, VIOLATION, loading_share, ready
from loki_rl.control.allocator.transition import Model
from loki_rl.control.fast.local_search import LISTS, Library, search
from loki_rl.control.fast.model_arrays import Fleet, Floats, Ints, build_fleet
from loki_rl.control.fast.objective_kernels import FLOW, ROWS, VALUES, accuracy, spread
from loki_rl.control.fast.objective_kernels import capacity as capacity_of
from loki_rl.control.fast.table_kernels import Memo, answer, new_memo
from loki_rl.control.formulation.request import Request, RequestError, Solver, check
from loki_rl.control.lru import Lru
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Certificate, Mode, Placement, Plan

LEVELS = 32
EXPECTED = (0.25, 0.45, 0.65, 0.85, 1.0)
LOWEST_SHARE = 0.01
MEMO = 1 << 18
KEPT = 8
NEARLY = 1e-6


class Table(Struct, frozen=True, eq=False):
    """ladder [L, M]: servers per model of the exact plan for each level of the library's demand; most_rps, best_rps: demand
    that the whole cluster can serve at all, and with its most accurate variants. lanes: see `lane`."""

    fleet: Fleet
    servers: int
    ladder: Floats
    library: Library
    memo: Memo
    work: Floats
    most_rps: float
    best_rps: float
    lanes: list[tuple[Library, Memo]] = []

    def lane(self, number: int) -> tuple[Library, Memo]:
        """What thread `number` of a loop may write to: a library with scratch of its own, a memo of its own. Answers
        depend on the question alone, so threads find the same ones. Lane 0 is the table's own."""
        while len(self.lanes) <= number:
            demands, shares, plans, lists = self.library
            own = (demands, shares, plans, np.zeros_like(lists)), new_memo(len(self.memo[0]), self.fleet.models)
            self.lanes.append(own if self.lanes else (self.library, self.memo))
        return self.lanes[number]

    @property
    def levels(self) -> Floats:
        """[L] demands [1/s] of ladder and library."""
        return self.library[0]

    def solve(self, state: Floats, target: Floats, servers: int, deep: bool = True) -> tuple[Floats, int]:
        """Servers per model [M] and the split they hold for. state [3, M]: ready, credit, loading (see `cost`); target:
        demand, expected demand [1/s], loading share, chance (see `best_splits`)."""
        counts = np.zeros(self.fleet.models)
        split = answer(
            self.memo, state, target, servers, self.fleet.rates, self.fleet.net, self.library, deep, self.work, counts,
        )  # fmt: skip
        return counts, split


_tables: Lru[Table] = Lru(KEPT)


def table_for(pipeline: Pipeline, servers: int, solver: Solver = "search") -> Table:
    """The table of a pipeline and cluster, made once per process (a few seconds). solver: of the exact ladder."""
    return _tables.get((id(pipeline), servers, solver), lambda: build_table(pipeline, servers, solver=solver))


def build_table(pipeline: Pipeline, servers: int, levels: int = LEVELS, solver: Solver = "search") -> Table:
    """Solve the exact ladder once. Raises RequestError if the pipeline cannot be served at all."""
    fleet = build_fleet(pipeline)
    most = capacity(pipeline, servers, solver=solver).capacity_rps
    best = capacity(pipeline, servers, min_accuracy=pipeline.best_accuracy, solver=solver)
    demands = np.geomspace(LOWEST_SHARE * most, most, levels)
    ladder = np.zeros((levels, fleet.models))
    for row, demand in enumerate(demands):
        for place in allocate(pipeline, Request(float(demand), servers, solver=solver)).placements:
            ladder[row, fleet.model(place.task, place.variant)] += place.replicas
    work = new_work(fleet)
    library = _library(fleet, servers, demands, ladder, work)
    memo = new_memo(MEMO if levels else 1, fleet.models)
    return Table(fleet, servers, ladder, library, memo, work, most, best.capacity_rps or most)


def new_work(fleet: Fleet) -> Floats:
    """Scratch for the loops, sized for this fleet."""
    return np.zeros((ROWS, max(fleet.models, len(fleet.entry), fleet.table.shape[1], 4)))


def new_lists(fleet: Fleet) -> Ints:
    """Scratch for the models that a search considers."""
    return np.zeros((LISTS, max(fleet.models, len(fleet.entry) + 1)), np.int64)


def _library(fleet: Fleet, servers: int, demands: Floats, ladder: Floats, work: Floats) -> Library:
    """Plans of least cost J from an empty cluster, where loading costs nothing: the search's from the exact ladder."""
    empty, shares = np.zeros((3, fleet.models)), np.array(EXPECTED)
    plans = np.zeros((len(demands), len(shares), fleet.models))
    exact: Library = (demands, np.ones(1), ladder[:, None, :].copy(), new_lists(fleet))
    for level, demand in enumerate(demands):
        for row, share in enumerate(shares):
            target = np.array([demand, share * demand, 0.0, UNLIKELY])
            search(empty, target, servers, fleet.rates, fleet.net, exact, len(demands), work, plans[level, row])
    return demands, shares, plans, new_lists(fleet)


def yardstick(pipeline: Pipeline, servers: int) -> Table:
    """A table without answers: what observations are measured by, made in a fraction of the time."""
    return build_table(pipeline, servers, levels=0)


def state_of(fleet: Fleet, request: Request) -> Floats:
    """[3, M]: servers ready, credit of the loading ones, servers loading, as the exact allocator counts them."""
    held = ready(fleet.pipeline, request)
    state = np.zeros((3, fleet.models))
    parts: tuple[Mapping[Model, float], ...] = (held.now, held.credit, held.loading)
    for row, counted in enumerate(parts):
        for (task, variant, _), number in counted.items():
            state[row, int(fleet.first[task]) + variant] = number
    return state


def allocate_by_table(pipeline: Pipeline, request: Request, deep: bool = True) -> Plan:
    """A good plan for a switch-aware request, in microseconds where it was asked before. Raises RequestError as `allocate`.

    deep: the thorough search. The certificate has the cost J of the objective and no bound.
    """
    check(request)
    if request.pool:
        raise RequestError("tables are made for servers of one type; leave the types out")
    began = perf_counter()
    table = table_for(pipeline, request.servers)
    share = 0.0 if request.horizon_s is None else loading_share(pipeline, request)
    expected = min(request.demand_rps, request.expected_rps or request.demand_rps)
    chance = UNLIKELY if request.chance is None else request.chance
    target = np.array([request.demand_rps, expected, share, chance])
    counts, split = table.solve(state_of(table.fleet, request), target, request.servers, deep)
    return plan_of(table, counts, split, request.demand_rps, 1000 * (perf_counter() - began))


def plan_of(table: Table, counts: Floats, split: int, demand: float, solve_ms: float = 0.0) -> Plan:
    """Servers per model, written down as a plan for a demand [1/s]."""
    fleet, work = table.fleet, table.work
    most = capacity_of(counts, fleet.rates[split], fleet.net, demand, work)
    spread(fleet.net, min(demand, most), work)
    flow = work[FLOW, : fleet.models].copy()
    quality = accuracy(flow, fleet.net, work[VALUES])
    served = min(1.0, most / demand)
    used = int(counts.sum())
    mode: Mode = "shed" if served < 1 - NEARLY else "hardware" if quality > fleet.best - NEARLY else "accuracy"
    value = VIOLATION * (1 - served) + ACCURACY * (1 - quality / fleet.best) + SERVERS / table.servers * used
    return Plan(
        mode=mode,
        placements=_placements(fleet, counts, split),
        servers=used,
        accuracy=quality,
        served_fraction=served,
        demand_rps=demand,
        capacity_rps=most,
        split=_marks(fleet, split),
        flows=_shares(fleet, counts, flow),
        certificate=Certificate(objective=value, bound=0.0, gap=1.0, status="local search", solve_ms=solve_ms),
    )


def _placements(fleet: Fleet, counts: Floats, split: int) -> tuple[Placement, ...]:
    return tuple(
        Placement(*fleet.names(model), max(1, int(fleet.batch[split, model])), int(count))
        for model, count in enumerate(counts)
        if count
    )


def _marks(fleet: Fleet, split: int) -> dict[str, float]:
    """Task -> cumulative share of the SLO, by the slowest batch that the split allows on each level."""
    pipeline = fleet.pipeline
    slowest = [
        max(
            pipeline.latencies[t][v][max(1, int(fleet.batch[split, fleet.first[t] + v]))].p99
            for v in range(len(task.variants))
        )
        for t, task in enumerate(pipeline.tasks)
    ]
    rest = [0.0] * len(slowest)
    for t in reversed(range(len(slowest))):
        rest[t] = max((slowest[child] + rest[child] for child in pipeline.children[t]), default=0.0)
    used = [sum(slowest[above] for above in line) for line in pipeline.lines]
    return {task.name: used[t] / (used[t] + rest[t]) if rest[t] else 1.0 for t, task in enumerate(pipeline.tasks)}


def _shares(fleet: Fleet, counts: Floats, flow: Floats) -> dict[str, dict[str, float]]:
    shares: dict[str, dict[str, float]] = {}
    for t, task in enumerate(fleet.pipeline.tasks):
        mine = slice(int(fleet.first[t]), int(fleet.first[t + 1]))
        weights = flow[mine] if flow[mine].sum() > 0 else counts[mine]
        total = float(weights.sum()) or 1.0
        shares[task.name] = {v.name: float(w) / total for v, w in zip(task.variants, weights, strict=True) if w > 0}
    return shares
