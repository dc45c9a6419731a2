"""What a plan means for the items of one task: which variant should serve which share of those that each variant path made.
Derived from a plan's routes; knows no queue and no time."""

from __future__ import annotations

from collections import defaultdict

from msgspec import Struct

from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Plan
from loki_rl.core.requests.items import Family, size

ELSE = 0  # the lane of items whose variant path the plan does not have, and of all where paths do not matter


class Mix(Struct, frozen=True):
    """lane_of: variant path (prefix code) -> lane; all others stand in lane ELSE. shares: lane -> variant -> share of the
    lane's items, sums to 1. rates: lane -> variant -> items per second at the plan's capacity; lane ELSE has none unless it
    is the only one. bursts: variant -> two of its largest planned batches."""

    lane_of: dict[int, int]
    shares: tuple[dict[int, float], ...]
    rates: tuple[dict[int, float], ...]
    bursts: dict[int, float]

    @property
    def single(self) -> bool:
        """Whether there is nothing to choose: one variant serves all."""
        return len(self.shares) == 1 and len(self.shares[0]) < 2

    @property
    def rate(self) -> float:
        """Items per second of the task at the plan's capacity."""
        return sum(sum(lane.values()) for lane in self.rates)

    def lanes(self, families: list[Family]) -> list[tuple[int, int]]:
        """How many of these items stand in which lane."""
        if not self.lane_of:
            return [(ELSE, size(families))]
        if len(families) == 1:
            return [(self.lane_of.get(families[0].prefix, ELSE), families[0].count)]
        counts: dict[int, int] = {}
        for family in families:
            counts[family.prefix] = counts.get(family.prefix, 0) + family.count
        return [(self.lane_of.get(prefix, ELSE), count) for prefix, count in counts.items()]


NO_MIX = Mix({}, ({},), ({},), {})


def mix_of(pipeline: Pipeline, task: int, plan: Plan) -> Mix:
    """The mix of one task. Paths whose items the variants serve alike need no lanes of their own."""
    flows = _flows(pipeline, task, plan)
    overall = _overall(pipeline, task, plan, flows)
    bursts = _bursts(pipeline, task, plan)
    if len(overall) < 2 or flows.keys() <= {0}:
        return Mix({}, (_shares(overall),), (overall,), bursts)
    paths = sorted(flows)
    lane_of = {path: lane for lane, path in enumerate(paths, start=1)}
    rates = [flows[path] for path in paths]
    return Mix(lane_of, (_shares(overall), *map(_shares, rates)), ({}, *rates), bursts)


def _flows(pipeline: Pipeline, task: int, plan: Plan) -> dict[int, dict[int, float]]:
    """Variant path so far -> variant -> items per second at the plan's capacity; by any leaf below, since all agree."""
    leaf = next(leaf for leaf in pipeline.leaves if task in pipeline.lines[leaf])
    line = pipeline.lines[leaf]
    depth = line.index(task)
    rps = plan.capacity_rps * pipeline.tasks[line[0]].entry
    found: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for route in plan.routes:
        if route.leaf != pipeline.tasks[leaf].name:
            continue
        prefix, items = 0, rps * route.share
        for above, below, (name, _, _) in zip(line, line[1 : depth + 1], route.stages, strict=False):
            variant = pipeline.variant_index[above][name]
            prefix = pipeline.extend(prefix, variant)
            items *= pipeline.fanouts[above][variant][pipeline.children[above].index(below)]
        found[prefix][pipeline.variant_index[task][route.stages[depth][0]]] += items
    return {prefix: {v: rate for v, rate in rates.items() if rate > 0} for prefix, rates in found.items()}


def _overall(pipeline: Pipeline, task: int, plan: Plan, flows: dict[int, dict[int, float]]) -> dict[int, float]:
    """Variant -> items per second, of all paths. A plan without routes says shares only, which tell rates at an entry."""
    total: dict[int, float] = defaultdict(float)
    for rates in flows.values():
        for variant, rate in rates.items():
            total[variant] += rate
    if not total:
        rps = plan.capacity_rps * pipeline.tasks[task].entry
        for name, share in plan.flows.get(pipeline.tasks[task].name, {}).items():
            total[pipeline.variant_index[task][name]] = rps * share
    return dict(total)


def _shares(rates: dict[int, float]) -> dict[int, float]:
    total = sum(rates.values())
    return {variant: rate / total for variant, rate in rates.items()} if total else {}


def _bursts(pipeline: Pipeline, task: int, plan: Plan) -> dict[int, float]:
    found: dict[int, float] = {}
    for place in plan.placements:
        if place.task == pipeline.tasks[task].name:
            variant = pipeline.variant_index[task][place.variant]
            found[variant] = max(found.get(variant, 0.0), 2.0 * place.batch)
    return found
