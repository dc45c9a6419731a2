"""The allocator against brute force: every integer fleet, explicit route prefixes, no reduction, another LP solver."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from loki_rl.control.allocator.allocate import allocate, capacity
from loki_rl.control.formulation.request import Part, Queueing, Request
from loki_rl.core.pipeline import Pipeline
from tests.control.brute import Verdict, pipelines
from tests.control.verify import verify


@st.composite
def questions(draw: st.DrawFn, queueing: Queueing) -> tuple[Pipeline, Request]:
    """An instance with an SLO near its fastest path and a demand near its capacity, so that all modes occur."""
    pipeline = draw(pipelines(3))
    servers = draw(st.integers(len(pipeline.tasks), 3 if len(pipeline.tasks) > 2 else 4))
    fastest = [min(x.latency[b].p99 for x in task.variants for b in x.latency) for task in pipeline.tasks]
    needed_s = max(sum(fastest[t] for t in pipeline.lines[leaf]) for leaf in pipeline.leaves)
    slo_s = 2 * needed_s * draw(st.sampled_from([0.8, 1.2, 1.6, 2.5, 5.0]))
    pipeline = replace(pipeline, slo_s=slo_s)
    most = capacity(pipeline, servers, queueing=queueing).capacity_rps or 10.0
    best = capacity(pipeline, servers, queueing=queueing, min_accuracy=pipeline.best_accuracy).capacity_rps
    base = draw(st.sampled_from([best or most, most, (best + most) / 2]))
    request = Request(
        demand_rps=base * draw(st.sampled_from([0.3, 0.7, 0.95, 1.05])),
        servers=servers,
        min_accuracy=draw(st.sampled_from([0.0, 0.0, 0.0, 0.7])),
        headroom=draw(st.sampled_from([0.0, 0.2])),
        queueing=queueing,
    )
    return pipeline, request


@pytest.mark.parametrize("queueing", ["half-slo", "tail"])
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_finds_what_trying_everything_finds(queueing: Queueing, data: st.DataObject) -> None:
    pipeline, request = data.draw(questions(queueing))
    verdict = Verdict([Part(pipeline, request)])
    event(verdict.mode)
    plan = allocate(pipeline, request)
    assert plan.mode == verdict.mode, plan
    assert verify(pipeline, plan, request) == []
    assert plan.accuracy == pytest.approx(verdict.accuracy, abs=2e-6)
    assert plan.certificate.objective == pytest.approx(verdict.value, abs=2e-6)
    assert plan.certificate.gap <= 1e-6
    if verdict.price:
        assert plan.price == verdict.price == plan.servers
