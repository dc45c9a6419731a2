"""What a calibration comes to in the fluid twin, which has no single batch: mean effects."""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from loki_rl.control.fast.model_arrays import Fleet, Floats
from loki_rl.core.draws import mean_s
from loki_rl.core.pipeline import Latency, Pipeline
from loki_rl.env.calibrated import mean_of, usual_of
from loki_rl.files.calibration_file import Calibration


class Means(Struct, frozen=True, eq=False):
    """speed [M]: real over profiled service rate of every model; load [M]: real over profiled load time; late_s: how much
    older the counts are that a plan in force was made of, in whole seconds."""

    speed: Floats
    load: Floats
    late_s: int = 0


def no_means(models: int) -> Means:
    return Means(np.ones(models), np.ones(models))


def means_of(calibration: Calibration, fleet: Fleet, servers: int, interval_s: float) -> Means:
    """Of a cluster of so many servers that plans every interval_s [s]."""
    recorded = np.mean([one.servers for one in calibration.recordings] or [servers])
    met = max(1, round(calibration.contention.met * servers / float(recorded)))
    speed, pipeline = calibration.contention.speed(met), fleet.pipeline
    models = [(place, number) for place, task in enumerate(pipeline.tasks) for number in range(len(task.variants))]
    return Means(
        np.array([_speed(calibration, pipeline, *model, speed) for model in models]),
        np.array([_load(calibration, pipeline, *model) for model in models]) / speed,
        _late_s(calibration, interval_s),
    )


def _speed(calibration: Calibration, pipeline: Pipeline, task: int, variant: int, speed: float) -> float:
    """Mean over the profiled batch sizes; the hand-over is part of what a batch takes."""
    row, usual = usual_of(calibration, pipeline, task, variant)
    ratio = mean_of(row.ratio) / speed
    handed_s = sum(mean_of(delay.seconds) for delay in calibration.delays if delay.kind == "handover_next")
    profiled: dict[int, Latency] = pipeline.tasks[task].variants[variant].latency
    return float(np.mean([mean_s(latency) / (usual[n] * ratio + handed_s) for n, latency in profiled.items()]))


def _load(calibration: Calibration, pipeline: Pipeline, task: int, variant: int) -> float:
    rows = {(row.task, row.variant): mean_of(row.quantiles) for row in calibration.loads}
    profiled_s, names = pipeline.tasks[task].variants[variant].load_s, pipeline.names(task, variant)
    own_s = None if names is None else rows.get(names)
    return own_s / profiled_s if own_s is not None and profiled_s > 0 else rows.get((None, None), 1.0)


def _late_s(calibration: Calibration, interval_s: float) -> int:
    """Plans that take longer than it is between two of them come with the next one, or the one after it."""
    thought_s = max((mean_of(row.seconds) for row in calibration.plans if row.policy in (None, "exact")), default=0.0)
    return round(thought_s) if thought_s >= interval_s else 0
