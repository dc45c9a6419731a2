"""A pipeline three tasks deep with two variants each, and plans for it."""

from __future__ import annotations

from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.core.plan import Placement, Plan, Route

MS = 0.001


def latency(ms: float) -> dict[int, Latency]:
    return {n: Latency(ms * n * MS, 1.2 * ms * n * MS, 1.5 * ms * n * MS) for n in (1, 2, 4)}


def variants(children: dict[str, float]) -> tuple[Variant, ...]:
    return (Variant("rough", 0.5, latency(2), children), Variant("fine", 0.9, latency(8), children))


PIPELINE = Pipeline(
    name="deep",
    slo_s=0.1,
    tasks=(
        Task("a", variants({"b": 2.0, "c": 1.0}), entry=1.0),
        Task("b", variants({"d": 1.0}), parent="a"),
        Task("c", variants({}), parent="a"),
        Task("d", variants({}), parent="b"),
    ),
    leaf_weights={"c": 0.5, "d": 0.5},
)


# What rough found is read by fine and the reverse, so that items of two paths stand in lanes of their own.
CROSSED = (("rough", "fine", 0.25), ("fine", "rough", 0.5), ("fine", "fine", 0.25))
ROUTES = (
    *(Route("c", ((above, 4, ""), (below, 4, "")), share) for above, below, share in CROSSED),
    *(
        Route("d", ((above, 4, ""), (below, 4, ""), (last, 4, "")), share / 2)
        for above, below, share in CROSSED
        for last in ("rough", "fine")
    ),
)


# Of what is expected rough gets nothing: it stands by.
SPARING = tuple(
    Route(leaf, tuple(("fine", 4, "") for _ in PIPELINE.lines[PIPELINE.index[leaf]]), 1.0) for leaf in PIPELINE.leaf_weights
)


def plan(split: float, rate: float, sparing: bool = False) -> Plan:
    shares = {"rough": 0.25, "fine": 0.75}
    names, routes = [task.name for task in PIPELINE.tasks], SPARING if sparing else ROUTES
    return Plan(
        mode="accuracy",
        placements=tuple(Placement(name, variant, 4, 1) for name in names for variant in shares),
        servers=8, accuracy=0.5, served_fraction=1.0, demand_rps=rate, capacity_rps=rate,
        split={"a": split / 2, "b": split, "c": 1.0, "d": 1.0}, flows=dict.fromkeys(names, shares), routes=routes,
    )  # fmt: skip
