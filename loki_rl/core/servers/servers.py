"""The servers of a cluster by number: of which type each is, and the pipeline as it runs there."""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property
from itertools import accumulate

from msgspec.structs import replace

from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Pipeline, Task, Variant
from loki_rl.core.servers.server_type import as_run_by, types_of


class Servers:
    """Servers are numbered type after type, in the order of the options, so that a number tells the type. types,
    pipelines: by position of the type."""

    def __init__(self, options: ClusterOptions) -> None:
        self.types = types_of(options.pool, options.servers)
        self.pipelines = tuple(as_run_by(options.pipeline, kind) for kind in self.types)
        self._ends = list(accumulate(kind.count for kind in self.types))

    def type_of(self, number: int) -> int:
        """Position of a server's type."""
        return bisect_right(self._ends, number)

    def place_of(self, number: int) -> int:
        """Which of its type a server is, from 0."""
        kind = self.type_of(number)
        return number - self._ends[kind] + self.types[kind].count

    @cached_property
    def fastest(self) -> Pipeline:
        """The pipeline as if every variant always ran on the type where it is fastest."""
        first = self.pipelines[0]
        if len(self.pipelines) == 1:
            return first
        return replace(first, tasks=tuple(self._fastest(place, task) for place, task in enumerate(first.tasks)))

    def _fastest(self, place: int, task: Task) -> Task:
        found: list[Variant] = []
        for number in range(len(task.variants)):
            able = [
                one.tasks[place].variants[number] for one in self.pipelines if one.tasks[place].variants[number].runnable
            ]
            found.append(min(able, key=lambda variant: variant.latency[1].p50, default=task.variants[number]))
        return replace(task, variants=tuple(found))

    @property
    def slowest_load_s(self) -> float:
        """Longest time to load a model [s]."""
        return max(variant.load_s for one in self.pipelines for task in one.tasks for variant in task.variants)

    def breaks(self, kind: int, old: Variant, new: Variant) -> bool:
        """Whether a server of a type must unload one model before it can load another."""
        held_mb = old.memory_mb + new.memory_mb
        return self.pipelines[kind].swap == "break" or held_mb > self.types[kind].memory_mb
