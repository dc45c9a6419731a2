"""The children of finished items: their ids, deadlines and variant paths. Pure; decides nothing."""

from __future__ import annotations

from loki_rl.core.pipeline import Pipeline
from loki_rl.core.requests.items import Family, size

Fanouts = list[tuple[int, ...]]


def offspring(pipeline: Pipeline, task: int, variant: int, families: list[Family], fanouts: Fanouts) -> list[list[Family]]:
    """The children that items of this task made, a list per child task; fanouts: per item. Ids are a function of the
    parent's, so that a repeat is recognised. Raises ValueError unless there is one fan-out for each item."""
    if len(fanouts) != size(families):
        raise ValueError(f"{len(fanouts)} fan-outs came for {size(families)} items")
    children = pipeline.children[task]
    shift, step = pipeline.shifts[children[0]], 1 << pipeline.shifts[task]
    spawned: list[list[Family]] = [[] for _ in children]
    each = iter(fanouts)
    for family in families:
        prefix, t0, deadline, terms = pipeline.extend(family.prefix, variant), family.t0, family.deadline, family.terms
        parent = family.id
        for _ in range(family.count):
            number = 1
            for made, count in zip(spawned, next(each), strict=True):
                if count:
                    made.append(Family(parent | (number << shift), t0, deadline, prefix, terms, count))
                    number += count
            parent += step
    return spawned
