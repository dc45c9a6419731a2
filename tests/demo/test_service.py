"""Service as it was is compared batch size by batch size with the profile, and the twin can be given it."""

from __future__ import annotations

import pytest

from loki_rl.core.draws import mean_s
from loki_rl.core.pipeline import Pipeline
from loki_rl.demo.service import as_served, service
from loki_rl.files.config import PipelineFile, load_pipeline
from loki_rl.serving.state import PlaneState, Requests, SizeCount, Stage, VariantCount


@pytest.fixture(scope="module")
def file() -> PipelineFile:
    return load_pipeline("reading")


def state(pipeline: Pipeline, slowdowns: dict[tuple[str, str], float]) -> PlaneState:
    """A plane whose batches of one and two items took so many times the profile's mean."""
    stages = []
    for task in ("detection", "recognition"):
        counts = {}
        for (name, variant), times in slowdowns.items():
            if name == task:
                position, number = pipeline.positions(task, variant)
                rows = pipeline.latencies[position][number]
                sizes = {items: SizeCount(10, 10 * times * mean_s(rows[items])) for items in (1, 2)}
                counts[variant] = VariantCount(sizes=sizes)
        stages.append(Stage(task, 0, 0.0, {}, {}, counts))
    return PlaneState("reading", "onnx", 0.4, 0.85, 2, True, 1.0, 0, 0, Requests(), stages)


def test_service_as_profiled_needs_no_word(file: PipelineFile) -> None:
    found = service(file.pipeline, [state(file.pipeline, {("detection", "d800"): 1.1, ("recognition", "rs240"): 0.9})])
    assert not found.telling
    assert str(found) == "detection 1.10, recognition 0.90"


@pytest.mark.parametrize("times", [0.5, 2.0])
def test_slower_and_faster_service_is_told(file: PipelineFile, times: float) -> None:
    assert service(file.pipeline, [state(file.pipeline, {("detection", "d800"): times})]).telling


def test_several_planes_count_together(file: PipelineFile) -> None:
    states = [state(file.pipeline, {("detection", "d800"): times}) for times in (1.0, 3.0)]
    assert service(file.pipeline, states).tasks["detection"].slowdown == pytest.approx(2.0)


def test_the_profile_as_served_has_each_models_own_time_and_for_others_that_of_the_task(file: PipelineFile) -> None:
    assert file.measured is not None
    found = service(file.pipeline, [state(file.pipeline, {("detection", "d800"): 2.0, ("detection", "d320"): 1.0})])
    new = as_served(file.measured, found)
    slowed = {
        (row.task, row.variant): row.p95_ms / old.p95_ms
        for row, old in zip(new.variants, file.measured.variants, strict=True)
    }
    assert slowed["detection", "d800"] == pytest.approx(2.0)
    assert slowed["detection", "d320"] == pytest.approx(1.0)
    assert slowed["detection", "d480"] == pytest.approx(found.tasks["detection"].slowdown)
    assert slowed["recognition", "rs240"] == 1.0, "nothing is known of this task"
    assert new.accuracies == file.measured.accuracies
