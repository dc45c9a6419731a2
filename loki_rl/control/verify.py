"""Checks a plan against its request from the outside: recomputes every promise from routes and placements, with nothing of
the model that found it. Changes no plan."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from loki_rl.control.accuracy import Accuracies
from loki_rl.control.latency import latency_model
from loki_rl.control.request import Request
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Placement, Plan, Route

TOLERANCE = 1e-6

Key = tuple[int, int, int]


def verify(pipeline: Pipeline, plan: Plan, request: Request) -> list[str]:
    """Every promise that the plan breaks, one sentence each; empty for a sound plan."""
    if plan.mode == "infeasible":
        return ["an infeasible plan places servers"] if plan.placements or not plan.reasons else []
    check = _Check(pipeline, plan, request)
    return [*check.servers(), *check.shares(), *check.latency(), *check.load(), *check.accuracy(), *check.split()]


class _Check:
    def __init__(self, pipeline: Pipeline, plan: Plan, request: Request) -> None:
        self.pipeline, self.plan, self.request = pipeline, plan, request
        self.model = latency_model(request.queueing, pipeline, request.servers)
        self.replicas = {self._key(placement): placement.replicas for placement in plan.placements}

    def _key(self, placement: Placement) -> Key:
        task = self.pipeline.index[placement.task]
        return task, self.pipeline.variant_index[task][placement.variant], placement.batch

    def _way(self, route: Route) -> list[Key]:
        line = self.pipeline.lines[self.pipeline.index[route.leaf]]
        names = self.pipeline.variant_index
        return [(t, names[t][variant], batch) for t, (variant, batch) in zip(line, route.stages, strict=True)]

    def servers(self) -> Iterator[str]:
        used = sum(placement.replicas for placement in self.plan.placements)
        if used != self.plan.servers or used > self.request.servers:
            yield f"{used} servers placed, {self.plan.servers} promised, {self.request.servers} there"
        if min(self.replicas.values()) < 1 or len(self.replicas) < len(self.plan.placements):
            yield "a placement without replicas, or twice the same"

    def shares(self) -> Iterator[str]:
        totals: dict[str, float] = defaultdict(float)
        for route in self.plan.routes:
            totals[route.leaf] += route.share
        if sorted(totals) != sorted(self.pipeline.leaf_weights) or any(abs(x - 1) > TOLERANCE for x in totals.values()):
            yield f"routes per leaf sum to {dict(totals)}"
        for task in self.pipeline.tasks:
            if abs(sum(self.plan.flows[task.name].values()) - 1) > TOLERANCE:
                yield f"shares of task '{task.name}' sum to {sum(self.plan.flows[task.name].values())}"

    def latency(self) -> Iterator[str]:
        slo_s = self.pipeline.slo_s if self.request.slo_s is None else self.request.slo_s
        budget = self.model.budget_us(slo_s)
        for route in self.plan.routes:
            cost = sum(self.model.cost_us(*key) for key in self._way(route))
            if cost > budget:
                yield f"{route} costs {cost} of {budget} microseconds"

    def load(self) -> Iterator[str]:
        """A task on the way to several leaves is counted on one of them; all must agree about it."""
        loads: dict[int, dict[Key, float]] = {}
        for leaf in self.pipeline.leaves:
            for key, items in self._items(leaf).items():
                known = loads.setdefault(key[0], self._per_task(leaf, key[0]))
                if abs(known[key] - items) > TOLERANCE * max(1.0, items):
                    yield f"the branches disagree about the flow through {key}"
        rps = self.plan.demand_rps * self.plan.served_fraction * (1 + self.request.headroom)
        for key, items in ((key, items) for mine in loads.values() for key, items in mine.items()):
            busy = rps * items / self.model.rate(*key)
            if busy > self.replicas.get(key, 0) + TOLERANCE * max(1.0, busy):
                yield f"{key} keeps {busy} servers busy, has {self.replicas.get(key, 0)}"
        if self.plan.capacity_rps < self.plan.demand_rps * self.plan.served_fraction * (1 - TOLERANCE):
            yield f"capacity {self.plan.capacity_rps} is below what is served"

    def _per_task(self, leaf: int, task: int) -> dict[Key, float]:
        return {key: items for key, items in self._items(leaf).items() if key[0] == task}

    def _items(self, leaf: int) -> dict[Key, float]:
        """Items per request through each stage on the way to a leaf."""
        items: dict[Key, float] = defaultdict(float)
        for route in (route for route in self.plan.routes if self.pipeline.index[route.leaf] == leaf):
            way = self._way(route)
            weight = self.pipeline.tasks[way[0][0]].entry * route.share
            for (task, variant, batch), below in zip(way, [*way[1:], None], strict=True):
                items[task, variant, batch] += weight
                if below is not None:
                    fanouts = self.pipeline.fanouts[task][variant]
                    weight *= fanouts[self.pipeline.children[task].index(below[0])]
        return items

    def accuracy(self) -> Iterator[str]:
        accuracies = Accuracies(self.pipeline)
        total = 0.0
        for route in self.plan.routes:
            leaf = self.pipeline.index[route.leaf]
            path = tuple(variant for _, variant, _ in self._way(route))
            total += accuracies.weights[leaf] * route.share * float(accuracies.tables[leaf][path])
        if abs(total - self.plan.accuracy) > TOLERANCE:
            yield f"accuracy {self.plan.accuracy} promised, {total} by its routes"
        if self.plan.accuracy < self.request.min_accuracy - TOLERANCE:
            yield f"accuracy {self.plan.accuracy} is below the floor {self.request.min_accuracy}"

    def split(self) -> Iterator[str]:
        for position, task in enumerate(self.pipeline.tasks):
            mark = self.plan.split[task.name]
            if not 0 < mark <= 1 or (not self.pipeline.children[position] and mark != 1):
                yield f"split of '{task.name}' is {mark}"
            if task.parent is not None and mark < self.plan.split[task.parent]:
                yield f"'{task.name}' should end before its parent"
