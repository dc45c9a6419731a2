"""What a router tells of items that have ended: to the gateway always, to the next routers where they had children. Pure;
decides nothing."""

from __future__ import annotations

from loki_rl.core.effects import Drop, Effect, Send
from loki_rl.core.messages import GATEWAY, Cause, Outcome, Settled, Submit, router
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.requests.items import Family
from loki_rl.core.requests.offspring import Fanouts, offspring


def forwarded(pipeline: Pipeline, task: int, families: list[Family], variant: int, fanouts: Fanouts) -> list[Effect]:
    """These items were served: children to the next routers, the verdict to the gateway."""
    children, effects = pipeline.children[task], list[Effect]()
    if children:
        for child, made in zip(children, offspring(pipeline, task, variant, families, fanouts), strict=True):
            if made:
                effects.append(Send(router(child), Submit(made)))
    verdict = Settled(task, Outcome.OK, families, variant, fanouts if children else [])
    return [*effects, Send(GATEWAY, verdict), Drop(families)]


def ended(task: int, families: list[Family], outcome: Outcome, cause: Cause | None = None) -> list[Effect]:
    """These items end here without a result."""
    return [Send(GATEWAY, Settled(task, outcome, families, -1, [], cause)), Drop(families)] if families else []
