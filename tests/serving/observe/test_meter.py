"""What is counted of routers and requests as their events pass, and how the parts of a plane's state come together."""

from __future__ import annotations

from pathlib import Path

import pytest

from loki_rl.core.controller import Controller
from loki_rl.core.effects import Effect, Send
from loki_rl.core.gateway import Gateway
from loki_rl.core.messages import Arrived, Ended, Event, Execute, Outcome, Ready, Report, Result, Submit, Tick, WorkerGone
from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.core.plan import Exclusion
from loki_rl.core.requests.items import Family
from loki_rl.core.routing.pull_router import PullRouter
from loki_rl.serving.gateway.client import Client
from loki_rl.serving.observe.meter import RequestMeter, StageMeter, control_state
from loki_rl.serving.process.launch import LocalPlane
from loki_rl.serving.state import Requests, SizeCount

ROWS = {1: Latency(0.01, 0.01, 0.01), 2: Latency(0.02, 0.02, 0.02)}
PIPELINE = Pipeline(
    name="one",
    slo_s=0.5,
    tasks=(Task("read", (Variant("fast", 0.5, ROWS), Variant("slow", 1.0, ROWS)), entry=1.0),),
    leaf_weights={"read": 1.0},
)
OPTIONS = ClusterOptions(PIPELINE, 2)


class Metered:
    """A router and what its meter counts, told one event after another."""

    def __init__(self) -> None:
        self.router = PullRouter(OPTIONS, 0)
        self.meter = StageMeter(self.router)

    def tell(self, event: Event, now: float) -> list[Effect]:
        effects = self.router.handle(event, now)
        self.meter.record(event, effects, now)
        return effects

    def submit(self, now: float, *roots: int, slo_s: float = 0.5) -> None:
        self.tell(Submit([Family(PIPELINE.entry_id(root, 0), now, now + slo_s, 0) for root in roots]), now)

    def pull(self, now: float, serial: int = 1, worker: int = 0) -> Execute:
        """Worker gives a credit for variant `slow` and gets a batch."""
        (given,) = [
            effect.message
            for effect in self.tell(Ready(worker, 0, serial, 1, 2), now)
            if isinstance(effect, Send) and isinstance(effect.message, Execute)
        ]
        return given

    def finish(self, batch: Execute, now: float, worker: int = 0, error: str = "") -> None:
        fanouts: list[tuple[int, ...]] = [() for _ in batch.families]
        self.tell(Result(worker, 0, batch.batch, batch.variant, fanouts, 0.02, error), now)


def test_items_are_counted_by_variant_with_their_waits_and_batch_sizes() -> None:
    metered = Metered()
    metered.submit(10.0, 1)
    metered.submit(10.004, 2)
    metered.finish(metered.pull(10.01), 10.03)
    stage = metered.meter.state()
    (count,) = stage.variants.values()
    assert list(stage.variants) == ["slow"]
    assert (count.items, count.queue.count, count.compute.count) == (2, 2, 1)
    assert count.queue.sum_s == pytest.approx(0.010 + 0.006)
    assert count.sizes == {2: SizeCount(1, 0.02)}
    assert count.item_seconds == pytest.approx(0.04)
    assert (stage.queued, stage.drain_s, stage.pulling, stage.lost) == (0, 0.0, {"slow": 1}, {})


def test_only_the_committed_result_of_a_batch_given_twice_counts() -> None:
    metered = Metered()
    metered.submit(10.0, 1)
    first = metered.pull(10.0)
    metered.tell(WorkerGone(0, "killed"), 10.01)
    again = metered.pull(10.02, worker=1)
    metered.finish(first, 10.03)
    assert not metered.meter.state().variants
    metered.finish(again, 10.04, worker=1)
    count = metered.meter.state().variants["slow"]
    assert (count.items, count.queue.count) == (1, 1)
    assert count.queue.sum_s == pytest.approx(0.02)


