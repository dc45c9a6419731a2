"""Servers of several types in the twin: placements keep to their types, memory holds, and plans keep their promises."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from loki_rl.control.allocator.allocate import allocate
from loki_rl.control.formulation.request import Request, RequestError
from loki_rl.control.policies.named import make_policy
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.core.cluster import addresses
from loki_rl.core.effects import Effect, Load, Run
from loki_rl.core.journal import Recorder, replay
from loki_rl.core.messages import Event
from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Latency, Pipeline, Swap, Task, Variant
from loki_rl.core.plan import Placement, Plan, Snapshot
from loki_rl.core.servers.server_type import Figures, ServerType, TypeProfile
from loki_rl.core.servers.servers import Servers
from loki_rl.env.faults import Crash, Faults
from loki_rl.env.simulate import pool_with_load_s, simulate
from loki_rl.env.world import World, run
from loki_rl.files.config import load_pipeline

MS = 0.001


def latency(first: float, each: float) -> dict[int, Latency]:
    times = {n: (first + (n - 1) * each) * MS for n in (1, 2, 4)}
    return {n: Latency(s, 1.1 * s, 1.2 * s) for n, s in times.items()}


def pipeline(swap: Swap) -> Pipeline:
    find = (
        Variant("quick", 0.5, latency(4, 1), {"read": 1.5}, 0.3, 10.0),
        Variant("good", 0.9, latency(8, 5), {"read": 2.0}, 0.5, 30.0),
    )
    read = (Variant("fast", 0.6, latency(3, 1), {}, 0.2, 10.0), Variant("best", 1.0, latency(6, 3), {}, 0.4, 40.0))
    return Pipeline(
        "small", 0.4, (Task("find", find, entry=1.0), Task("read", read, parent="find")), {"read": 1.0}, swap=swap
    )


# The slow type holds two small models or a large one; the third was measured, and one variant was not.
MEASURED = TypeProfile(
    {
        ("find", "quick"): Figures(latency(5, 4), 0.6),
        ("find", "good"): Figures(latency(9, 8), 0.7, 35.0),
        ("read", "fast"): Figures(latency(4, 3), 0.2),
    },
    padded=False,
)
POOL = (
    ServerType("fast", 3, 3.0, 60.0),
    ServerType("slow", 3, 1.0, 40.0, speed=0.5),
    ServerType("other", 2, 2.0, 40.0, speed=None, profiles={"small": MEASURED}),
)
MODELS = [("find", "quick"), ("find", "good"), ("read", "fast"), ("read", "best")]


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Any plan that places what runs on a type there, and every task somewhere."""
    places: list[Placement] = []
    for kind, able in zip(POOL, (MODELS, MODELS, MODELS[:3]), strict=True):
        chosen = [draw(st.sampled_from(able)) for _ in range(draw(st.integers(1, kind.count)))]
        places += [
            Placement(*model, draw(st.sampled_from([1, 4])), chosen.count(model), kind.name) for model in sorted(set(chosen))
        ]
    places += [
        Placement(*model, 1, 1, "fast") for model in (MODELS[0], MODELS[2]) if not any(p.task == model[0] for p in places)
    ]
    if sum(place.replicas for place in places if place.server_type == "fast") > 3:
        places = [place for place in places if place.server_type != "fast"]
        places += [Placement(*MODELS[0], 1, 1, "fast"), Placement(*MODELS[2], 1, 1, "fast")]
    servers = sum(place.replicas for place in places)
    return Plan("accuracy", tuple(places), servers, 0.7, 1.0, 60.0, 60.0, {"find": 0.5, "read": 1.0}, {})


def options(swap: Swap, **change: Any) -> ClusterOptions:
    return replace(ClusterOptions(pipeline(swap), 8, interval_s=0.7, pool=POOL), **change)


class Watch:
    """What is loaded and run where."""

    def __init__(self, cluster: ClusterOptions) -> None:
        self.servers = Servers(cluster)
        self.loaded: set[str] = set()

    def __call__(self, address: str, _now: float, _event: Event, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Load | Run):
                place = self.servers.type_of(int(address.split(":")[1].split("#")[0]))
                model = self.servers.pipelines[place].tasks[effect.task].variants[effect.variant]
                assert model.runnable, f"{model.name} runs on type {self.servers.types[place].name}"
                self.loaded.add(self.servers.types[place].name)


