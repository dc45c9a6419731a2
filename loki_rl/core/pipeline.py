"""A pipeline: a tree of tasks, each with variants that trade accuracy for latency."""

from __future__ import annotations

from functools import cached_property
from itertools import accumulate, pairwise, product
from math import inf, prod
from typing import Literal

from msgspec import Struct

from loki_rl.core.validation import PipelineError as PipelineError
from loki_rl.core.validation import check

ROOT_BITS = 32
PATH_BITS = 31
ENTRY_BITS = 4

Cdf = tuple[float, ...]
Swap = Literal["break", "make"]
Provenance = Literal["measured", "published", "assumed"]


class Latency(Struct, frozen=True, array_like=True):
    """Service time of one batch [s], as percentiles."""

    p50: float
    p95: float
    p99: float


class Variant(Struct, frozen=True):
    """One model that can serve a task.

    accuracy: 0..1 on its own, relative to the best known. latency: batch size -> service time. fanout: child task ->
    mean children per processed item. load_s: time from the order to the first batch. memory_mb: while resident.
    runnable: on the type of server that the figures are for. fanout_counts: child task -> weights of 0, 1, 2 ... children,
    where such were counted; without, counts are drawn from Poisson around the mean. sample_s: of one sample item when it was
    profiled, without waiting for a core [s]; 0 if that is not known.
    """

    name: str
    accuracy: float
    latency: dict[int, Latency]
    fanout: dict[str, float] = {}
    load_s: float = 0.0
    memory_mb: float = 0.0
    runnable: bool = True
    fanout_counts: dict[str, tuple[float, ...]] = {}
    sample_s: float = 0.0


class Task(Struct, frozen=True):
    """A stage. entry: mean items of this task per request (roots of the tree only, else 0)."""

    name: str
    variants: tuple[Variant, ...]
    parent: str | None = None
    entry: float = 0.0


