"""What a description of a pipeline may not say."""

from __future__ import annotations

from math import ceil, inf, prod
from typing import TYPE_CHECKING

from loki_rl.errors import UserError

if TYPE_CHECKING:
    from loki_rl.core.pipeline import Pipeline, Variant

MAX_ENTRIES = 15  # what Pipeline.entry_id has bits for
MAX_BATCH = 4096  # a row is kept for every size up to the largest
MAX_TASKS = 64
MAX_PATHS = 100_000  # accuracies are looked up over all of them
LEAST_ENTRY = 1e-6  # mean items: below, shares of demand are lost in rounding
MAX_S = 86_400.0  # a day: whoever waits longer is not served, and microseconds of it still fit a whole number
MAX_FANOUT = 500.0  # far above any real mean, and low enough for the draws to be exact


class PipelineError(UserError):
    """The description of a pipeline contradicts itself; the message names the part at fault."""


def check(pipeline: Pipeline) -> None:
    """Raise PipelineError where the description contradicts itself."""
    names = [task.name for task in pipeline.tasks]
    require(bool(names), "a pipeline needs at least one task")
    require(len(names) <= MAX_TASKS, f"{len(names)} tasks; at most {MAX_TASKS} are supported")
    require(len(set(names)) == len(names), f"a task name stands twice in {', '.join(names)}")
    require(0 < pipeline.slo_s <= MAX_S, f"the SLO must be above 0 and at most a day, not {pipeline.slo_s} s")
    require(pipeline.servers >= 1, f"servers must be at least 1, not {pipeline.servers}")
    for position, task in enumerate(pipeline.tasks):
        where = f"task '{task.name}'"
        if task.parent is not None:
            require(task.parent in names[:position], f"{where}: parent '{task.parent}' is not a task above it")
            require(task.entry == 0, f"{where}: only a task without a parent can be an entry")
        else:
            fits = LEAST_ENTRY <= task.entry < inf
            require(fits, f"{where}: a task without a parent needs a rate per request of {LEAST_ENTRY} or more")
        require(bool(task.variants), f"{where} has no variants")
        below = {other.name for other in pipeline.tasks if other.parent == task.name}
        seen: set[str] = set()
        for variant in task.variants:
            _check_variant(variant, f"{where}, variant '{variant.name}'", below)
            require(variant.name not in seen, f"{where}: variant '{variant.name}' stands twice")
            seen.add(variant.name)
    _check_weights(pipeline)
    depth = max(len(line) for line in pipeline.lines)
    require(depth <= 6, f"the tree is {depth} tasks deep; at most 6 are supported")
    for line in pipeline.lines:
        paths, leaf = prod(len(pipeline.tasks[task].variants) for task in line), names[line[-1]]
        require(paths <= MAX_PATHS, f"{paths} variant paths to task '{leaf}'; at most {MAX_PATHS} are supported")
    _check_numbers(pipeline)
    _check_paths(pipeline)


def _check_numbers(pipeline: Pipeline) -> None:
    """Items are numbered in a few bits; what does not fit would be taken for another item."""
    most = sum(ceil(task.entry) for task in pipeline.tasks)
    require(most <= MAX_ENTRIES, f"a request may start with {most} items; at most {MAX_ENTRIES} are supported")
    room = min(MAX_FANOUT, pipeline.max_children) if pipeline.child_bits else 0.0
    for task in pipeline.tasks:
        for variant in task.variants:
            mean, where = sum(variant.fanout.values()), f"task '{task.name}', variant '{variant.name}'"
            require(mean <= room, f"{where}: {mean:g} children per item; at most {room:g} are supported in this tree")


def _check_paths(pipeline: Pipeline) -> None:
    for path, accuracy in pipeline.path_accuracy.items():
        where = f"path_accuracy of {' -> '.join(path)}"
        fits = [leaf for leaf in pipeline.leaves if _is_path(pipeline, leaf, path)]
        require(bool(fits), f"{where}: not the variants of a path from an entry task to a leaf task")
        require(len(fits) == 1, f"{where}: fits several leaf tasks; give their variants names of their own")
        require(0 <= accuracy <= 1, f"{where}: must lie in [0, 1], not {accuracy}")


def _is_path(pipeline: Pipeline, leaf: int, path: tuple[str, ...]) -> bool:
    line = pipeline.lines[leaf]
    pairs = zip(line, path, strict=False)
    return len(line) == len(path) and all(name in pipeline.variant_index[task] for task, name in pairs)


def _check_variant(variant: Variant, where: str, children: set[str]) -> None:
    require(0 < variant.accuracy <= 1, f"{where}: accuracy must lie in (0, 1], not {variant.accuracy}")
    require(bool(variant.latency), f"{where} has no latency profile (measure one with 'loki-rl profile')")
    require(1 in variant.latency, f"{where}: the latency of batch 1 is missing")
    for batch, row in variant.latency.items():
        require(batch >= 1, f"{where}: batch {batch} is not a size")
        require(batch <= MAX_BATCH, f"{where}: a batch of {batch}; at most {MAX_BATCH} items are supported")
        rising = 0 < row.p50 <= row.p95 <= row.p99 <= MAX_S
        require(rising, f"{where}, batch {batch}: need 0 < p50 <= p95 <= p99, and no more than a day")
    require(set(variant.fanout) == children, f"{where}: fanout must name exactly the child tasks {sorted(children)}")
    require(all(mean >= 0 for mean in variant.fanout.values()), f"{where}: a fanout below 0")
    for child, weights in variant.fanout_counts.items():
        require(child in children, f"{where}: fanout_counts of '{child}', which is not a child task")
        fits = bool(weights) and min(weights) >= 0 and 0 < sum(weights) < inf
        require(fits, f"{where}: the fanout_counts of '{child}' must be at least 0 and not all 0")
    require(0 <= variant.load_s <= MAX_S, f"{where}: load_s must be at least 0 and at most a day, not {variant.load_s}")
    require(0 <= variant.memory_mb < inf, f"{where}: memory_mb must be at least 0, not {variant.memory_mb}")
    require(0 <= variant.sample_s < inf, f"{where}: sample_s must be at least 0, not {variant.sample_s}")


def _check_weights(pipeline: Pipeline) -> None:
    leaves = sorted(pipeline.tasks[leaf].name for leaf in pipeline.leaves)
    require(sorted(pipeline.leaf_weights) == leaves, f"leaf_weights must name exactly the leaf tasks {leaves}")
    require(min(pipeline.leaf_weights.values()) >= 0, "a leaf weight below 0")
    total = sum(pipeline.leaf_weights.values())
    require(abs(total - 1) < 1e-6, f"leaf_weights must sum to 1, not {total:g}")


def require(condition: bool, message: str, error: type[ValueError] = PipelineError) -> None:
    """Raise this error unless the condition holds."""
    if not condition:
        raise error(message)
