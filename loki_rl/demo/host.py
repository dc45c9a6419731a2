"""What this host can do with real models: measured here and now, and the crowd and the deadline that fit it."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import ceil
from pathlib import Path

from msgspec import Struct

from loki_rl.control.allocator.allocate import capacity
from loki_rl.core.pipeline import Pipeline, Variant
from loki_rl.demo.crowd import Crowd
from loki_rl.demo.stage import Stage
from loki_rl.files.config import load_pipeline
from loki_rl.files.profile_file import Capacity
from loki_rl.reading.models import fetch_reading
from loki_rl.reading.scenes import MAX_LINES
from loki_rl.serving.engines.hardware import HostLoad
from loki_rl.serving.profiling.as_served import rescale
from loki_rl.serving.profiling.profile import profile, quick_request

# Beside other programs that take more of the cores than this, figures say more about them than about the models.
TOO_MANY = 0.4
# How long a pause of theirs is waited for, and over how long they are judged [s].
WAIT_S, LOOK_S = 60.0, 3.0

# Before the crowd, of what the most accurate models can do: room for chance, and no need for others.
BASE = 0.6
# At its height: so many times what the most accurate models complete when they never rest, so that more than half is lost
# without others; and of what the fastest can do in time no more than this, so that a host slowed down to half still can.
ABOVE_BEST, BELOW_FASTEST = 2.5, 0.5
# Less than so many times what the most accurate models complete is no crowd.
LEAST_ABOVE = 1.2
# A deadline fits where the most accurate models can do this share in time of what they complete without one; else it is so
# many times what the longest picture takes them, in steps that are easy to say [ms].
USEFUL, LONGEST, STEP_MS = 0.4, 1.7, 50
CALM_S, RISE_S, HELD_S = 30, 12, 12


class Fit(Struct, frozen=True):
    """What is played. slo_ms: None for the pipeline's own deadline. best_rps, fastest_rps: what the most accurate and the
    fastest models are planned to do within it."""

    crowd: Crowd
    slo_ms: float | None
    best_rps: float
    fastest_rps: float


def measure_here(stage: Stage, path: Path) -> Capacity:
    """Fetch the models, measure their times alone and then as served, into `path`; accuracies do not depend on the device.
    While others take too many of the cores their pause is waited for, for a while."""
    file = load_pipeline("reading")
    assert file.measured is not None
    with stage.bars() as progress:
        fetch_reading(file.repository, progress)
    wait_for_pause(stage.show)
    with stage.bars() as progress:
        profile(file, quick_request(file, file.measured, stage.device), progress).save(path)
        served = rescale(file.path, path, stage.device, progress)
    served.save(path)
    assert served.capacity is not None
    return served.capacity


def wait_for_pause(show: Callable[[str], None], wait_s: float = WAIT_S, look_s: float = LOOK_S) -> None:
    """Return once other programs leave enough of the cores, or the wait is over."""
    began, told = time.monotonic(), False
    while (share := _others(look_s)) > TOO_MANY and time.monotonic() - began < wait_s:
        if not told:
            show(f"Other programs take {share:.0%} of the cores; waiting up to {wait_s:.0f} s for a pause of theirs.")
        told = True


def _others(seconds: float) -> float:
    """Share of the cores that other programs take in the next seconds, 0..1."""
    load = HostLoad()
    time.sleep(seconds)
    return load.share()


def fit(measured: Capacity, pipeline: Pipeline) -> Fit | None:
    """The crowd and the deadline for a host with this capacity and this profile; None where the models can do nothing in
    time, or the fastest too little more than the most accurate ones to show anything."""
    best_rps, slo_ms = planned(pipeline, pipeline.slo_s, pipeline.best_accuracy), None
    if best_rps < USEFUL * measured.most_accurate_rps:
        slo_ms = max(1000 * pipeline.slo_s, STEP_MS * ceil(1000 * LONGEST * longest_s(pipeline) / STEP_MS))
        best_rps = planned(pipeline, slo_ms / 1000, pipeline.best_accuracy)
    fastest_rps = min(measured.cheapest_rps, planned(pipeline, slo_ms / 1000 if slo_ms else pipeline.slo_s, 0.0))
    most_rps = max(best_rps, measured.most_accurate_rps)
    height_rps = min(ABOVE_BEST * most_rps, BELOW_FASTEST * fastest_rps)
    if not best_rps or height_rps < LEAST_ABOVE * most_rps:
        return None
    base_rps = BASE * min(measured.most_accurate_rps, best_rps)
    return Fit(Crowd(base_rps, height_rps, CALM_S, RISE_S, HELD_S), slo_ms, best_rps, fastest_rps)


def planned(pipeline: Pipeline, slo_s: float, accuracy: float) -> float:
    """What all servers can do in time with at least this accuracy [requests/s]; 0 where nothing."""
    plan = capacity(pipeline, pipeline.servers, min_accuracy=accuracy, slo_s=slo_s)
    return 0.0 if plan.mode == "infeasible" else plan.capacity_rps


def longest_s(pipeline: Pipeline) -> float:
    """What the picture with the most lines takes the most accurate models [s], at the 95th percentile: found on one server,
    read on one other, batch after batch."""
    finder, reader = (max(task.variants, key=lambda variant: variant.accuracy) for task in pipeline.tasks)
    full, rest = divmod(MAX_LINES, max(reader.latency))
    return _p95(finder, 1) + full * _p95(reader, max(reader.latency)) + (_p95(reader, rest) if rest else 0.0)


def _p95(variant: Variant, items: int) -> float:
    return variant.latency[min(size for size in variant.latency if size >= items)].p95
