"""What a router tells of items that have ended: to the gateway always, to the next routers where they had children. Pure;
decides nothing."""

from __future__ import annotations

from loki_rl.core.effects import Drop, Effect, Send
from loki_rl.core.messages import GATEWAY, Cause, Outcome, Result, Settled, Submit, router
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.requests.items import Family, size, without

Fanouts = list[tuple[int, ...]]


def served(pipeline: Pipeline, task: int, families: list[Family], variant: int, result: Result) -> list[Effect]:
    """The batch of these items came back with this result. Items at fault fail; the others do not."""
    if result.error:
        return ended(task, families, Outcome.FAILED, Cause(task, said=result.error))
    if not result.faults:
        return _forwarded(pipeline, task, families, variant, result.fanouts)
    kept, failed = without(families, result.faults, pipeline.shifts[task])
    fanouts = [fanout for place, fanout in enumerate(result.fanouts) if place not in result.faults]
    effects = _forwarded(pipeline, task, kept, variant, fanouts) if kept else []
    for family, place in zip(failed, sorted(result.faults), strict=True):
        fault = result.faults[place]
        effects += ended(task, [family], Outcome.FAILED, Cause(task, said=fault.said, client_fault=fault.client_fault))
    return effects


def ended(task: int, families: list[Family], outcome: Outcome, cause: Cause | None = None) -> list[Effect]:
    """These items end here without a result."""
    return [Send(GATEWAY, Settled(task, outcome, families, -1, [], cause)), Drop(families)] if families else []


def _forwarded(pipeline: Pipeline, task: int, families: list[Family], variant: int, fanouts: Fanouts) -> list[Effect]:
    """These items were served: children to the next routers, the verdict to the gateway."""
    children, effects = pipeline.children[task], list[Effect]()
    if children:
        for child, made in zip(children, _offspring(pipeline, task, variant, families, fanouts), strict=True):
            if made:
                effects.append(Send(router(child), Submit(made)))
    verdict = Settled(task, Outcome.OK, families, variant, fanouts if children else [])
    return [*effects, Send(GATEWAY, verdict), Drop(families)]


def _offspring(pipeline: Pipeline, task: int, variant: int, families: list[Family], fanouts: Fanouts) -> list[list[Family]]:
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
