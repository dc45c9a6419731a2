"""Pipelines and makers that the tests of the gateway share."""

from __future__ import annotations

from typing import Any

from loki_rl.core.effects import Effect, Reply
from loki_rl.core.gateway import Gateway
from loki_rl.core.messages import Arrived, Begin, Cause, Ended, Outcome
from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.core.requests.items import Family

FAST = {1: Latency(0.01, 0.02, 0.03)}
SLO = 0.2


def pair(**fanout: float) -> tuple[Variant, ...]:
    return (Variant("rough", 0.5, FAST, fanout), Variant("fine", 0.9, FAST, fanout))


DEEP = Pipeline(
    name="deep",
    slo_s=SLO,
    tasks=(
        Task("a", pair(b=1.5, c=1.0), entry=1.0),
        Task("b", pair(d=1.0, e=0.5), parent="a"),
        Task("c", pair(f=1.0), parent="a"),
        Task("d", pair(), parent="b"),
        Task("e", pair(), parent="b"),
        Task("f", pair(), parent="c"),
        Task("g", pair(), entry=0.5),
    ),
    leaf_weights={"d": 0.4, "e": 0.1, "f": 0.3, "g": 0.2},
)
CHAIN = Pipeline(
    name="chain",
    slo_s=SLO,
    tasks=(Task("a", pair(b=1.0), entry=1.0), Task("b", pair(), parent="a")),
    leaf_weights={"b": 1.0},
)
OTHERS = [outcome for outcome in Outcome if outcome in (Outcome.DROPPED, Outcome.FAILED, Outcome.CANCELLED)]


def make(pipeline: Pipeline = CHAIN, **options: Any) -> Gateway:
    gateway = Gateway(ClusterOptions(pipeline, 1, **options))
    gateway.handle(Begin(0.0), 0.0)
    return gateway


def replies(effects: list[Effect]) -> list[Reply]:
    return [effect for effect in effects if isinstance(effect, Reply)]


def arrive(gateway: Gateway, *keys: int, now: float = 0.0, timeout: float = 0.0) -> list[Effect]:
    return gateway.handle(Arrived(list(keys), [timeout] * len(keys)), now)


def entry(root: int) -> int:
    return CHAIN.entry_id(root, 0)


def child(root: int, number: int = 0) -> int:
    return CHAIN.child_id(entry(root), 1, number)


def ended(task: int, ids: list[int], prefix: int, variant: int = 1, fanouts: list[tuple[int, ...]] | None = None) -> Ended:
    """Single items, made by this path, that a variant served."""
    return Ended(task, Outcome.OK, [Family(id, 0.0, SLO, prefix) for id in ids], variant, fanouts or [])


def lost(task: int, ids: list[int], outcome: Outcome = Outcome.DROPPED, cause: Cause | None = None) -> Ended:
    """Single items that no variant served."""
    return Ended(task, outcome, [Family(id, 0.0, SLO, 0) for id in ids], -1, [], cause)


def first(root: int, children: int, variant: int = 1) -> Ended:
    return ended(0, [entry(root)], 0, variant, [(children,)])


def leaf(root: int, number: int = 0, outcome: Outcome = Outcome.OK) -> Ended:
    if outcome is Outcome.OK:
        return ended(1, [child(root, number)], CHAIN.extend(0, 1))
    return lost(1, [child(root, number)], outcome)


def served(reply: Reply, pipeline: Pipeline = CHAIN) -> list[int]:
    """The leaf items that ended well."""
    return [item for one in reply.leaves for item in pipeline.members(one.task, one.id, one.count)]