class Pipeline(Struct, frozen=True, dict=True):
    """The whole tree. Tasks stand in topological order (parents first).

    leaf_weights: omega per leaf task, sums to 1. path_accuracy: variant names from the first task to the leaf -> measured
    accuracy 0..1; paths without an entry take the product of their variants. padded: the engine pads a batch to the next
    profiled size (GPU); otherwise service time is interpolated between the profiled sizes. hop_s: one message between two
    processes of a host.
    """

    name: str
    slo_s: float
    tasks: tuple[Task, ...]
    leaf_weights: dict[str, float]
    path_accuracy: dict[tuple[str, ...], float] = {}
    padded: bool = True
    swap: Swap = "break"
    servers: int = 1
    hop_s: float = 0.0005
    provenance: Provenance = "measured"
    source: str = ""

    def __post_init__(self) -> None:
        check(self)

    # -- the tree ---------------------------------------------------------------------------------------------------

    @cached_property
    def index(self) -> dict[str, int]:
        """Task name -> position in `tasks`."""
        return {task.name: position for position, task in enumerate(self.tasks)}

    @cached_property
    def parents(self) -> tuple[int, ...]:
        """Position of each task's parent, -1 for an entry task."""
        return tuple(-1 if task.parent is None else self.index[task.parent] for task in self.tasks)

    @cached_property
    def children(self) -> tuple[tuple[int, ...], ...]:
        """Positions of each task's children."""
        return tuple(
            tuple(child for child, parent in enumerate(self.parents) if parent == position)
            for position in range(len(self.tasks))
        )

    @cached_property
    def entries(self) -> tuple[int, ...]:
        return tuple(position for position, parent in enumerate(self.parents) if parent < 0)

    @cached_property
    def leaves(self) -> tuple[int, ...]:
        return tuple(position for position, below in enumerate(self.children) if not below)

    @cached_property
    def lines(self) -> tuple[tuple[int, ...], ...]:
        """For each task the positions from its entry task down to itself."""
        found: list[tuple[int, ...]] = []
        for position, parent in enumerate(self.parents):
            found.append((*(found[parent] if parent >= 0 else ()), position))
        return tuple(found)

    @cached_property
    def variant_index(self) -> tuple[dict[str, int], ...]:
        """For each task: variant name -> position in its variants."""
        return tuple({variant.name: i for i, variant in enumerate(task.variants)} for task in self.tasks)

    def task(self, name: str) -> Task:
        return self.tasks[self.index[name]]

    def variant(self, task: str, variant: str) -> Variant:
        place, number = self.positions(task, variant)
        return self.tasks[place].variants[number]

    def names(self, task: int, variant: int) -> tuple[str, str] | None:
        """Names of a task and its variant at these positions; None where the task's is below 0."""
        return (self.tasks[task].name, self.tasks[task].variants[variant].name) if task >= 0 else None

    def positions(self, task: str, variant: str) -> tuple[int, int]:
        """Of a task and its variant."""
        position = self.index[task]
        return position, self.variant_index[position][variant]

    @cached_property
    def fanouts(self) -> tuple[tuple[tuple[float, ...], ...], ...]:
        """[task][variant][k] = mean children of the k-th child task."""
        return tuple(
            tuple(
                tuple(variant.fanout[self.tasks[child].name] for child in self.children[position])
                for variant in task.variants
            )
            for position, task in enumerate(self.tasks)
        )

    @cached_property
    def as_run(self) -> dict[tuple[float | None, float, int], tuple[object, Pipeline]]:
        """What server_type.as_run_by keeps."""
        return {}

    @cached_property
    def fanout_cdfs(self) -> tuple[tuple[tuple[Cdf | None, ...], ...], ...]:
        """[task][variant][k] = how likely at most 0, 1, 2 ... children of the k-th child task are; None if not counted."""
        return tuple(
            tuple(
                tuple(_cdf(variant.fanout_counts.get(self.tasks[child].name)) for child in self.children[position])
                for variant in task.variants
            )
            for position, task in enumerate(self.tasks)
        )

    # -- service times ----------------------------------------------------------------------------------------------

    @cached_property
    def max_batch(self) -> tuple[tuple[int, ...], ...]:
        """[task][variant] = largest profiled batch."""
        return tuple(tuple(max(variant.latency) for variant in task.variants) for task in self.tasks)

    @cached_property
    def service_s(self) -> tuple[tuple[tuple[float, ...], ...], ...]:
        """[task][variant][n] = median service time [s] of a batch of n items (n = 0 is 0.0)."""
        return tuple(
            tuple(tuple(row.p50 for row in expand(variant.latency, self.padded)) for variant in task.variants)
            for task in self.tasks
        )

    @cached_property
    def latencies(self) -> tuple[tuple[tuple[Latency, ...], ...], ...]:
        """[task][variant][n] = percentiles of the service time of a batch of n items."""
        return tuple(tuple(expand(variant.latency, self.padded) for variant in task.variants) for task in self.tasks)

    @cached_property
    def fastest_s(self) -> tuple[float, ...]:
        """[task] = shortest median service time of one item, over all variants that run; infinite if none does."""
        return tuple(
            min((rows[1] for rows, variant in zip(times, task.variants, strict=True) if variant.runnable), default=inf)
            for times, task in zip(self.service_s, self.tasks, strict=True)
        )

    @cached_property
    def rest_s(self) -> tuple[float, ...]:
        """[task] = fastest way from the end of this task to the end of its slowest branch; three hops a stage (from router
        to router, to the worker, and back)."""
        rest = [0.0] * len(self.tasks)
        for position in reversed(range(len(self.tasks))):
            for child in self.children[position]:
                rest[position] = max(rest[position], 3 * self.hop_s + self.fastest_s[child] + rest[child])
        return tuple(rest)

    @cached_property
    def fastest_path_s(self) -> float:
        """No request can be answered sooner than this; an SLO below it cannot be met."""
        return max(self.fastest_s[entry] + self.rest_s[entry] for entry in self.entries) + 4 * self.hop_s

    # -- accuracy ---------------------------------------------------------------------------------------------------

    @cached_property
    def radix(self) -> int:
        return 1 + max(len(task.variants) for task in self.tasks)

    def extend(self, prefix: int, variant: int) -> int:
        """The code of a variant path after one more stage; 0 is the empty path."""
        return prefix * self.radix + variant + 1

    def unpack(self, prefix: int) -> tuple[int, ...]:
        """Variant positions of a path code, first task first."""
        path: list[int] = []
        while prefix:
            prefix, digit = divmod(prefix, self.radix)
            path.append(digit - 1)
        return tuple(reversed(path))

    def accuracy(self, leaf: int, path: tuple[int, ...]) -> float:
        """Accuracy 0..1 of a complete variant path to a leaf task: measured if the file has it, else the product."""
        line = self.lines[leaf]
        variants = [self.tasks[task].variants[variant] for task, variant in zip(line, path, strict=True)]
        measured = self.path_accuracy.get(tuple(variant.name for variant in variants))
        return prod(variant.accuracy for variant in variants) if measured is None else measured

    def paths(self, leaf: int) -> list[tuple[int, ...]]:
        """Every variant path to a leaf task."""
        return list(product(*(range(len(self.tasks[task].variants)) for task in self.lines[leaf])))

    def best_completion(self, leaf: int, path: tuple[int, ...]) -> float:
        """Accuracy of a partial path finished with the most accurate descendants."""
        return max(self.accuracy(leaf, whole) for whole in self.paths(leaf) if whole[: len(path)] == path)

    @cached_property
    def most_accurate(self) -> tuple[int, ...]:
        """[task] = position of its most accurate variant (the first of equals)."""
        return tuple(
            max(range(len(task.variants)), key=lambda i, task=task: (task.variants[i].accuracy, -i))  # type: ignore[misc]
            for task in self.tasks
        )

    @cached_property
    def best_accuracy(self) -> float:
        """Accuracy of the most accurate path mix: the yardstick of `cost_j`."""
        return sum(self.leaf_weights[self.tasks[leaf].name] * self.best_completion(leaf, ()) for leaf in self.leaves)

    # -- numbering of items -------------------------------------------------------------------------------------------

    @cached_property
    def child_bits(self) -> int:
        """Bits for the number of a child inside its parent, per level below the entry."""
        below = max(len(line) for line in self.lines) - 1
        return (PATH_BITS - ENTRY_BITS) // below if below else 0

    @cached_property
    def shifts(self) -> tuple[int, ...]:
        """[task] = position of the bits that number this task's items inside their parent."""
        return tuple(PATH_BITS - ENTRY_BITS - self.child_bits * (len(line) - 1) for line in self.lines)

    @cached_property
    def parent_shifts(self) -> tuple[int, ...]:
        """[task] = position of the bits that number the parents of this task's items: what is above them is the parent's."""
        return tuple(PATH_BITS if parent < 0 else self.shifts[parent] for parent in self.parents)

    @cached_property
    def max_children(self) -> int:
        return (1 << self.child_bits) - 1

    def entry_id(self, root: int, number: int) -> int:
        """Id of the number-th entry item (from 0) of a request."""
        return (root << PATH_BITS) | ((number + 1) << (PATH_BITS - ENTRY_BITS))

    def child_id(self, parent: int, task: int, number: int) -> int:
        """Id of the number-th child (from 0, counted over all child tasks) of an item; task = any child task."""
        return parent | ((number + 1) << self.shifts[task])

    def members(self, task: int, first: int, count: int) -> range:
        """Ids of so many siblings, items of this task, from this one on."""
        step = 1 << self.shifts[task]
        return range(first, first + count * step, step)


