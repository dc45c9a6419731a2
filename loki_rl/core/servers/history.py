"""What a controller has counted of late: demand, backlogs, and what is not as profiled."""

from __future__ import annotations

from math import exp, log

from loki_rl.core.messages import Backlog
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Drift
from loki_rl.core.servers.slowdown import near_one

HISTORY_S = 300


class History:
    """arrivals: requests in each of the latest whole seconds, the last of them `counted - 1`. items: task -> items that came
    to its queue in each of them; backlog_s: task -> time to drain it [s]; drift: task -> what it found; levels: task -> name
    of a type of server -> how much longer than profiled it takes there."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self.arrivals: list[int] = []
        self.counted = 0
        self.items: dict[str, list[int]] = {}
        self.backlog_s: dict[str, float] = {}
        self.drift: dict[str, list[Drift]] = {}
        self.levels: dict[str, dict[str, float]] = {}

    def begin(self, counted: int = 0, arrivals: list[int] | None = None) -> None:
        """Of another run, or where a former life of the controller stood."""
        self.counted, self.arrivals, self.items = counted, arrivals or [], {}

    def count(self, second: int, arrivals: int) -> None:
        self.counted = second + 1
        self.arrivals.append(arrivals)
        del self.arrivals[:-HISTORY_S]

    def record(self, event: Backlog) -> bool:
        """Whether something drifts that did not, or no longer does."""
        task = self._pipeline.tasks[event.task].name
        self.backlog_s[task] = event.drain_s
        counts = self.items.setdefault(task, [])
        counts.append(event.arrived)
        del counts[:-HISTORY_S]
        former = self.all_drift()
        self.drift[task], self.levels[task] = event.drift, event.levels
        return self.all_drift() != former

    def all_drift(self) -> list[Drift]:
        """What the tasks found. One that has not served on a type of server yet is taken to be as slow there as the others
        are: what slows a host slows all of its models."""
        return [one for found in self.drift.values() for one in found] + self._inferred()

    def _inferred(self) -> list[Drift]:
        found: list[Drift] = []
        for server_type in sorted({name for levels in self.levels.values() for name in levels}):
            logs = [log(levels[server_type]) for levels in self.levels.values() if server_type in levels]
            level = near_one(exp(sum(logs) / len(logs)))
            if level != 1.0:
                found += self._as_slow(server_type, level)
        return found

    def _as_slow(self, server_type: str, level: float) -> list[Drift]:
        """Of all variants that nothing is known of there."""
        return [
            Drift(task.name, variant.name, server_type, level, {})
            for task in self._pipeline.tasks
            if server_type not in self.levels.get(task.name, {})
            for variant in task.variants
            if not any(
                (one.variant, one.server_type) == (variant.name, server_type) for one in self.drift.get(task.name, [])
            )
        ]
