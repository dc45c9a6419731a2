"""Which variants of a task may serve items whose request asks for accuracy. Owns that rule; knows no queue and no
worker."""

from __future__ import annotations

from loki_rl.core.pipeline import Pipeline
from loki_rl.core.requests.items import Family
from loki_rl.core.requests.ledger import Accuracy


class AccuracyFloor:
    """A floor holds for every path: nothing can be promised of a mean over leaves that are not there yet."""

    def __init__(self, pipeline: Pipeline, task: int) -> None:
        self._pipeline = pipeline
        self._accuracy = Accuracy(pipeline)
        self._leaves = self._accuracy.leaves_under[task]
        times = pipeline.service_s[task]
        self._by_speed = sorted(range(len(times)), key=lambda variant: times[variant][1])

    def allow(self, variant: int, family: Family) -> bool:
        """Whether every path through these items can still be as accurate as asked once this variant has served them."""
        if family.terms is None or family.terms.floor <= 0:
            return True
        prefix = self._pipeline.extend(family.prefix, variant)
        return all(self._accuracy.best(leaf, prefix) >= family.terms.floor for leaf in self._leaves)

    def quickest(self, family: Family) -> int:
        """The fastest variant for one item among those that may serve these, -1 if none may."""
        return next((variant for variant in self._by_speed if self.allow(variant, family)), -1)
