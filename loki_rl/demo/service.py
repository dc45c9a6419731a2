"""Service as planes had it, beside service as it was profiled: from what they recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from loki_rl.calibration.batches import jobs_of, joined
from loki_rl.calibration.fit import Recording
from loki_rl.core.pipeline import Pipeline

# A difference above this changes what a plan is worth.
TELLING = 0.15


def slowdowns(pipeline: Pipeline, recordings: Sequence[Recording]) -> dict[str, float]:
    """Task -> what its batches took of the profiled time of as many items, in the median; tasks that ran nothing are left
    out."""
    batches = joined([jobs_of(one.flight, one.head.cluster, pipeline, n)[0] for n, one in enumerate(recordings)])
    ratios = batches.seconds / batches.usual_s
    tasks = enumerate(pipeline.tasks)
    return {task.name: float(np.median(ratios[mine])) for n, task in tasks if (mine := batches.task == n).any()}


def telling(found: Mapping[str, float]) -> bool:
    """Whether the batches of any task took so much more or less than profiled that it should be said."""
    return any(abs(ratio - 1) > TELLING for ratio in found.values())
