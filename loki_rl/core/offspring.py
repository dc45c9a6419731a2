"""The children of finished items: their ids, deadlines and variant paths. Pure; decides nothing."""

from __future__ import annotations

from loki_rl.core.messages import Item
from loki_rl.core.pipeline import Pipeline

Fanouts = list[tuple[int, ...]]


def offspring(
    pipeline: Pipeline, place: int, child: int, items: list[Item], prefixes: list[int], fanouts: Fanouts
) -> list[Item]:
    """Children for one child task, which is at this place among all child tasks. prefixes: variant path of each item, its
    own stage included. Ids are a function of the parent's, so that a repeat is recognised."""
    shift = pipeline.shifts[child]
    spawned: list[Item] = []
    for item, prefix, counts in zip(items, prefixes, fanouts, strict=True):
        if counts[place]:
            first = sum(counts[:place]) + 1
            parent, t0, deadline, terms = item.id, item.t0, item.deadline, item.terms
            spawned += [
                Item(parent | (number << shift), t0, deadline, prefix, terms)
                for number in range(first, first + counts[place])
            ]
    return spawned
