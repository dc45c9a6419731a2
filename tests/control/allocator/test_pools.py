"""Several types of servers and several pipelines: exact against trying everything, and what must not change a plan."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from loki_rl.control.allocator.allocate import allocate, allocate_jointly, capacity
from loki_rl.control.formulation.request import Part, Queueing, Request
from loki_rl.core.pipeline import Pipeline, Task
from loki_rl.core.servers.server_type import Figures, ServerType, TypeProfile
from tests.control.brute import Verdict, variant
from tests.control.verify import verify, verify_jointly

# Shrinking would try everything for minutes.
PHASES = (Phase.explicit, Phase.generate)
QUIET = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, phases=PHASES)
QUEUEINGS = pytest.mark.parametrize("queueing", ["half-slo", "tail"])


@st.composite
def small(draw: st.DrawFn, tasks: int = 2) -> Pipeline:
    """One or two tasks with up to two variants of one or two batches, and an SLO near its fastest path."""
    size = draw(st.integers(1, tasks))
    made = []
    for number in range(size):
        children = [f"t{number + 1}"] if number + 1 < size else []
        found = [draw(variant(f"v{k}", children)) for k in range(draw(st.integers(1, 2)))]
        memory = draw(st.sampled_from([1.0, 2.0]))
        variants = tuple(replace(one, memory_mb=memory * (k + 1)) for k, one in enumerate(found))
        made.append(Task(f"t{number}", variants, f"t{number - 1}" if number else None, 0.0 if number else 1.0))
    fastest = sum(min(row.p99 for one in task.variants for row in one.latency.values()) for task in made)
    slo_s = 2 * fastest * draw(st.sampled_from([1.2, 1.6, 2.5, 5.0]))
    return Pipeline(draw(st.sampled_from(["one", "two"])), slo_s, tuple(made), {made[-1].name: 1.0})


@st.composite
def pools(draw: st.DrawFn, pipeline: Pipeline) -> tuple[ServerType, ...]:
    """Two types: one as the pipeline says, one slower, faster, smaller or measured."""
    first = ServerType("a", draw(st.integers(1, 2)), draw(st.sampled_from([1.0, 2.0, 2.7])))
    second = ServerType("b", 1, draw(st.sampled_from([1.0, 0.5, 3.3])))
    kind = draw(st.sampled_from(["speed", "memory", "profile"]))
    if kind == "speed":
        return first, replace(second, speed=draw(st.sampled_from([0.4, 0.8, 1.7, 3.0])))
    if kind == "memory":
        return first, replace(second, memory_mb=draw(st.sampled_from([0.5, 1.0, 2.0, 4.0])), speed=1.3)
    known = {
        (task.name, one.name): Figures(draw(variant(one.name, [])).latency, memory_mb=1.0)
        for task in pipeline.tasks
        for one in task.variants
        if draw(st.booleans())
    }
    return first, replace(second, profiles={pipeline.name: TypeProfile(known)})


@st.composite
def typed(draw: st.DrawFn, queueing: Queueing) -> Part:
    """A pipeline on two types, with a demand near what they can serve."""
    pipeline = draw(small())
    pool = draw(pools(pipeline))
    servers = sum(kind.count for kind in pool)
    most = capacity(pipeline, servers, queueing=queueing, pool=pool).capacity_rps or 10.0
    best = capacity(pipeline, servers, pipeline.best_accuracy, queueing, pool=pool).capacity_rps or most
    demand = draw(st.sampled_from([most, best, (most + best) / 2])) * draw(st.sampled_from([0.3, 0.7, 0.95, 1.05]))
    floor = draw(st.sampled_from([0.0, 0.0, 0.7]))
    return Part(pipeline, Request(demand, servers, min_accuracy=floor, queueing=queueing, pool=pool))


@QUEUEINGS
@QUIET
@given(data=st.data())
def test_two_types_as_trying_everything(queueing: Queueing, data: st.DataObject) -> None:
    part = data.draw(typed(queueing))
    verdict = Verdict([part])
    event(verdict.mode)
    plan = allocate(part.pipeline, part.request)
    assert plan.mode == verdict.mode, plan
    assert verify(part.pipeline, plan, part.request) == []
    assert plan.accuracy == pytest.approx(verdict.accuracy, abs=2e-6)
    assert plan.certificate.objective == pytest.approx(verdict.value, abs=2e-6)
    assert plan.certificate.gap <= 1e-6
    if verdict.price:
        assert plan.price == pytest.approx(verdict.price)


@st.composite
def shared(draw: st.DrawFn, queueing: Queueing, types: bool) -> list[Part]:
    """Two pipelines on one cluster, each with a demand of which about half of it could serve most."""
    pipelines = [draw(small(tasks=1 if types else 2)), draw(small(tasks=1))]
    pool = draw(pools(pipelines[0])) if types else ()
    servers = sum(kind.count for kind in pool) or draw(st.integers(2, 3))
    parts = []
    for pipeline in pipelines:
        most = capacity(pipeline, servers, queueing=queueing, pool=pool).capacity_rps or 10.0
        demand = most * draw(st.sampled_from([0.1, 0.35, 0.5, 0.7]))
        floor = draw(st.sampled_from([0.0, 0.0, 0.7]))
        request = Request(demand, servers, min_accuracy=floor, queueing=queueing, pool=pool)
        parts.append(Part(pipeline, request, draw(st.sampled_from([1.0, 1.0, 2.0, 0.3]))))
    return parts


@QUEUEINGS
@pytest.mark.parametrize("types", [False, True])
@settings(QUIET, max_examples=12)
@given(data=st.data())
def test_two_pipelines_as_trying_everything(queueing: Queueing, types: bool, data: st.DataObject) -> None:
    parts = data.draw(shared(queueing, types))
    verdict = Verdict(parts)
    event(verdict.mode)
    joint = allocate_jointly(parts)
    assert joint.mode == verdict.mode, joint
    assert verify_jointly(parts, joint) == []
    assert joint.certificate.objective == pytest.approx(verdict.value, abs=2e-6)
    assert joint.certificate.gap <= 2e-6
    if verdict.price:
        assert joint.price == pytest.approx(verdict.price)


@QUEUEINGS
@QUIET
@given(data=st.data())
def test_a_type_without_servers_is_not_there(queueing: Queueing, data: st.DataObject) -> None:
    part = data.draw(typed(queueing))
    pool = (part.request.pool[0], ServerType("none", 0, speed=50.0), part.request.pool[1])
    plan, again = (allocate(part.pipeline, replace(part.request, pool=one)) for one in (part.request.pool, pool))
    assert replace(again, certificate=plan.certificate) == plan


@QUEUEINGS
@QUIET
@given(data=st.data())
def test_two_equal_types_are_one(queueing: Queueing, data: st.DataObject) -> None:
    part = data.draw(typed(queueing))
    count, kind = data.draw(st.integers(0, 4)), part.request.pool[1]
    whole = (replace(kind, count=4),)
    halves = (replace(kind, count=count), replace(kind, name="c", count=4 - count))
    plan, split = (allocate(part.pipeline, replace(part.request, pool=pool, servers=4)) for pool in (whole, halves))
    assert split.mode == plan.mode
    assert split.certificate.objective == pytest.approx(plan.certificate.objective, abs=2e-6)
    assert split.price == pytest.approx(plan.price) or plan.mode == "shed"


@QUEUEINGS
@QUIET
@given(data=st.data())
def test_an_idle_pipeline_takes_one_server_and_changes_nothing_else(queueing: Queueing, data: st.DataObject) -> None:
    busy, idle = data.draw(small()), data.draw(small(tasks=1))
    servers = data.draw(st.integers(2, 5))
    most = capacity(busy, servers, queueing=queueing).capacity_rps or 10.0
    request = Request(most * data.draw(st.sampled_from([0.3, 0.6, 0.9, 1.1])), servers, queueing=queueing)
    alone = allocate(busy, request)
    wider = replace(request, servers=servers + 1)
    joint = allocate_jointly([Part(busy, wider), Part(idle, replace(wider, demand_rps=1e-3))])
    if joint.mode != "infeasible":
        assert joint.plans[0].served_fraction == pytest.approx(alone.served_fraction, abs=4e-6)
        assert joint.plans[0].accuracy == pytest.approx(alone.accuracy, abs=4e-6)
        assert (joint.plans[0].servers, joint.plans[1].servers) == (alone.servers, 1)
