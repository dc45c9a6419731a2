"""Names for what the core numbers: variant paths, and why an item has no result. Owns their lookup and the sentence; must
not know who asks."""

from __future__ import annotations

from loki_rl.core.effects import Reply
from loki_rl.core.messages import Cause
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.requests.items import Served
from loki_rl.serving.transport.protocol import Refusal, shortened


class PathNames:
    """Names of path codes, remembered, and of what else the core gives numbers."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._known: dict[tuple[int, int], list[str]] = {}

    def served(self, effect: Reply) -> list[list[str]]:
        """The variants of every leaf, first task first."""
        return [path for served in effect.leaves for path in [self.path(served)] * served.count]

    def path(self, served: Served) -> list[str]:
        return self._known.get((served.task, served.path)) or self._learn(served.task, served.path)

    def refusal(self, cause: Cause) -> Refusal:
        """What a later task is given was made here, and is not what the client sent."""
        if cause.task < 0:
            return Refusal("", client_fault=cause.client_fault)
        task = self._pipeline.tasks[cause.task]
        fitting = "" if cause.fitting < 0 else task.variants[cause.fitting].name
        client_fault = cause.client_fault and cause.task in self._pipeline.entries
        return Refusal(task.name, cause.late_s, fitting, cause.said, client_fault)

    def _learn(self, task: int, path: int) -> list[str]:
        pipeline = self._pipeline
        line = zip(pipeline.lines[task], pipeline.unpack(path), strict=True)
        names = self._known[task, path] = [pipeline.tasks[stage].variants[variant].name for stage, variant in line]
        return names


def sentence(refusal: Refusal) -> str:
    if refusal.said:
        return f"'{refusal.stage}': {shortened(refusal.said)}"
    fitting = f"only '{refusal.fitting}' would have fitted" if refusal.fitting else "no variant would have fitted by then"
    return f"'{refusal.stage}' would have ended {1000 * refusal.late_s:.0f} ms too late, {fitting}"
