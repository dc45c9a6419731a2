"""Service as a plane had it beside service as it was profiled, and a profile with the measured times."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import replace

from loki_rl.core.draws import mean_s
from loki_rl.core.pipeline import Pipeline
from loki_rl.files.profile_file import ProfileFile, Timing
from loki_rl.serving.state import PlaneState

# A difference above this changes what a plan is worth.
TELLING = 0.15


class Taken(Struct):
    """Time of a model's batches [s]: as it was, and as the profile has it for as many of the same sizes."""

    measured_s: float = 0.0
    profiled_s: float = 0.0

    @property
    def slowdown(self) -> float:
        return self.measured_s / self.profiled_s if self.profiled_s else 1.0


class Service(Struct):
    """Of all planes that were looked at. tasks, models: by name of the task, and by task and variant."""

    tasks: defaultdict[str, Taken]
    models: defaultdict[tuple[str, str], Taken]

    @property
    def telling(self) -> bool:
        """Whether the batches of any task took so much more or less than profiled that it should be said."""
        return any(abs(taken.slowdown - 1) > TELLING for taken in self.tasks.values())

    def __str__(self) -> str:
        return ", ".join(f"{task} {taken.slowdown:.2f}" for task, taken in self.tasks.items())


def service(pipeline: Pipeline, states: Iterable[PlaneState]) -> Service:
    """What the batches of these planes took, beside what the pipeline's profile says."""
    found = Service(defaultdict(Taken), defaultdict(Taken))
    for stage in (stage for state in states for stage in state.stages):
        for variant, count in stage.variants.items():
            task, number = pipeline.positions(stage.task, variant)
            rows = pipeline.latencies[task][number]
            for items, size in count.sizes.items():
                for taken in (found.tasks[stage.task], found.models[stage.task, variant]):
                    taken.measured_s += size.seconds
                    taken.profiled_s += size.batches * mean_s(rows[items])
    return found


def as_served(old: ProfileFile, found: Service) -> ProfileFile:
    """The profile with service times as the planes had them, for the twin; a model that did not serve is as its task's
    others were."""
    slowdown = {task: taken.slowdown for task, taken in found.tasks.items()}
    models = {model: taken.slowdown for model, taken in found.models.items()}
    rows = tuple(_slowed(row, models.get((row.task, row.variant), slowdown.get(row.task, 1.0))) for row in old.variants)
    return replace(old, variants=rows, provenance=f"{old.provenance}; times as planes had them since")


def _slowed(row: Timing, slowdown: float) -> Timing:
    return replace(row, p50_ms=slowdown * row.p50_ms, p95_ms=slowdown * row.p95_ms, p99_ms=slowdown * row.p99_ms)
