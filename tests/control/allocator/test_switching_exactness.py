"""The switch-aware objective against brute force: every integer fleet, explicit route prefixes, the objective written out
anew, another solver."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations_with_replacement
from math import inf
from typing import Any

import highspy
import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from loki_rl.control.allocator.allocate import allocate, capacity
from loki_rl.control.allocator.switching import SWITCH_GAP
from loki_rl.control.formulation.request import Queueing, Request, Slice
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Exclusion, Server
from tests.control.brute import Brute, pipelines
from tests.control.verify import verify

Model = tuple[int, int]
Terms = dict[int, float]
# What the allocator may miss of the objective, beyond its gap: tolerances of solvers, and demand too narrow to count.
CLOSE = 2e-5


class Rows:
    """A linear program for HiGHS itself, solved anew for other right-hand sides."""

    def __init__(self, bounds: Sequence[tuple[float, float]], worth: Terms) -> None:
        self._highs = highspy.Highs()  # type: ignore[no-untyped-call]
        self._highs.setOptionValue("output_flag", False)
        self._highs.setOptionValue("threads", 1)
        for number, (low, high) in enumerate(bounds):
            self._highs.addVar(low, high)
            self._highs.changeColCost(number, worth.get(number, 0.0))
        self._highs.changeObjectiveSense(highspy.ObjSense.kMaximize)
        self._rows = 0

    def add(self, terms: Terms, low: float, high: float) -> int:
        columns = [number for number, value in terms.items() if value]
        self._highs.addRow(low, high, len(columns), np.array(columns, np.int32), np.array([terms[c] for c in columns]))
        self._rows += 1
        return self._rows - 1

    def most(self, limits: Iterable[tuple[int, float]]) -> float:
        for row, high in limits:
            self._highs.changeRowBounds(row, -inf, high)
        self._highs.run()
        assert self._highs.getModelStatus() == highspy.HighsModelStatus.kOptimal
        return float(self._highs.getInfo().objective_function_value)


class Judge:
    """J of every fleet: 5 (f short while loading + (1 - f) short after) + (1 - f) accuracy loss + 0.1 servers / cluster,
    where a server that loads is paid for twice while it does; here the same with the sign of worth. After the loads every
    slice of demand has a flow of its own, in shares of the slice."""

    def __init__(self, pipeline: Pipeline, request: Request) -> None:
        self.pipeline, self.request = pipeline, request
        self.brute = Brute(pipeline, request)
        self.configs = self.brute.configs
        assert request.horizon_s is not None
        load_s = [self._load_s(t, v) for t, task in enumerate(pipeline.tasks) for v in range(len(task.variants))]
        self.share = min(0.5, max(load_s) / request.horizon_s)
        may_come = any(one.to_rps and one.chance for one in request.slices)
        self.slices = request.slices if may_come else (Slice(request.demand_rps, 1.0),)
        far = 2 * self._most_rps()
        self.slices = tuple(Slice(min(one.to_rps, far), one.chance) for one in self.slices)
        self.mean = request.mean_rps or request.demand_rps
        self.able, self.held = self._state()
        self.after, self.after_rows = self._after()
        self.loading, self.kept_rows = self._loading()
        self._seen: dict[tuple[float, ...], float] = {}

    def _most_rps(self) -> float:
        """What servers could serve that are never idle."""
        size = len(self.brute.prefixes)
        rows = Rows([(0, inf)] * size + [(0, 1e9)], {size: 1.0})
        for row in self.brute.balance:
            rows.add(dict(enumerate(row)), 0, 0)
        rows.add(dict(enumerate(self.brute.loads.sum(axis=0))), -inf, self.request.servers)
        return rows.most([])

    @property
    def bounds(self) -> list[tuple[float, float]]:
        """From where to where each slice is [1/s]."""
        ends = [one.to_rps for one in self.slices]
        return list(zip((0.0, *ends), ends, strict=False))

    def _load_s(self, task: int, variant: int) -> float:
        return self.pipeline.tasks[task].variants[variant].load_s if self.request.load_s is None else self.request.load_s

    def _state(self) -> tuple[dict[Model, float], dict[Model, float]]:
        """Servers able to serve a model, those that load it in proportion; and servers that need not load it."""
        able: dict[Model, float] = defaultdict(float)
        held: dict[Model, float] = defaultdict(float)
        for server in self.request.current:
            warm = {server.serving[:2]} if server.serving else set(server.resident)
            for name in set() if server.loading and not server.serving else warm:
                able[self._model(name)] += 1
                held[self._model(name)] += 1
            if server.loading:
                model = self._model(server.loading[:2])
                total = max(self._load_s(*model), server.remaining_s)
                able[model] += 1 - server.remaining_s / total if total else 1.0
                held[model] += 1
        return able, held

    def _model(self, name: tuple[str, str]) -> Model:
        task = self.pipeline.index[name[0]]
        return task, self.pipeline.variant_index[task][name[1]]

    def _after(self) -> tuple[Rows, list[int]]:
        """Columns: the flows of all prefixes and the served share, slice after slice."""
        size, worth, bounds, floor = len(self.brute.prefixes) + 1, Terms(), list[tuple[float, float]](), Terms()
        least = min(self.request.min_accuracy, self.pipeline.best_accuracy)
        for place, ((low, high), one) in enumerate(zip(self.bounds, self.slices, strict=True)):
            weight, first = one.chance * (high - low) / self.mean, place * size
            bounds += [(0, inf)] * (size - 1) + [(0, 1)]
            for prefix, value in enumerate(self.brute.accuracy[:-1]):
                worth[first + prefix] = weight * value / self.pipeline.best_accuracy
                floor[first + prefix] = (high - low) * value
            worth[first + size - 1], floor[first + size - 1] = 5 * weight * (1 - self.share), (low - high) * least
        rows = Rows(bounds, worth)
        for first in range(0, size * len(self.slices), size):
            for row in self.brute.balance:
                rows.add({first + column: value for column, value in enumerate(row)}, 0, 0)
        if least > 0:
            rows.add(floor, 0, inf)
        needs = [self._needs(high) - self._needs(low) for low, high in self.bounds]
        return rows, [rows.add(dict(enumerate(np.concatenate([one[k] for one in needs]))), -inf, 0) for k in self.places]

    def _needs(self, rps: float) -> np.ndarray:
        """[configuration, column] = busy and idle servers if all of a demand takes it."""
        busy = self.brute.loads * rps
        return np.asarray((busy + np.sqrt(busy**2 + 4 * busy * self.brute.idle)) / 2)

    def _loading(self) -> tuple[Rows, list[int]]:
        """Any variant, a quarter more demand, no idle servers. Columns: flows and what is served, in shares of the highest
        demand; servers of every configuration; what is served of each slice."""
        size, highest = len(self.brute.prefixes) + 1, self.slices[-1].to_rps
        first, served = size, size + len(self.configs)
        widths = [(high - low) / highest for low, high in self.bounds]
        scale = 5 * self.share * highest / self.mean
        rows = Rows(
            [*[(0.0, inf)] * (size - 1), (0.0, 1.0), *[(0.0, inf)] * len(self.configs), *((0.0, width) for width in widths)],
            {served + place: scale * one.chance for place, one in enumerate(self.slices)},
        )
        rows.add({size - 1: -1.0, **{served + place: 1.0 for place in range(len(widths))}}, -inf, 0)
        for row in self.brute.balance:
            rows.add(dict(enumerate(row)), 0, 0)
        for k, need in enumerate(self.brute.loads * highest * 1.25):
            rows.add({**dict(enumerate(need[: size - 1])), first + k: -1}, -inf, 0)
        limits = [
            rows.add({first + k: 1 for k, c in enumerate(self.configs) if c[:2] == model}, -inf, 0) for model in self.models
        ]
        return rows, [*limits, rows.add({first + k: 1 for k in self.places}, -inf, 0)]

    @property
    def places(self) -> range:
        return range(len(self.configs))

    @property
    def models(self) -> list[Model]:
        return sorted({c[:2] for c in self.configs})

    def value(self, fleet: np.ndarray) -> float:
        wanted = [sum(n for n, c in zip(fleet, self.configs, strict=True) if c[:2] == model) for model in self.models]
        loads = sum(max(0, n - self.held[model]) for n, model in zip(wanted, self.models, strict=True))
        price = 0.1 / self.request.servers * (sum(wanted) + self.share * loads)
        return float(self.worth_after(fleet) + self._while_loading(wanted) - price)

    def worth_after(self, fleet: np.ndarray) -> float:
        return self.after.most(zip(self.after_rows, fleet.astype(float), strict=True))

    def _while_loading(self, wanted: list[int]) -> float:
        kept = [self.able[model] for model in self.models]
        if self.pipeline.swap == "break":
            kept = [min(pair) for pair in zip(kept, wanted, strict=True)]
            limits = (*kept, inf)
        else:
            limits = (*kept, float(sum(wanted)))
        if limits not in self._seen:
            self._seen[limits] = self.loading.most(zip(self.kept_rows, limits, strict=True))
        return self._seen[limits]

    def fleets(self) -> Iterator[np.ndarray]:
        """All that can be reached: of what cannot be loaded no more servers than have it."""
        most = {self._model((one.task, one.variant)) for one in self.request.unloadable}
        for total in range(self.request.servers + 1):
            for chosen in combinations_with_replacement(range(len(self.configs)), total):
                wanted = Counter(self.configs[k][:2] for k in chosen)
                if all(wanted[model] <= self.held[model] for model in most):
                    yield np.bincount(chosen, minlength=len(self.configs))

    def most_accurate(self, fleet: np.ndarray, served: float) -> float:
        """The best accuracy at which a fleet serves this share of the demand."""
        rps = self.request.demand_rps * served * (1 - 1e-6)
        return self.brute.solve(fleet, self.brute.accuracy, rps)

    def placed(self, plan: Any) -> np.ndarray:
        """The fleet of a plan."""
        fleet = np.zeros(len(self.configs))
        for place in plan.placements:
            fleet[self.configs.index((*self._model((place.task, place.variant)), place.batch, 0))] += place.replicas
        return fleet


@st.composite
def questions(draw: st.DrawFn, queueing: Queueing) -> tuple[Pipeline, Request]:
    """Clusters in any state under a demand around what they can serve."""
    pipeline = draw(pipelines(3))
    load_s = {v: draw(st.sampled_from([0.0, 1.0, 5.0, 20.0])) for v in range(3)}
    tasks = tuple(
        replace(task, variants=tuple(replace(x, load_s=load_s[v]) for v, x in enumerate(task.variants)))
        for task in pipeline.tasks
    )
    pipeline = replace(pipeline, tasks=tasks, swap=draw(st.sampled_from(["break", "make"])))
    size = sum(len(x.latency) for task in tasks for x in task.variants)
    servers = draw(st.integers(len(tasks), max(len(tasks), 4 if size <= 6 else 3)))
    fastest = [min(x.latency[b].p99 for x in task.variants for b in x.latency) for task in tasks]
    needed_s = max(sum(fastest[t] for t in pipeline.lines[leaf]) for leaf in pipeline.leaves)
    pipeline = replace(pipeline, slo_s=2 * needed_s * draw(st.sampled_from([1.6, 2.5, 5.0])))
    most = capacity(pipeline, servers, queueing=queueing).capacity_rps or 10.0
    demand = most * draw(st.sampled_from([0.2, 0.5, 0.8, 1.0, 1.4]))
    return pipeline, Request(
        demand,
        servers,
        min_accuracy=min(pipeline.best_accuracy, draw(st.sampled_from([0.0, 0.0, 0.6, 0.8]))),
        headroom=draw(st.sampled_from([0.0, 0.2])),
        queueing=queueing,
        current=tuple(draw(server(pipeline, number)) for number in range(servers)),
        horizon_s=draw(st.sampled_from([5.0, 20.0, 60.0])),
        load_s=draw(st.sampled_from([None, 0.0, 5.0, 20.0])),
        slices=draw(st.just(()) | slices(demand)),
        mean_rps=draw(st.sampled_from([None, demand, 0.3 * demand, 2.0 * demand])),
        unloadable=draw(st.sampled_from([(), ()]) | unloadable(pipeline)),
    )


@st.composite
def slices(draw: st.DrawFn, demand: float) -> tuple[Slice, ...]:
    """One to five, some of no width or chance, up to far more than there are servers for."""
    size = draw(st.integers(1, 5))
    widths = [draw(st.sampled_from([0.0, 0.05, 0.3, 0.5, 1.0])) for _ in range(size)]
    widths[draw(st.integers(0, size - 1))] = draw(st.sampled_from([0.6, 1.0, 50.0]))
    chances = sorted((draw(st.sampled_from([1.0, 1.0, 0.8, 0.3, 0.02, 0.0])) for _ in range(size)), reverse=True)
    return tuple(Slice(float(end), chance) for end, chance in zip(demand * np.cumsum(widths), chances, strict=True))


def unloadable(pipeline: Pipeline) -> st.SearchStrategy[tuple[Exclusion, ...]]:
    models = [Exclusion(task.name, variant.name, "", "") for task in pipeline.tasks for variant in task.variants]
    return st.sets(st.sampled_from(models), max_size=2).map(lambda drawn: tuple(sorted(drawn, key=str)))


@st.composite
def server(draw: st.DrawFn, pipeline: Pipeline, number: int) -> Server:
    """Serving, loading, parked or empty; one that makes before it breaks may serve while it loads."""
    models = [(task.name, variant.name) for task in pipeline.tasks for variant in task.variants]
    held, coming = draw(st.sampled_from(models)), draw(st.sampled_from(models))
    state = draw(st.sampled_from(["serving", "serving", "loading", "parked", "empty"]))
    if state == "empty":
        return Server(number)
    if state != "loading":
        return Server(number, (*held, 1) if state == "serving" else None, (held,))
    remaining_s = draw(st.sampled_from([0.0, 0.5, 3.0, 30.0]))
    if pipeline.swap == "make" and held != coming:
        return Server(number, (*held, 1), (held,), (*coming, 1), remaining_s)
    return Server(number, None, (), (*coming, 1), remaining_s)


@pytest.mark.parametrize("queueing", ["half-slo", "tail"])
@settings(max_examples=110, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_finds_what_trying_everything_finds(queueing: Queueing, data: st.DataObject) -> None:
    pipeline, request = data.draw(questions(queueing))
    judge = Judge(pipeline, request)
    best, _, fleet = max((judge.value(fleet), number, fleet) for number, fleet in enumerate(judge.fleets()))
    plan, close = allocate(pipeline, request), 2 * SWITCH_GAP * best + CLOSE
    if best <= close:
        # What may come is worth no server: then it is as if the demand came for sure.
        judge = Judge(pipeline, replace(request, slices=(), mean_rps=None))
        best, _, fleet = max((judge.value(fleet), number, fleet) for number, fleet in enumerate(judge.fleets()))
    event(f"{pipeline.swap} {plan.mode} {len(request.slices)}")
    if plan.mode == "infeasible":
        assert judge.worth_after(fleet) < close
        return
    placed = judge.placed(plan)
    assert plan.certificate.objective == pytest.approx(best, abs=close), plan
    assert judge.value(placed) == pytest.approx(best, abs=close), plan
    assert verify(pipeline, plan, request) == []
    assert plan.served_fraction == pytest.approx(judge.brute.most(placed[: len(judge.configs)]), abs=2e-6)
    assert plan.accuracy == pytest.approx(judge.most_accurate(placed, plan.served_fraction), abs=2e-6)