@pytest.mark.parametrize("swap", ["break", "make"])
@settings(derandomize=True, deadline=None, max_examples=12)
@given(made=st.lists(plans(), min_size=2, max_size=4), crash=st.integers(0, 7), parallel=st.sampled_from([0, 1]))
def test_every_actor_is_right_after_every_event(swap: Swap, made: list[Plan], crash: int, parallel: int) -> None:
    cluster = options(swap, parallel_loads=parallel)
    turn: Iterator[Plan] = iter(made * 20)
    faults = Faults(crashes=(Crash(crash, 0.8, 0.5),))
    watch = Watch(cluster)
    done = simulate(cluster, lambda _: next(turn), np.arange(120) / 60.0, 2.0, record=watch, check=True, faults=faults)
    summary = done.summary
    ended = summary.ok + summary.late + summary.dropped + summary.rejected + summary.cancelled + summary.failed
    assert summary.arrivals == ended == 120
    assert watch.loaded == {"fast", "slow", "other"}


def test_a_batch_takes_as_long_as_on_its_type() -> None:
    world = World(options("break"), lambda _: plan_of(world.options), start=-3.0)
    seen: dict[str, set[float]] = {}

    def record(address: str, _now: float, event: Event, _effects: list[Effect]) -> None:
        if address.startswith("worker:") and hasattr(event, "seconds") and hasattr(event, "fanouts"):
            seen.setdefault(address, set()).add(round(event.seconds / MS, 6))

    world.record = record
    run(world, [k / 20 for k in range(60)], duration_s=3.0, settle_s=3.0)
    assert min(seen["worker:0"]) == 4.0  # quick on fast
    assert min(seen["worker:3"]) == 6.0  # fast on slow, half as quick
    assert min(seen["worker:6"]) == 5.0  # quick on other, as measured


def plan_of(cluster: ClusterOptions) -> Plan:
    places = (
        Placement("find", "quick", 1, 1, "fast"),
        Placement("read", "fast", 1, 3, "slow"),
        Placement("find", "quick", 1, 1, "other"),
    )
    assert cluster.servers == 8
    return Plan("accuracy", places, 5, 0.5, 1.0, 20.0, 20.0, {"find": 0.5, "read": 1.0}, {})


def test_a_snapshot_knows_types() -> None:
    world = World(options("break"), lambda _: plan_of(world.options), start=-3.0)
    world.run_until(-2.9)
    seen: list[Snapshot] = []
    world.decide = lambda snapshot: seen.append(snapshot) or plan_of(world.options)  # type: ignore[func-returns-value]
    world.begin(-2.9)
    world.run_until(-2.1)
    servers = seen[-1].servers
    assert [server.server_type for server in servers] == ["fast"] * 3 + ["slow"] * 3 + ["other"] * 2
    assert servers[6].serving == ("find", "quick", 1)
    assert world.controller.machines[6].server_type == 2


def test_a_journal_of_several_types_replays() -> None:
    cluster, blobs = options("make"), list[bytes]()
    recorder = Recorder(blobs.append, cluster, dict.fromkeys(addresses(cluster), 0))
    simulate(cluster, lambda _: plan_of(cluster), np.arange(40) / 40.0, 1.0, record=recorder.record)
    assert replay(blobs, check=True) == len(blobs) - 1


@pytest.mark.parametrize("share", [0.4, 0.8])
def test_a_plan_for_a_pool_keeps_its_promises(share: float) -> None:
    """Ledger and plan agree, and at .9 of what it is for hardly any deadline is missed."""
    traffic = load_pipeline("traffic").pipeline
    pool = (ServerType("large", 8, 3.0), ServerType("small", 12, 1.0, speed=0.5))
    request = Request(600.0 * share, 20, pool=pool, time_limit_s=30.0)
    plan = allocate(traffic, request)
    cluster = ClusterOptions(traffic, 20, pool=pool)
    times = np.cumsum(np.random.default_rng(3).exponential(1 / (0.9 * request.demand_rps), 12_000))
    done = simulate(cluster, lambda _: plan, times[times < 12.0], 12.0)
    assert done.summary.slo_violation_ratio < 0.01
    assert done.summary.accuracy == pytest.approx(plan.accuracy, abs=0.01)


@pytest.mark.parametrize("name", ["static", "hardware", "loki", "exact", "forecast"])
def test_policies_plan_for_types(name: str) -> None:
    small = pipeline("break")
    policy = make_policy(name, small, PolicyOptions(8, initial_rps=60.0, pool=POOL))
    done = simulate(options("break"), policy.decide, np.arange(180) / 60.0, 3.0, check=True)
    assert done.summary.ok > 150


@pytest.mark.parametrize("name", ["proteus", "ppo"])
def test_policies_for_servers_that_are_alike_say_so(name: str) -> None:
    with pytest.raises(RequestError, match="plans for servers of one type; take one of static, "):
        make_policy(name, pipeline("break"), PolicyOptions(8, pool=POOL))


def test_one_load_time_for_all_overrides_that_of_a_profile() -> None:
    assert Servers(options("break")).slowest_load_s == 0.7
    assert Servers(options("break", pool=pool_with_load_s(POOL, 9.0))).slowest_load_s == 0.5