def _cdf(weights: tuple[float, ...] | None) -> Cdf | None:
    if weights is None:
        return None
    total = sum(weights)
    return (*(below / total for below in accumulate(weights[:-1])), 1.0)


def root_of(item: int) -> int:
    """The request that an item belongs to."""
    return item >> PATH_BITS


def expand(latency: dict[int, Latency], padded: bool) -> tuple[Latency, ...]:
    """Profiled batches -> service time for every batch size 0..max.

    Padded: the cheapest profiled batch that holds n. Otherwise linear between the neighbours, and never above a larger
    profiled batch, which one could always run instead.
    """
    sizes = sorted(latency)
    rows = [Latency(0.0, 0.0, 0.0)]
    for n in range(1, sizes[-1] + 1):
        held = min((latency[size] for size in sizes if size >= n), key=lambda row: row.p50)
        rows.append(held if padded or n <= sizes[0] else _cheaper(held, _between(latency, sizes, n)))
    return tuple(rows)


def _cheaper(a: Latency, b: Latency) -> Latency:
    return a if a.p50 <= b.p50 else b


def _between(latency: dict[int, Latency], sizes: list[int], n: int) -> Latency:
    low, high = next((low, high) for low, high in pairwise(sizes) if low <= n <= high)
    share = (n - low) / (high - low)
    a, b = latency[low], latency[high]
    return Latency(a.p50 + share * (b.p50 - a.p50), a.p95 + share * (b.p95 - a.p95), a.p99 + share * (b.p99 - a.p99))
