"""The allocator against brute force: every integer fleet, explicit route prefixes, no reduction, another LP solver."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations_with_replacement, pairwise
from math import exp, inf

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from scipy.optimize import linprog

from loki_rl.control.allocator import allocate, capacity
from loki_rl.control.latency import latency_model
from loki_rl.control.request import Queueing, Request
from loki_rl.control.verify import verify
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant

Config = tuple[int, int, int]
Prefix = tuple[Config, ...]
TIE = 1e-7


@st.composite
def pipelines(draw: st.DrawFn, most_variants: int) -> Pipeline:
    parents = draw(st.sampled_from([(-1,), (-1, 0), (-1, -1), (-1, 0, 0), (-1, 0, 1)]))
    names = [f"t{i}" for i in range(len(parents))]
    tasks = []
    for i, parent in enumerate(parents):
        children = [names[j] for j, p in enumerate(parents) if p == i]
        variants = tuple(
            draw(variant(f"v{k}", children)) for k in range(draw(st.integers(1, most_variants - len(parents) // 3)))
        )
        entry = 0.0 if parent >= 0 else draw(st.sampled_from([1.0, 0.5, 2.0]))
        tasks.append(Task(names[i], variants, None if parent < 0 else names[parent], entry))
    leaves = [name for i, name in enumerate(names) if i not in parents]
    weights = [draw(st.integers(0, 3)) for _ in leaves]
    weights = weights if sum(weights) else [1] * len(leaves)
    omega = {leaf: weight / sum(weights) for leaf, weight in zip(leaves, weights, strict=True)}
    return Pipeline("random", 1.0, tuple(tasks), omega)


@st.composite
def variant(draw: st.DrawFn, name: str, children: list[str]) -> Variant:
    base, each = draw(st.integers(2, 30)), draw(st.integers(1, 20))
    latency = {}
    for batch in draw(st.sampled_from([(1,), (1, 2), (1, 4)])):
        p50 = (base + each * batch) / 1000
        latency[batch] = Latency(p50, p50 * 1.1, p50 * 1.2)
    accuracy = draw(st.sampled_from([0.5, 0.6, 0.8, 0.9, 1.0]))
    fanout = {child: draw(st.sampled_from([0.0, 0.5, 1.0, 2.0])) for child in children}
    return Variant(name, accuracy, latency, fanout)


class Brute:
    """Every fleet of a small instance. Values are in shares of the demand."""

    def __init__(self, pipeline: Pipeline, request: Request) -> None:
        self.pipeline, self.request = pipeline, request
        model = latency_model(request.queueing, pipeline, pipeline.slo_s)
        self.configs: list[Config] = [
            (t, v, b) for t, task in enumerate(pipeline.tasks) for v, x in enumerate(task.variants) for b in x.latency
        ]
        self.cost = {c: model.cost_us(*c) for c in self.configs}
        self.rate = {c: model.rate(*c) / (1 + request.headroom) for c in self.configs}
        self.reserve = {c: model.reserve(*c) for c in self.configs}
        self.prefixes = [p for entry in pipeline.entries for p in self._extend((), entry, model.budget_us)]
        self.number = {p: i for i, p in enumerate(self.prefixes)}
        self._matrices()

    def _extend(self, prefix: Prefix, task: int, left: int) -> Iterator[Prefix]:
        for config in (c for c in self.configs if c[0] == task):
            if self.cost[config] + self._tail(task) <= left:
                yield (*prefix, config)
                for child in self.pipeline.children[task]:
                    yield from self._extend((*prefix, config), child, left - self.cost[config])

    def _tail(self, task: int) -> int:
        costs = (
            min(self.cost[c] for c in self.configs if c[0] == child) + self._tail(child)
            for child in self.pipeline.children[task]
        )
        return max(costs, default=0)

    def _weight(self, prefix: Prefix) -> float:
        weight = self.pipeline.tasks[prefix[0][0]].entry
        for parent, child in pairwise(prefix):
            variant = self.pipeline.tasks[parent[0]].variants[parent[1]]
            weight *= variant.fanout[self.pipeline.tasks[child[0]].name]
        return weight

    def _idle(self, prefix: Prefix) -> float:
        """Children of one item come at once."""
        if len(prefix) == 1:
            return self.reserve[prefix[0]]
        above = self.pipeline.tasks[prefix[-2][0]].variants[prefix[-2][1]]
        return self.reserve[prefix[-1]] * (1 + above.fanout[self.pipeline.tasks[prefix[-1][0]].name])

    def expected(self, leaf: int, path: tuple[int, ...]) -> float:
        """Written out for depths 1 to 3: the branch may be empty after any stage."""
        line = [self.pipeline.tasks[t] for t in self.pipeline.lines[leaf]]
        accuracy = self.pipeline.accuracy(leaf, path)

        def empty(s: float) -> float:
            return {1.0: s, 0.5: 0.5 + 0.5 * s, 2.0: s * s}[line[0].entry]

        m = [task.variants[v].fanout[below.name] for task, v, below in zip(line, path, line[1:], strict=False)]
        gone = [empty(0.0)]
        if len(line) > 1:
            gone.append(empty(exp(-m[0])))
        if len(line) > 2:
            gone.append(empty(exp(m[0] * (exp(-m[1]) - 1))))
        total, before = 0.0, 0.0
        for depth, chance in enumerate(gone):
            total += (chance - before) * self.pipeline.best_completion(leaf, path[:depth])
            before = chance
        return total + (1 - before) * accuracy

    def _matrices(self) -> None:
        """Columns: one flow per prefix, then the served share."""
        size = len(self.prefixes) + 1
        rows = []
        for entry in self.pipeline.entries:
            rows.append(self._row(size, [(p, 1.0) for p in self.prefixes if len(p) == 1 and p[0][0] == entry]))
            rows[-1][-1] = -1
        for prefix in self.prefixes:
            for child in self.pipeline.children[prefix[-1][0]]:
                below = [(p, 1.0) for p in self.prefixes if p[:-1] == prefix and p[-1][0] == child]
                rows.append(self._row(size, [*below, (prefix, -1.0)]))
        self.balance = np.array(rows)
        self.loads, self.idle = (
            np.array([self._row(size, [(p, each(p)) for p in self.prefixes if p[-1] == c]) for c in self.configs])
            for each in (lambda p: self._weight(p) / self.rate[p[-1]], self._idle)
        )
        leaves = set(self.pipeline.leaves)
        weights = [self.pipeline.leaf_weights.get(task.name, 0.0) for task in self.pipeline.tasks]
        self.served = np.zeros(size)
        self.served[-1] = 1
        self.accuracy = np.zeros(size)
        self.best = np.ones(size, dtype=bool)
        for p in self.prefixes:
            if p[-1][0] in leaves:
                leaf = p[-1][0]
                value = self.expected(leaf, tuple(config[1] for config in p))
                self.accuracy[self.number[p]] = weights[leaf] * value
                if weights[leaf] and value < self.pipeline.best_completion(leaf, ()) - 1e-9:
                    self.best[self.number[p]] = False

    def _row(self, size: int, terms: list[tuple[Prefix, float]]) -> np.ndarray:
        row = np.zeros(size)
        for prefix, value in terms:
            row[self.number[prefix]] += value
        return row

    def solve(
        self, fleet: np.ndarray, goal: np.ndarray, rps: float | None = None, best_only: bool = False, least: float = 1.0
    ) -> float:
        """Largest value of the goal for a fleet that serves a demand whole (at least: this share), -inf if there is none."""
        served = (least, least)
        bounds = [(0, None if (ok or not best_only) else 0) for ok in self.best[:-1]] + [served]
        busy = self.loads * (rps or self.request.demand_rps)
        loads, limits = (busy + np.sqrt(busy**2 + 4 * busy * self.idle)) / 2, fleet.astype(float)
        if self.request.min_accuracy > 0:
            floor = -self.accuracy.copy()
            floor[-1] = self.request.min_accuracy
            loads, limits = np.vstack([loads, floor]), np.append(limits, 0.0)
        found = linprog(-goal, loads, limits, self.balance, np.zeros(len(self.balance)), bounds)
        return -float(found.fun or 0.0) if found.status == 0 else -inf

    def most(self, fleet: np.ndarray) -> float:
        """Largest share of the demand that a fleet can serve, with the idle servers which that share needs (bisection)."""
        low, high = 0.0, 1.0
        if self.solve(fleet, self.served) > -inf:
            return 1.0
        while high - low > 1e-9:
            share = (low + high) / 2
            if self.solve(fleet, self.served, share * self.request.demand_rps) > -inf:
                low = share
            else:
                high = share
        return low

    def fleets(self, total: int) -> Iterator[np.ndarray]:
        for chosen in combinations_with_replacement(range(len(self.configs)), total):
            yield np.bincount(chosen, minlength=len(self.configs))


def judge(pipeline: Pipeline, request: Request) -> tuple[str, float, float, int]:
    """Mode, accuracy, served share and (where it is promised minimal) number of servers; by trying everything."""
    brute = Brute(pipeline, request)
    if any(not any(p[0][0] == entry for p in brute.prefixes) for entry in pipeline.entries):
        return "infeasible", 0.0, 0.0, 0
    for total in range(1, request.servers + 1):
        if any(brute.solve(fleet, brute.served, best_only=True) > -inf for fleet in brute.fleets(total)):
            return "hardware", pipeline.best_accuracy, 1.0, total
    full = list(brute.fleets(request.servers))
    accuracy = max(brute.solve(fleet, brute.accuracy) for fleet in full)
    if accuracy > -inf:
        for total in range(1, request.servers + 1):
            if any(brute.solve(fleet, brute.accuracy) >= accuracy - TIE for fleet in brute.fleets(total)):
                return "accuracy", accuracy, 1.0, total
    return shed(brute, full)


def shed(brute: Brute, full: list[np.ndarray]) -> tuple[str, float, float, int]:
    amounts = [brute.most(fleet) for fleet in full]
    most = max(amounts)
    if most < 1e-7:
        return "infeasible", 0.0, 0.0, 0
    ties = (fleet for fleet, amount in zip(full, amounts, strict=True) if amount >= most * (1 - 1e-6))
    rps = most * brute.request.demand_rps
    return "shed", max(brute.solve(fleet, brute.accuracy, rps, least=1 - 1e-6) for fleet in ties) / (1 - 1e-6), most, 0


@st.composite
def questions(draw: st.DrawFn, queueing: Queueing) -> tuple[Pipeline, Request]:
    """An instance with an SLO near its fastest path and a demand near its capacity, so that all modes occur."""
    pipeline = draw(pipelines(3))
    servers = draw(st.integers(len(pipeline.tasks), 3 if len(pipeline.tasks) > 2 else 4))
    fastest = [min(x.latency[b].p99 for x in task.variants for b in x.latency) for task in pipeline.tasks]
    needed_s = max(sum(fastest[t] for t in pipeline.lines[leaf]) for leaf in pipeline.leaves)
    slo_s = 2 * needed_s * draw(st.sampled_from([0.8, 1.2, 1.6, 2.5, 5.0]))
    pipeline = replace(pipeline, slo_s=slo_s)
    most = capacity(pipeline, servers, queueing=queueing).capacity_rps or 10.0
    best = capacity(pipeline, servers, queueing=queueing, min_accuracy=pipeline.best_accuracy).capacity_rps
    base = draw(st.sampled_from([best or most, most, (best + most) / 2]))
    request = Request(
        demand_rps=base * draw(st.sampled_from([0.3, 0.7, 0.95, 1.05])),
        servers=servers,
        min_accuracy=draw(st.sampled_from([0.0, 0.0, 0.0, 0.7])),
        headroom=draw(st.sampled_from([0.0, 0.2])),
        queueing=queueing,
    )
    return pipeline, request


@pytest.mark.parametrize("queueing", ["half-slo", "tail"])
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_finds_what_trying_everything_finds(queueing: Queueing, data: st.DataObject) -> None:
    pipeline, request = data.draw(questions(queueing))
    mode, accuracy, served, fewest = judge(pipeline, request)
    event(mode)
    plan = allocate(pipeline, request)
    assert plan.mode == mode, plan
    assert verify(pipeline, plan, request) == []
    assert plan.accuracy == pytest.approx(accuracy, abs=2e-6)
    assert plan.served_fraction == pytest.approx(served, abs=2e-6)
    assert plan.certificate.gap <= 1e-6
    if fewest:
        assert plan.servers == fewest
