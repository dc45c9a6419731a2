"""Random pipelines, clusters and questions about them. Owns their making; solves nothing but how much could be asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from msgspec.structs import replace

from loki_rl.control.allocator.allocate import capacity
from loki_rl.control.formulation.request import Part, Queueing, Request, Slice
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.core.plan import Server
from loki_rl.core.servers.server_type import ServerType

Rng = np.random.Generator
SHAPES = ((-1,), (-1, 0), (-1, -1), (-1, 0, 0), (-1, 0, 1))


def small_pipeline(rng: Rng) -> Pipeline:
    """Up to three tasks, few variants and batches, figures with many ties."""
    parents = SHAPES[int(rng.integers(len(SHAPES)))]
    names = [f"t{i}" for i in range(len(parents))]
    tasks = []
    for i, parent in enumerate(parents):
        children = [names[j] for j, p in enumerate(parents) if p == i]
        variants = tuple(_variant(rng, f"v{k}", children) for k in range(int(rng.integers(1, 4))))
        entry = 0.0 if parent >= 0 else float(rng.choice([1.0, 0.5, 2.0]))
        tasks.append(Task(names[i], variants, None if parent < 0 else names[parent], entry))
    leaves = [name for i, name in enumerate(names) if i not in parents]
    weights = rng.integers(1, 4, len(leaves))
    omega = {leaf: float(weight / weights.sum()) for leaf, weight in zip(leaves, weights, strict=True)}
    swap: Literal["break", "make"] = "break" if rng.random() < 0.5 else "make"
    return Pipeline("random", int(rng.integers(60, 300)) / 1000, tuple(tasks), omega, swap=swap)


def _variant(rng: Rng, name: str, children: list[str]) -> Variant:
    base, each = int(rng.integers(2, 30)), int(rng.integers(1, 20))
    latency = {}
    for batch in ((1,), (1, 2), (1, 4), (1, 2, 4, 8))[int(rng.integers(4))]:
        p50 = (base + each * batch) / 1000
        latency[batch] = Latency(p50, p50 * 1.1, p50 * 1.2)
    accuracy = float(rng.choice([0.5, 0.6, 0.8, 0.9, 1.0]))
    return Variant(name, accuracy, latency, {child: float(rng.choice([0.0, 0.5, 1.0, 2.0, 3.7])) for child in children})


def requests(rng: Rng, pipeline: Pipeline, servers: int) -> Iterator[Request]:
    """Demands around what the cluster can do, with and without floor, headroom and switch costs."""
    queueing: Queueing = "tail" if rng.random() < 0.5 else "half-slo"
    most = capacity(pipeline, servers, queueing=queueing).capacity_rps or 10.0
    for share in rng.uniform(0.05, 1.4, 3):
        floor = float(rng.choice([0.0, 0.0, 0.6, 0.8]))
        plain_request = Request(
            most * share, servers, min_accuracy=floor, queueing=queueing, headroom=float(rng.choice([0.0, 0.2]))
        )
        yield plain_request
        if rng.random() < 0.5:
            yield Request(
                most * share,
                servers,
                min_accuracy=floor,
                queueing=queueing,
                current=fleet(rng, pipeline, servers),
                horizon_s=float(rng.choice([5.0, 20.0, 60.0])),
                load_s=float(rng.choice([0.5, 5.0, 20.0])),
                slices=slices(rng, most * share),
                mean_rps=most * share * float(rng.choice([0.3, 1.0, 2.0])),
            )


def questions(rng: Rng) -> list[Part]:
    """One question about one or two small pipelines, on one or two types of servers, or about moving a cluster."""
    while True:
        kinds = int(rng.integers(1, 3))
        pool = (ServerType("a", int(rng.integers(1, 6))), ServerType("b", int(rng.integers(1, 4)), 2.0, speed=1.7))[:kinds]
        pool = pool if kinds > 1 else ()
        servers = sum(kind.count for kind in pool) or int(rng.integers(2, 10))
        pipelines = [small_pipeline(rng) for _ in range(int(rng.choice([1, 1, 1, 2])))]
        queueing: Queueing = "tail" if rng.random() < 0.5 else "half-slo"
        most = [capacity(one, servers, queueing=queueing, pool=pool).capacity_rps for one in pipelines]
        if not all(most):
            continue
        found = []
        for pipeline, rps in zip(pipelines, most, strict=True):
            demand = float(rps * rng.uniform(0.05, 1.3) / len(pipelines))
            floor = float(rng.choice([0.0, 0.0, 0.6, 0.8]))
            request = Request(demand, servers, min_accuracy=floor, queueing=queueing, pool=pool, time_limit_s=60.0)
            found.append(Part(pipeline, request, float(rng.choice([1.0, 1.0, 2.0]))))
        return [_moving(rng, *found)] if len(found) == 1 and rng.random() < 0.35 else found


def _moving(rng: Rng, part: Part) -> Part:
    """The same demand on servers as they are."""
    request, kinds = part.request, [kind.name for kind in part.request.types for _ in range(kind.count)]
    current = [
        replace(one, server_type=kind) for one, kind in zip(fleet(rng, part.pipeline, request.servers), kinds, strict=True)
    ]
    moving = replace(
        request,
        current=tuple(current),
        horizon_s=float(rng.choice([5.0, 20.0, 60.0])),
        load_s=float(rng.choice([0.5, 5.0, 20.0])),
        slices=slices(rng, request.demand_rps),
        mean_rps=request.demand_rps * float(rng.choice([0.3, 1.0, 2.0])),
    )
    return replace(part, request=moving)


def slices(rng: Rng, demand_rps: float) -> tuple[Slice, ...]:
    """Up to five about a demand that is expected, some without width, or none."""
    size = int(rng.integers(0, 6))
    widths = rng.choice([0.0, 0.2, 0.6], size) + 0.1 * (np.arange(size) == 0)
    chances = np.sort(rng.choice([1.0, 0.9, 0.4, 0.05, 0.0], size))[::-1]
    return tuple(
        Slice(float(end), float(chance)) for end, chance in zip(demand_rps * np.cumsum(widths), chances, strict=True)
    )


def fleet(rng: Rng, pipeline: Pipeline, servers: int) -> tuple[Server, ...]:
    """Servers in any state: serving, loading or parked."""
    found = []
    for number in range(servers):
        task = pipeline.tasks[int(rng.integers(len(pipeline.tasks)))]
        variant = task.variants[int(rng.integers(len(task.variants)))]
        held = (task.name, variant.name, 1)
        if rng.random() < 0.2:
            found.append(Server(number, loading=held, remaining_s=float(rng.uniform(0, 5))))
        elif rng.random() < 0.8:
            found.append(Server(number, serving=held, resident=(held[:2],)))
        else:
            found.append(Server(number, resident=(held[:2],)))
    return tuple(found)
