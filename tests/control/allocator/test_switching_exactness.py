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
from loki_rl.control.formulation.request import Queueing, Request
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Exclusion, Server
from tests.control.brute import Brute, pipelines
from tests.control.verify import verify

Model = tuple[int, int]
Terms = dict[int, float]
# What the allocator may miss of the objective, which is at most 6: it stops at 2e-5 of it.
GAP = 1.5e-4


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
    """J of every fleet: 5 (f short while loading + (1 - f) short after) + accuracy loss + 0.1 servers / cluster, where a
    server that loads is paid for twice while it does; here the same with the sign of worth."""

    def __init__(self, pipeline: Pipeline, request: Request) -> None:
        self.pipeline, self.request = pipeline, request
        self.brute = Brute(pipeline, request)
        self.configs = self.brute.configs
        assert request.horizon_s is not None
        load_s = [self._load_s(t, v) for t, task in enumerate(pipeline.tasks) for v in range(len(task.variants))]
        self.share = min(0.5, max(load_s) / request.horizon_s)
        self.able, self.held = self._state()
        self.after, self.after_rows = self._after()
        self.loading, self.kept_rows = self._loading()
        self._seen: dict[tuple[float, ...], float] = {}

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

    def _worth(self, weight: float, served: int, likely: int) -> Terms:
        """In shares of what is expected; beyond that by its chance, a fifth if nobody says."""
        scale = weight * self.request.demand_rps / (self.request.expected_rps or self.request.demand_rps)
        chance = 0.2 if self.request.chance is None else self.request.chance
        return {served: chance * scale, likely: (1 - chance) * scale}

    def _frame(self, weight: float, extra: int) -> tuple[Rows, int]:
        """Flows of all prefixes, the served share, what is expected of it, and more columns."""
        size = len(self.brute.prefixes)
        served, likely = size, size + 1
        expected = (self.request.expected_rps or self.request.demand_rps) / self.request.demand_rps
        worth = self._worth(weight, served, likely)
        if weight == 5 * (1 - self.share):
            for prefix, value in enumerate(self.brute.accuracy[:-1]):
                worth[prefix] = value / self.pipeline.best_accuracy
        rows = Rows([(0, inf)] * size + [(0, 1), (0, expected)] + [(0, inf)] * extra, worth)
        rows.add({likely: 1, served: -1}, -inf, 0)
        for row in self.brute.balance:
            rows.add(dict(enumerate(row)), 0, 0)
        return rows, size

    def _after(self) -> tuple[Rows, list[int]]:
        rows, size = self._frame(5 * (1 - self.share), 0)
        if self.request.min_accuracy > 0:
            floor = min(self.request.min_accuracy, self.pipeline.best_accuracy)
            rows.add({**dict(enumerate(self.brute.accuracy[:-1])), size: -floor}, 0, inf)
        busy = self.brute.loads * self.request.demand_rps
        needs = (busy + np.sqrt(busy**2 + 4 * busy * self.brute.idle)) / 2
        return rows, [rows.add(dict(enumerate(need[:size])), -inf, 0) for need in needs]

    def _loading(self) -> tuple[Rows, list[int]]:
        """Any variant, a quarter more demand, no idle servers; a column of servers for every configuration."""
        rows, size = self._frame(5 * self.share + 1e-12, len(self.configs))
        first = size + 2
        for k, need in enumerate(self.brute.loads * self.request.demand_rps * 1.25):
            rows.add({**dict(enumerate(need[:size])), first + k: -1}, -inf, 0)
        limits = [
            rows.add({first + k: 1 for k, c in enumerate(self.configs) if c[:2] == model}, -inf, 0) for model in self.models
        ]
        return rows, [*limits, rows.add({first + k: 1 for k in range(len(self.configs))}, -inf, 0)]

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
        expected_rps=draw(st.sampled_from([None, 0.5 * demand, 0.8 * demand])),
        chance=draw(st.sampled_from([None, 0.0, 0.05, 0.6])),
        unloadable=draw(st.sampled_from([(), ()]) | unloadable(pipeline)),
    )


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
    plan = allocate(pipeline, request)
    event(f"{pipeline.swap} {plan.mode}")
    if plan.mode == "infeasible":
        assert judge.worth_after(fleet) < GAP
        return
    assert plan.certificate.objective == pytest.approx(best, abs=GAP), plan
    assert judge.value(judge.placed(plan)) == pytest.approx(best, abs=GAP), plan
    assert verify(pipeline, plan, request) == []
