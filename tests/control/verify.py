"""Checks a plan against its request from the outside: recomputes every promise from routes and placements, with nothing of
the model that found it. Changes no plan."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from loki_rl.control.formulation.accuracy import Accuracies
from loki_rl.control.formulation.latency import latency_model, with_idle
from loki_rl.control.formulation.request import Part, Request
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import JointPlan, Placement, Plan, Route
from loki_rl.core.servers.server_type import as_run_by

TOLERANCE = 1e-6

# Task, variant, batch, type of server.
Key = tuple[int, int, int, int]


def verify_jointly(parts: Sequence[Part], joint: JointPlan) -> list[str]:
    """Every promise that plans of pipelines on one cluster break, alone or together."""
    broken = [
        f"'{part.pipeline.name}': {sentence}"
        for part, plan in zip(parts, joint.plans, strict=True)
        for sentence in verify(part.pipeline, plan, part.request)
    ]
    places = [place for plan in joint.plans for place in plan.placements]
    return [*broken, *_servers(parts[0].request, places), *_sums(parts, joint)]


def _servers(request: Request, places: Sequence[Placement]) -> Iterator[str]:
    """No type has more servers than there are."""
    there = {kind.name: kind.count for kind in request.types}
    for name in sorted({place.server_type for place in places}):
        used = sum(place.replicas for place in places if place.server_type == name)
        if used > there.get(name, 0):
            yield f"{used} servers of type '{name}' placed, {there.get(name, 0)} there"


def _sums(parts: Sequence[Part], joint: JointPlan) -> Iterator[str]:
    if joint.servers != sum(plan.servers for plan in joint.plans):
        yield f"{joint.servers} servers promised, {sum(plan.servers for plan in joint.plans)} by the plans"
    if abs(joint.price - sum(plan.price for plan in joint.plans)) > TOLERANCE * max(1.0, joint.price):
        yield f"price {joint.price} promised, {sum(plan.price for plan in joint.plans)} by the plans"
    total = sum(part.weight for part in parts)
    worths = {
        "hardware": joint.price,
        "accuracy": sum(part.weight * plan.accuracy / total for part, plan in zip(parts, joint.plans, strict=True)),
        "shed": sum(part.weight * plan.served_fraction / total for part, plan in zip(parts, joint.plans, strict=True)),
    }
    worth = worths.get(joint.mode, 0.0)
    aware = parts[0].request.horizon_s is not None
    if not aware and abs(worth - joint.certificate.objective) > TOLERANCE * max(1.0, worth):
        yield f"the certificate says {joint.certificate.objective}, the plans reach {worth}"


def verify(pipeline: Pipeline, plan: Plan, request: Request) -> list[str]:
    """Every promise that the plan breaks, one sentence each; empty for a sound plan."""
    if plan.mode == "infeasible":
        return ["an infeasible plan places servers"] if plan.placements or not plan.reasons else []
    if not plan.placements and plan.served_fraction == 0:
        return []
    check = _Check(pipeline, plan, request)
    found = [*check.servers(), *check.shares(), *check.latency(), *check.load(), *check.accuracy(), *check.split()]
    return found if request.horizon_s is None else [*found, *check.mode()]


class _Check:
    def __init__(self, pipeline: Pipeline, plan: Plan, request: Request) -> None:
        self.pipeline, self.plan, self.request = pipeline, plan, request
        self.names = [kind.name for kind in request.types]
        self.by_type = [as_run_by(pipeline, kind) for kind in request.types]
        slo_s = pipeline.slo_s if request.slo_s is None else request.slo_s
        self.models = [latency_model(request.queueing, one, slo_s) for one in self.by_type]
        self.replicas = {self._key(placement): placement.replicas for placement in plan.placements}

    def _key(self, placement: Placement) -> Key:
        task = self.pipeline.index[placement.task]
        variant = self.pipeline.variant_index[task][placement.variant]
        return task, variant, placement.batch, self.names.index(placement.server_type)

    def _way(self, route: Route) -> list[Key]:
        line = self.pipeline.lines[self.pipeline.index[route.leaf]]
        names = self.pipeline.variant_index
        return [
            (t, names[t][variant], batch, self.names.index(kind))
            for t, (variant, batch, kind) in zip(line, route.stages, strict=True)
        ]

    def servers(self) -> Iterator[str]:
        used = sum(placement.replicas for placement in self.plan.placements)
        if used != self.plan.servers or used > self.request.servers:
            yield f"{used} servers placed, {self.plan.servers} promised, {self.request.servers} there"
        yield from _servers(self.request, self.plan.placements)
        price = sum(self.request.types[key[3]].price * count for key, count in self.replicas.items())
        if abs(price - self.plan.price) > TOLERANCE * max(1.0, price):
            yield f"price {self.plan.price} promised, {price} by its placements"
        for task, variant, _, pool in self.replicas:
            kind, model = self.request.types[pool], self.by_type[pool].tasks[task].variants[variant]
            if not model.runnable or model.memory_mb > kind.memory_mb:
                yield f"{model.name} cannot run on type '{kind.name}'"
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
        for route in self.plan.routes:
            cost = sum(self.models[key[3]].cost_us(*key[:3]) for key in self._way(route))
            if cost > self.models[0].budget_us:
                yield f"{route} costs {cost} of {self.models[0].budget_us} microseconds"

    def load(self) -> Iterator[str]:
        """A task on the way to several leaves is counted on one of them; all must agree about it."""
        needs: dict[int, dict[Key, float]] = {}
        for leaf in self.pipeline.leaves:
            for key, servers in self._needs(leaf).items():
                known = needs.setdefault(key[0], self._per_task(leaf, key[0]))
                if abs(known[key] - servers) > TOLERANCE * max(1.0, servers):
                    yield f"the branches disagree about the flow through {key}"
        for key, servers in ((key, servers) for mine in needs.values() for key, servers in mine.items()):
            if servers > self.replicas.get(key, 0) + TOLERANCE * max(1.0, servers):
                yield f"{key} needs {servers} servers, has {self.replicas.get(key, 0)}"
        if self.plan.capacity_rps < self.plan.demand_rps * self.plan.served_fraction * (1 - TOLERANCE):
            yield f"capacity {self.plan.capacity_rps} is below what is served"

    def _per_task(self, leaf: int, task: int) -> dict[Key, float]:
        return {key: servers for key, servers in self._needs(leaf).items() if key[0] == task}

    def _needs(self, leaf: int) -> dict[Key, float]:
        """Servers that each stage on the way to a leaf needs, busy and idle ones."""
        rps = self.plan.demand_rps * self.plan.served_fraction * (1 + self.request.headroom)
        needs: dict[Key, float] = defaultdict(float)
        for route in (route for route in self.plan.routes if self.pipeline.index[route.leaf] == leaf):
            way = self._way(route)
            weight = self.pipeline.tasks[way[0][0]].entry
            burst = 1.0
            for key, below in zip(way, [*way[1:], None], strict=True):
                # As if all requests went this way, for the share that does.
                model = self.models[key[3]]
                busy, reserve = rps * weight / model.rate(*key[:3]), model.reserve(*key[:3])
                needs[key] += route.share * with_idle(busy, burst * reserve)
                if below is not None:
                    fanout = self.pipeline.fanouts[key[0]][key[1]][self.pipeline.children[key[0]].index(below[0])]
                    weight, burst = weight * fanout, 1.0 + fanout
        return needs

    def accuracy(self) -> Iterator[str]:
        accuracies = Accuracies(self.pipeline)
        total = 0.0
        for route in self.plan.routes:
            leaf = self.pipeline.index[route.leaf]
            path = tuple(key[1] for key in self._way(route))
            total += accuracies.weights[leaf] * route.share * float(accuracies.tables[leaf][path])
        if abs(total - self.plan.accuracy) > TOLERANCE:
            yield f"accuracy {self.plan.accuracy} promised, {total} by its routes"
        if self.plan.accuracy < self.request.min_accuracy - TOLERANCE:
            yield f"accuracy {self.plan.accuracy} is below the floor {self.request.min_accuracy}"

    def mode(self) -> Iterator[str]:
        """Of a plan that is made for more than the demand."""
        best = self.plan.accuracy > self.pipeline.best_accuracy - TOLERANCE
        mode = "shed" if self.plan.served_fraction < 1 else "hardware" if best else "accuracy"
        if self.plan.mode != mode:
            yield f"mode {self.plan.mode} promised, {mode} by what it serves"
        meant = {(task, variant) for task, shares in self.plan.flows.items() for variant in shares}
        stands_by = any((place.task, place.variant) not in meant for place in self.plan.placements)
        if (self.plan.standby_rps > 0) != stands_by:
            yield f"servers stand by for {self.plan.standby_rps} requests/s, {stands_by} by its placements"

    def split(self) -> Iterator[str]:
        for position, task in enumerate(self.pipeline.tasks):
            mark = self.plan.split[task.name]
            if not 0 < mark <= 1 or (not self.pipeline.children[position] and mark != 1):
                yield f"split of '{task.name}' is {mark}"
            if task.parent is not None and mark < self.plan.split[task.parent]:
                yield f"'{task.name}' should end before its parent"
