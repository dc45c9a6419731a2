"""What a controller has counted of late: demand, backlogs, and what is not as profiled."""

from __future__ import annotations

from loki_rl.core.messages import Backlog
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Drift

HISTORY_S = 300


class History:
    """arrivals: requests in each of the latest whole seconds, the last of them `counted - 1`. items: task -> items that came
    to its queue in each of them; backlog_s: task -> time to drain it [s]; drift: task -> what it found."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._tasks = [task.name for task in pipeline.tasks]
        self.arrivals: list[int] = []
        self.counted = 0
        self.items: dict[str, list[int]] = {}
        self.backlog_s: dict[str, float] = {}
        self.drift: dict[str, list[Drift]] = {}

    def begin(self, counted: int = 0, arrivals: list[int] | None = None) -> None:
        """Of another run, or where a former life of the controller stood."""
        self.counted, self.arrivals, self.items = counted, arrivals or [], {}

    def count(self, second: int, arrivals: int) -> None:
        self.counted = second + 1
        self.arrivals.append(arrivals)
        del self.arrivals[:-HISTORY_S]

    def record(self, event: Backlog) -> bool:
        """Whether something drifts that did not, or no longer does."""
        task = self._tasks[event.task]
        self.backlog_s[task] = event.drain_s
        counts = self.items.setdefault(task, [])
        counts.append(event.arrived)
        del counts[:-HISTORY_S]
        former, self.drift[task] = self.drift.get(task, []), event.drift
        return event.drift != former

    def all_drift(self) -> list[Drift]:
        return [one for found in self.drift.values() for one in found]
