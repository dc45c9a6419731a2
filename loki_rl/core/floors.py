"""Which variants of a task may serve an item whose request asks for accuracy. Owns that rule; knows no queue and no
worker."""

from __future__ import annotations

from loki_rl.core.ledger import Accuracy
from loki_rl.core.messages import Item
from loki_rl.core.pipeline import Pipeline


class Floors:
    """A floor holds for every path: nothing can be promised of a mean over leaves that are not there yet."""

    def __init__(self, pipeline: Pipeline, task: int) -> None:
        self._pipeline = pipeline
        self._accuracy = Accuracy(pipeline)
        self._leaves = self._accuracy.leaves_under[task]
        times = pipeline.service_s[task]
        self._by_speed = sorted(range(len(times)), key=lambda variant: times[variant][1])

    def allow(self, variant: int, item: Item) -> bool:
        """Whether every path through the item can still be as accurate as asked once this variant has served it."""
        if item.terms is None or item.terms.floor <= 0:
            return True
        prefix = self._pipeline.extend(item.prefix, variant)
        return all(self._accuracy.best(leaf, prefix) >= item.terms.floor for leaf in self._leaves)

    def quickest(self, item: Item) -> int:
        """The fastest variant for one item among those that may serve it, -1 if none may."""
        return next((variant for variant in self._by_speed if self.allow(variant, item)), -1)
