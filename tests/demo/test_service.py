"""Service as it was recorded is set beside the profile, task by task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from loki_rl.calibration.fit import Recording
from loki_rl.control.policies.named import make_policy
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Latency, Pipeline
from loki_rl.demo.service import slowdowns, telling
from loki_rl.env.simulate import simulate
from loki_rl.files.config import load_pipeline
from loki_rl.flight.columns import Collector
from loki_rl.flight.file import VERSION, Head
from loki_rl.flight.rows import AnyRow
from loki_rl.flight.sifter import Sifter


@pytest.fixture(scope="module")
def pipeline(small: Path) -> Pipeline:
    return load_pipeline(small).pipeline


def fly(profiled: Pipeline, task: int, times: float) -> Recording:
    """A run in which the batches of one task take so many times what is profiled."""
    slow = replace(
        profiled.tasks[task],
        variants=tuple(
            replace(
                one,
                latency={n: Latency(*(times * s for s in (row.p50, row.p95, row.p99))) for n, row in one.latency.items()},
            )
            for one in profiled.tasks[task].variants
        ),
    )
    tasks = tuple(slow if number == task else one for number, one in enumerate(profiled.tasks))
    cluster = ClusterOptions(replace(profiled, tasks=tasks), profiled.servers, interval_s=1.0)
    decide = make_policy("hardware", profiled, PolicyOptions(servers=profiled.servers, initial_rps=20.0)).decide
    rows: list[AnyRow] = []
    simulate(cluster, decide, np.arange(0.0, 8.0, 0.05), 8.0, record=Sifter(rows.append, profiled).record)
    collector = Collector()
    collector.add(rows)
    return Recording("flight", Head(VERSION, cluster, "", "a host", 0.0, 0.0), collector.flight())


def test_service_as_profiled_needs_no_word(pipeline: Pipeline) -> None:
    found = slowdowns(pipeline, [fly(pipeline, 0, 1.0)])
    assert list(found) == ["find", "read"]
    assert found["find"] == pytest.approx(1.0, abs=0.1)
    assert not telling(found)


@pytest.mark.parametrize("times", [0.5, 2.0])
def test_slower_and_faster_service_is_told_of_the_task_that_has_it(pipeline: Pipeline, times: float) -> None:
    found = slowdowns(pipeline, [fly(pipeline, 0, times)])
    assert found["find"] == pytest.approx(times, rel=0.1)
    assert found["read"] == pytest.approx(1.0, abs=0.1)
    assert telling(found)


def test_several_planes_count_together(pipeline: Pipeline) -> None:
    one, other = fly(pipeline, 0, 1.0), fly(pipeline, 1, 3.0)
    found = slowdowns(pipeline, [one, other])
    assert 1.0 < found["read"] < 3.0


def test_a_task_that_ran_nothing_is_left_out(pipeline: Pipeline) -> None:
    head = fly(pipeline, 0, 1.0).head
    nothing = slowdowns(pipeline, [Recording("flight", head, Collector().flight())])
    assert nothing == {}
    assert not telling(nothing)
