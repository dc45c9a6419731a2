"""The twin: equal runs are equal everywhere, every arrival ends once, and a run ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from loki_rl.core.effects import Effect, Reply, Run, Send
from loki_rl.core.messages import (
    CONTROLLER,
    GATEWAY,
    Abandoned,
    Arrived,
    BatchDone,
    Begin,
    Event,
    Outcome,
    Submit,
    WorkerGone,
    router,
)
from loki_rl.core.options import DROPS, ClusterOptions, DropPolicy
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant, root_of
from loki_rl.core.plan import Placement, Plan, Snapshot
from loki_rl.core.requests.ledger import Summary
from loki_rl.env.simulate import Simulation, simulate, with_load_s
from loki_rl.env.world import World, run
from loki_rl.traces.demand import Wishes

MS = 0.001
SCRIPT = Path(__file__).with_name("digest.py")


def latency(first: float, each: float) -> dict[int, Latency]:
    times = {n: (first + (n - 1) * each) * MS for n in (1, 2, 4, 8)}
    return {n: Latency(s, 1.1 * s, 1.2 * s) for n, s in times.items()}


def pair(fanouts: tuple[dict[str, float], dict[str, float]] = ({}, {})) -> tuple[Variant, ...]:
    rough, fine = fanouts
    return (
        Variant("rough", 0.5, latency(4, 1), rough, load_s=0.5),
        Variant("fine", 0.9, latency(8, 5), fine, load_s=0.5),
    )


PIPELINE = Pipeline(
    name="deep",
    slo_s=0.15,
    tasks=(
        Task("a", pair(({"b": 0.7, "c": 0.5}, {"b": 1.4, "c": 0.5})), entry=1.0),
        Task("b", pair(({"d": 0.5}, {"d": 1.0})), parent="a"),
        Task("c", pair(), parent="a"),
        Task("d", pair(), parent="b"),
        Task("e", pair(), entry=0.5),
    ),
    leaf_weights={"c": 0.3, "d": 0.6, "e": 0.1},
)
SPLIT = {"a": 0.3, "b": 0.6, "c": 1.0, "d": 1.0, "e": 1.0}
SERVERS = 10


def plan(variants: str) -> Plan:
    """One server of each task for each letter: r(ough) or f(ine)."""
    names = [{"r": "rough", "f": "fine"}[letter] for letter in variants]
    tasks = [task.name for task in PIPELINE.tasks]
    places = tuple(Placement(task, name, 8, names.count(name)) for task in tasks for name in sorted(set(names)))
    shares = {name: names.count(name) / len(names) for name in names}
    return Plan("accuracy", places, 5 * len(names), 0.7, 1.0, 200.0, 200.0, SPLIT, dict.fromkeys(tasks, shares))


class Alternating:
    """Another mix at every decision, so that a run is full of swaps."""

    def __init__(self, *mixes: str) -> None:
        self.mixes = mixes
        self.calls = 0

    def __call__(self, _: Snapshot) -> Plan:
        self.calls += 1
        return plan(self.mixes[(self.calls - 1) % len(self.mixes)])


def options(**change: Any) -> ClusterOptions:
    return replace(ClusterOptions(PIPELINE, SERVERS, interval_s=1.0), **change)


def steady(rps: float, seconds: float) -> NDArray[np.float64]:
    return np.arange(int(rps * seconds)) / rps


def outcomes(summary: Summary) -> int:
    return summary.ok + summary.late + summary.dropped + summary.rejected + summary.cancelled + summary.failed


# -- conservation ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drop", DROPS)
@pytest.mark.parametrize("swap", ["break", "make"])
def test_every_arrival_ends_once_under_overload_and_swaps(drop: DropPolicy, swap: Any) -> None:
    """Every actor checks itself after each event."""
    settings = options(pipeline=replace(PIPELINE, swap=swap), drop=drop, max_inflight=400)
    done = simulate(settings, Alternating("rf", "ff", "rr"), steady(700, 2.0), 2.0, check=True)
    assert done.summary.arrivals == outcomes(done.summary) == 1400
    assert done.summary.slo_violation_ratio > 0.1, "it was an overload"
    assert (done.summary.dropped > 0) == (drop != "none")
    assert done.summary.leaf_violation_ratio is not None
    assert 0 < done.summary.leaf_violation_ratio <= 1


def test_nothing_is_lost_with_false_alarms_and_clients_that_leave() -> None:
    """Routers take workers for dead that only are slow; their answers come all the same."""
    replies: list[Reply] = []

    def record(_: str, __: float, ___: Event, effects: list[Effect]) -> None:
        replies.extend(effect for effect in effects if isinstance(effect, Reply))

    world = World(options(), Alternating("rf", "fr"), start=-2.0, record=record, check=True)
    for k in range(40):
        world.tell(router(k % 5), WorkerGone(k % SERVERS, "no word of it"), 0.05 * k)
        world.tell(GATEWAY, Abandoned(list(range(10 * k, 10 * k + 5))), 0.05 * k + 0.02)
    world.tell(CONTROLLER, WorkerGone(3, "no word of it"), 0.5)
    run(world, steady(200, 2.0).tolist(), duration_s=2.0, settle_s=2.0)
    world.gateway.tally.validate()
    ended = {outcome.name: world.gateway.tally.outcome(outcome) for outcome in Outcome}
    assert sum(ended.values()) == world.gateway.tally.arrivals == 400
    assert len({reply.key for reply in replies}) == len(replies) == 400
    assert ended["CANCELLED"] > 20
    assert ended["OK"] > 200
    assert ended["FAILED"] == 0


def test_a_run_ends_even_if_nothing_serves_a_task_and_nothing_may_be_dropped() -> None:
    def decide(_: Snapshot) -> Plan:
        return replace(plan("f"), placements=tuple(place for place in plan("f").placements if place.task != "d"))

    done = simulate(options(drop="none"), decide, steady(50, 1.0), 1.0)
    assert done.summary.arrivals == outcomes(done.summary) == 50
    assert done.summary.late > 0


def test_the_last_second_has_its_servers() -> None:
    done = simulate(options(), Alternating("f"), steady(20, 3.0), 3.0)
    assert [second.servers for _, second in sorted(done.tally.seconds.items())] == [5, 5, 5]
    assert done.summary.servers_mean == 5.0


def test_the_load_time_can_be_set_for_all_variants() -> None:
    quick = with_load_s(PIPELINE, 0.25)
    assert {variant.load_s for task in quick.tasks for variant in task.variants} == {0.25}
    assert with_load_s(PIPELINE, None) is PIPELINE


# -- determinism ----------------------------------------------------------------------------------------------------------


def test_a_run_is_the_same_in_every_process() -> None:
    """Whatever the hash seed: no order of a set or of addresses may count. The policy is the real allocator."""
    digests = {
        subprocess.run(
            [sys.executable, str(SCRIPT)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("0", "4711")
    }
    assert len(digests) == 1
    assert len(digests.pop().strip()) == 64


Served = dict[int, tuple[int, tuple[int, ...]]]


def watched(decide: Alternating, seed: int = 3, **change: Any) -> tuple[dict[int, int], Served, list[float]]:
    """Key -> entry items; item -> variant that served it and children it made; times of arrival."""
    entries: dict[int, int] = {}
    served: Served = {}
    runs: dict[tuple[str, int], Run] = {}
    times: list[float] = []

    def record(address: str, now: float, event: Event, effects: list[Effect]) -> None:
        if isinstance(event, Arrived):
            times.append(now)
            sent = [e.message for e in effects if isinstance(e, Send) and isinstance(e.message, Submit)]
            entries.update((event.keys[0], root_of(one.id)) for message in sent for one in message.families)
        runs.update({(address, effect.batch): effect for effect in effects if isinstance(effect, Run)})
        if isinstance(event, BatchDone):
            ended = runs[address, event.batch]
            items = [i for one in ended.families for i in PIPELINE.members(ended.task, one.id, one.count)]
            served.update({item: (ended.variant, made) for item, made in zip(items, event.fanouts, strict=False)})

    simulate(options(seed=seed, **change), decide, steady(300, 2.0), 2.0, record=record)
    return entries, served, times


def test_two_policies_meet_the_same_arrivals_and_fanouts() -> None:
    """Also if one of them refuses requests. Where they serve an item alike it has the same children, else the variant with
    the larger mean has no fewer."""
    fine, fine_served, fine_times = watched(Alternating("f"), max_inflight=20)
    rough, rough_served, rough_times = watched(Alternating("rr", "r"))
    assert fine_times == rough_times
    assert len(fine) < len(rough), "one refuses requests"
    assert fine.items() <= rough.items()
    both = fine_served.keys() & rough_served.keys()
    assert len(both) > 200
    assert {fine_served[item][0] for item in both} == {1}
    for item in both:
        assert all(less <= more for less, more in zip(rough_served[item][1], fine_served[item][1], strict=True))
    again = watched(Alternating("ff", "f", "f"))[1]
    assert all(again[item] == fine_served[item] for item in again.keys() & fine_served.keys())


def test_another_seed_is_another_run() -> None:
    assert watched(Alternating("f"), seed=3)[1] == watched(Alternating("f"), seed=3)[1]
    assert watched(Alternating("f"), seed=3)[1] != watched(Alternating("f"), seed=4)[1]


# -- a stage on which nothing is cheated ----------------------------------------------------------------------------------


def messages(world: World) -> Iterator[tuple[float, str]]:
    yield from ((time, slot.address) for time, _, slot, _ in (*world.kernel.heap, *world.kernel.line))


def test_messages_and_loads_take_their_time() -> None:
    world = World(options(), Alternating("f"), start=0.0)
    world.begin(10.0)
    world.run_until(0.6)
    loaded = [worker for worker in range(SERVERS) if world.controller.machines[worker].serving]
    assert len(loaded) == 5
    assert world.controller.settled
    assert all(time > 0.6 for time, _ in messages(world))
    assert not any(isinstance(event, Begin) for _, _, slot, event in world.kernel.heap if slot.address == "worker:0")


# -- what requests ask for ------------------------------------------------------------------------------------------------


def wishes(count: int, priority: Any = 0, min_accuracy: Any = 0.0, retries: Any = 0) -> Wishes:
    """An entry for each request, or the same for all."""
    return Wishes(
        np.broadcast_to(np.asarray(priority, np.int64), count),
        np.broadcast_to(np.asarray(min_accuracy, np.float64), count),
        np.broadcast_to(np.asarray(retries, np.int64), count),
    )


def replies_to(
    times: NDArray[np.float64], asked: Wishes, **change: Any
) -> tuple[Simulation, dict[int, tuple[float, Reply]]]:
    """The run, and when each key was answered with what."""
    found: dict[int, tuple[float, Reply]] = {}

    def record(_: str, now: float, __: Event, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Reply):
                assert effect.key not in found
                found[effect.key] = now, effect

    done = simulate(options(**change), Alternating("rf"), times, 2.0, record=record, check=True, wishes=asked)
    return done, found


def test_requests_that_ask_for_nothing_are_as_those_of_which_nothing_is_said() -> None:
    times = steady(400, 2.0)
    plain = simulate(options(), Alternating("rf"), times, 2.0)
    done, _ = replies_to(times, wishes(len(times)))
    assert (done.tally, done.events) == (plain.tally, plain.events)


def test_under_overload_requests_with_priority_are_lost_last() -> None:
    times, first = steady(1400, 2.0), np.arange(2800) % 4 == 0
    done, found = replies_to(times, wishes(len(times), priority=first))
    lost = np.array([found[key][1].outcome is not Outcome.OK for key in range(len(times))])
    assert done.summary.slo_violation_ratio > 0.1, "it was an overload"
    assert lost[first].mean() < 0.3 * lost[~first].mean()


def test_a_floor_holds_for_every_path_and_one_out_of_reach_is_rejected() -> None:
    times = steady(100, 2.0)
    floors = np.array([0.0, 0.7, 0.99, 0.0])[np.arange(len(times)) % 4]
    done, found = replies_to(times, wishes(len(times), min_accuracy=floors))
    outcome = {key: reply.outcome for key, (_, reply) in found.items()}
    assert all(
        (found[key][1].cause is not None) == (floors[key] == 0.99) for key in found if outcome[key] is Outcome.REJECTED
    )
    assert done.summary.rejected == len(times) / 4
    asked = [reply for key, (_, reply) in found.items() if floors[key] == 0.7]
    served = [PIPELINE.accuracy(leaf.task, PIPELINE.unpack(leaf.path)) for reply in asked for leaf in reply.leaves]
    assert min(served) >= 0.7
    assert done.summary.arrivals == outcomes(done.summary) == len(times)


def test_clients_come_again_when_they_are_told_to_and_not_more_often_than_they_would() -> None:
    """Of a burst at the end of the trace most are refused, and come again when it is over."""
    times = np.full(200, 1.9)
    without, _ = replies_to(times, wishes(len(times)), max_inflight=20)
    done, found = replies_to(times, wishes(len(times), retries=2), max_inflight=20)
    refused = [(at, reply) for at, reply in found.values() if reply.retry_s]
    assert done.summary.arrivals == outcomes(done.summary) > len(times)
    assert len(found) - len(times) <= len(refused) < 3 * len(times)
    assert done.summary.ok > without.summary.ok + 100
    assert max(done.tally.seconds) >= 1.9 + min(reply.retry_s for _, reply in refused)
    assert done.tally.seconds[max(number for number, one in done.tally.seconds.items() if one.arrivals)].servers > 0
