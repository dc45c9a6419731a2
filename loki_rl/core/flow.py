"""The flow from a task to its children: each variant has tokens for the share that the plan gives it. Owns who is held back
and until when; knows no queue and no worker."""

from __future__ import annotations

from math import inf

from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Plan

EPSILON_S = 1e-6  # a wake-up must not fall short of the token it waits for


class Bucket:
    """Tokens of one variant at a task with children: its planned flow, so that accurate variants do not make more children
    than the next task can serve. rate [items/s], burst [items]."""

    __slots__ = ("burst", "rate", "time", "tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self.tokens = burst
        self.time = now

    def refill(self, now: float) -> None:
        self.tokens = min(self.burst, self.tokens + (now - self.time) * self.rate)
        self.time = now

    def ready_at(self) -> float:
        """When one token will be there [s]."""
        return self.time + max(0.0, 1.0 - self.tokens) / self.rate + EPSILON_S if self.rate > 0 else inf


class Flow:
    """pressed: child tasks that cannot keep up; only then an empty bucket bars. unbar_at: when the first of those barred
    since it was last reset may pull again [s]. Only entry tasks have buckets: below, the demand is not in the plan."""

    def __init__(self, pipeline: Pipeline, task: int) -> None:
        self.pipeline = pipeline
        self.task = task
        self.buckets: dict[int, Bucket] = {}
        self.pressed: set[int] = set()
        self.unbar_at = inf

    def press(self, task: int, overloaded: bool) -> None:
        """A child task falls behind, or has caught up."""
        (self.pressed.add if overloaded else self.pressed.discard)(task)

    def adopt(self, plan: Plan, now: float) -> None:
        """Fresh buckets for a new plan: a tenth above its flows, a burst of two batches."""
        self.buckets = {}
        task = self.pipeline.tasks[self.task]
        if not self.pipeline.children[self.task] or task.parent is not None:
            return
        rate = plan.demand_rps * plan.served_fraction * task.entry
        caps = {place.variant: place.batch for place in plan.placements if place.task == task.name}
        for variant, share in plan.flows.get(task.name, {}).items():
            number = self.pipeline.variant_index[self.task][variant]
            self.buckets[number] = Bucket(1.1 * rate * share, 2.0 * caps.get(variant, 1), now)

    def spend(self, variant: int, items: int, now: float) -> None:
        """This variant takes so many items."""
        bucket = self.buckets.get(variant)
        if bucket is not None:
            bucket.refill(now)
            bucket.tokens -= items

    def bars(self, variant: int, now: float) -> bool:
        """Whether this variant must wait, since it is ahead of its share and a child task cannot keep up."""
        bucket = self.buckets.get(variant) if self.pressed else None
        if bucket is None:
            return False
        bucket.refill(now)
        if bucket.tokens >= 1.0:
            return False
        self.unbar_at = min(self.unbar_at, bucket.ready_at())
        return True