def test_items_without_a_result_are_counted_by_their_outcome() -> None:
    metered = Metered()
    metered.submit(10.0, 1)
    metered.finish(metered.pull(10.0), 10.01, error="out of memory")
    metered.submit(10.02, 2, slo_s=0.001)
    assert metered.meter.state().queued == 1
    metered.tell(Tick(), 11.0)
    assert metered.meter.state().lost == {"failed": 1, "dropped": 1}


def test_batches_that_never_come_back_are_not_remembered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loki_rl.serving.observe.meter.MAX_WAITS", 3)
    metered = Metered()
    for worker in range(5):
        metered.submit(10.0, worker)
        metered.pull(10.0, worker=worker % 2)
        metered.tell(WorkerGone(worker % 2, "killed"), 10.01)
    assert len(metered.meter._waits) == 3


def test_a_queue_that_nobody_serves_has_no_end() -> None:
    metered = Metered()
    metered.submit(10.0, 1)
    assert metered.meter.state().drain_s is None


def test_requests_are_counted_by_their_ends() -> None:
    gateway = Gateway(OPTIONS)
    meter = RequestMeter(gateway)
    for event, now in (
        (Arrived([1, 2, 3], [0.0, 0.0, 0.0]), 10.0),
        (Ended(0, Outcome.OK, [Family(PIPELINE.entry_id(0, 0), 10.0, 10.5, 0)], 1, []), 10.1),
        (Ended(0, Outcome.DROPPED, [Family(PIPELINE.entry_id(1, 0), 10.0, 10.5, 0)], -1, []), 10.2),
    ):
        meter.record(event, gateway.handle(event, now), now)
    seen = meter.state()
    assert (seen.arrivals, seen.in_flight, seen.outcomes) == (3, 1, [1, 0, 1, 0, 0, 0])
    assert (seen.latency.count, seen.served, seen.accuracy_sum) == (1, {"slow": 1}, 1.0)
    assert seen.latency.sum_s == pytest.approx(0.1)


def test_counters_of_a_later_life_rise_from_those_of_the_former_whose_open_requests_failed() -> None:
    meter = RequestMeter(Gateway(OPTIONS, 1))
    meter.restore(Requests(arrivals=9, outcomes=[4, 1, 0, 1, 0, 0], accuracy_sum=3.5))
    meter.record(Arrived([1], [0.0]), [], 10.0)
    seen = meter.state()
    assert (seen.arrivals, seen.outcomes, seen.accuracy_sum) == (10, [4, 1, 0, 1, 0, 3], 3.5)


def test_the_controller_tells_what_its_workers_do() -> None:
    controller = Controller(OPTIONS)
    controller.handle(Report(1, 0, 0, 0, 1, 2, 0, 0, 10.0, 2), 10.0)
    state = control_state(controller)
    (worker,) = state.workers
    assert (worker.number, worker.serving, worker.batch, worker.loading, worker.loads) == (1, "read/slow", 2, "read/fast", 2)
    assert (state.plan, state.demand_rps, state.failures, state.excluded) == (None, 0.0, [], [])
    controller.handle(Report(1, 0, 0, 0, 1, 2, -1, -1, 10.0, 2, 0, 0, "no such file"), 11.0)
    state = control_state(controller)
    assert state.failures == ["worker 1: no such file"]
    assert state.excluded == [Exclusion("read", "fast", "", "no such file")]


HALF = """
from loki_rl.core.plan import Placement, Plan
class Half:
    def decide(self, snapshot):
        places = (Placement("object_detection", "yolov5n", 1, 1), Placement("car_classification", "efficientnet-b0", 1, 1))
        return Plan("shed", places, 2, 0.5, 0.5, 1.0, 1.0, {}, {})
def make(*_):
    return Half()
"""


def test_a_plane_is_ready_only_while_somebody_pulls_at_every_stage(
    tmp_path: Path, quick_traffic: ClusterOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half.py").write_text(HALF)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[3]}")
    with LocalPlane(quick_traffic, policy_factory="half:make") as plane, Client(plane.front) as client:
        while sum(bool(stage.pulling) for stage in client.state().stages) < 2:
            continue
        assert not client.state().ready
