"""A real engine beside the loop: batches in order, children numbered as the router numbers them, every failure an event."""

from __future__ import annotations

import select
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from loki_rl.core.effects import Drop, Load, Run, Unload
from loki_rl.core.messages import BatchDone, Execute, Fault, Loaded
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.core.requests.items import Family
from loki_rl.serving.engines.adapter import Array, Produced
from loki_rl.serving.engines.engine import EngineError
from loki_rl.serving.engines.threaded import MOST_S, ThreadedEngine, collect
from loki_rl.serving.transport.driver import Delivery
from loki_rl.serving.transport.event_queue import EventQueue
from loki_rl.serving.transport.payloads import WorkerPayloads
from loki_rl.serving.transport.shared_memory import NOWHERE
from loki_rl.serving.transport.wire import pack, unpack

ROWS = {1: Latency(0.01, 0.01, 0.01)}
PIPELINE = Pipeline(
    name="tiny",
    slo_s=1.0,
    tasks=(
        Task("cut", (Variant("v", 1.0, ROWS, {"left": 1.0, "right": 1.0}),), entry=1.0),
        Task("left", (Variant("l", 1.0, ROWS),), parent="cut"),
        Task("right", (Variant("r", 1.0, ROWS),), parent="cut"),
    ),
    leaf_weights={"left": 0.5, "right": 0.5},
)


class Mirror:
    """Hands every payload to `left` once and to `right` twice; what else it does is set by the test."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.gate = threading.Event()
        self.fault: Exception | None = None
        self.looks: list[float] | None = [0.02, 0.03, 0.02, 0.02]

    def load(self, task: str, variant: str) -> float:
        if self.fault:
            raise self.fault
        self.calls.append(f"load {task} {variant}")
        return 1.0

    def unload(self, task: str, variant: str) -> None:
        self.calls.append(f"unload {task} {variant}")

    def look(self, task: str, variant: str, count: int, budget_s: float) -> list[float]:
        assert budget_s <= 0.3
        if self.looks is None:
            raise EngineError("no sample")
        self.calls.append(f"look {task} {variant}")
        return self.looks[:count]

    def run(self, task: str, variant: str, payloads: Sequence[Array]) -> list[Produced]:
        assert self.gate.wait(5)
        if self.fault:
            raise self.fault
        self.calls.append(f"run {task} {variant} {len(payloads)}")
        return [Produced(children=([payload], [payload, payload])) for payload in payloads]


class Bench:
    """The engine, its worker's payloads, and what it reports."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.mirror = Mirror()
        self.payloads = WorkerPayloads()
        self.bell: EventQueue[Delivery] = EventQueue()
        self.engine = ThreadedEngine("worker:3", pipeline, self.mirror, self.payloads, self.bell, NOWHERE)

    def execute(self, batch: int, *ids: int, frames: bool = True) -> None:
        items = [Family(item, 0.0, 1.0, 0) for item in ids]
        if frames:
            packed = [pack(np.full(2, item)) for item in ids]
            self.payloads.arrive(Execute(batch, 0, items), ids, packed)
        self.engine.carry(Run(batch, 0, 0, items), 0.0)

    def reports(self, count: int) -> list[Delivery]:
        found: list[Delivery] = []
        while len(found) < count:
            assert select.select([self.bell.handle], [], [], 10.0)[0], "the engine reports nothing"
            found += self.bell.collect(0.0)
        assert all(letter.to == "worker:3" for letter, _ in found)
        return found


Make = Callable[..., Bench]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Bench] = []

    def build(**changes: Any) -> Bench:
        made.append(Bench(replace(PIPELINE, **changes)))
        return made[-1]

    yield build
    for bench in made:
        bench.mirror.gate.set()
        bench.engine.close(60.0)
        bench.bell.close()


def short(pipeline: Pipeline) -> tuple[Task, ...]:
    """Its tasks, with variants that end at once."""
    quick = {1: Latency(0.0001, 0.0001, 0.0001)}
    return tuple(
        replace(task, variants=tuple(replace(one, latency=quick) for one in task.variants)) for task in pipeline.tasks
    )


def test_short_batches_run_in_the_loop_in_the_order_given(make: Make) -> None:
    bench = make(tasks=short(PIPELINE))
    bench.mirror.gate.set()
    bench.execute(1, 5)
    bench.execute(2, 6)
    assert bench.mirror.calls == [], "before what the burst sends is on its way"
    bench.engine.run_short()
    assert bench.mirror.calls == ["run cut v 1"] * 2
    assert [done(report).batch for report in bench.reports(2)] == [1, 2]
    bench.execute(3, 7)
    bench.engine.carry(Unload(0, 0), 0.0)
    assert [done(report).batch for report in bench.reports(1)] == [3], "its model goes after it"
    bench.engine.close(60.0)
    assert bench.mirror.calls[2:] == ["run cut v 1", "unload cut v"]


def test_a_short_batch_waits_for_what_the_thread_has(make: Make) -> None:
    bench = make(tasks=short(PIPELINE), swap="break")
    bench.mirror.gate.set()
    bench.engine.carry(Load(0, 0), 0.0)
    bench.execute(1, 5)
    bench.engine.run_short()
    assert [type(letter.message) for letter, _ in bench.reports(2)] == [Loaded, BatchDone]


def done(delivery: Delivery) -> BatchDone:
    message = delivery[0].message
    assert isinstance(message, BatchDone)
    return message


def test_batches_run_in_order_and_children_carry_the_ids_their_router_will_use(make: Make) -> None:
    bench = make()
    parent = PIPELINE.entry_id(5, 0)
    bench.execute(1, parent)
    bench.execute(2, PIPELINE.entry_id(6, 0), PIPELINE.entry_id(7, 0))
    bench.engine.carry(Unload(0, 0), 0.0)
    bench.mirror.gate.set()
    first, second = bench.reports(2)
    assert (done(first).batch, done(first).fanouts, done(first).error) == (1, [(1, 2)], "")
    assert (done(second).batch, done(second).fanouts) == (2, [(1, 2), (1, 2)])
    letter, frames = first
    assert letter.ids == [PIPELINE.child_id(parent, child, number) for number, child in enumerate((1, 2, 2))]
    assert [unpack(frame).tolist() for frame in frames] == [[parent, parent]] * 3
    bench.engine.close(60.0)
    assert bench.mirror.calls == ["run cut v 1", "run cut v 2", "unload cut v"]
    assert len(bench.payloads) == 0


@pytest.mark.parametrize(
    ("fault", "told"), [(EngineError("out of memory"), "out of memory"), (ZeroDivisionError(), "ZeroDivisionError")]
)
def test_a_failing_engine_is_reported_and_goes_on(make: Make, fault: Exception, told: str) -> None:
    bench = make()
    bench.mirror.gate.set()
    bench.mirror.fault = fault
    bench.execute(1, 11)
    bench.engine.carry(Load(0, 0), 0.0)
    failed, unloaded = bench.reports(2)
    assert (done(failed).error, done(failed).fanouts) == (told, [])
    assert isinstance(unloaded[0].message, Loaded)
    assert unloaded[0].message.error == told
    bench.mirror.fault = None
    bench.execute(2, 12)
    assert done(bench.reports(1)[0]).error == ""


def test_a_batch_without_its_payloads_fails(make: Make) -> None:
    bench = make()
    bench.mirror.gate.set()
    bench.execute(1, 11, frames=False)
    assert done(bench.reports(1)[0]).error == "item 11 came without its payload"


@pytest.mark.parametrize("swap", ["make", "break"])
def test_a_load_overtakes_a_running_batch_only_where_both_models_fit(make: Make, swap: str) -> None:
    bench = make(swap=swap)
    bench.execute(1, 11)
    bench.engine.carry(Load(1, 0), 0.0)
    if swap == "make":
        assert isinstance(bench.reports(1)[0][0].message, Loaded)
        bench.mirror.gate.set()
        assert done(bench.reports(1)[0]).batch == 1
    else:
        bench.mirror.gate.set()
        assert [type(letter.message) for letter, _ in bench.reports(2)] == [BatchDone, Loaded]


def test_an_effect_that_is_not_for_an_engine_is_an_error(make: Make) -> None:
    with pytest.raises(TypeError, match="Drop"):
        make().engine.carry(Drop([]), 0.0)


def test_more_children_than_an_id_can_hold_are_left_out() -> None:
    chain = tuple(
        Task(name, (Variant("v", 1.0, ROWS, {below: 1.0} if below else {}),), above, 0.0 if above else 1.0)
        for above, name, below in zip([None, *"abcde"], "abcdef", [*"bcdef", None], strict=True)
    )
    deep = Pipeline(name="deep", slo_s=1.0, tasks=chain, leaf_weights={"f": 1.0})
    item = deep.entry_id(1, 0)
    made = collect(deep, 0, [item], [Produced(children=([np.zeros(1)] * 100,))], NOWHERE)
    assert made.fanouts == [(deep.max_children,)]
    assert len(set(made.ids)) == len(made.frames) == deep.max_children


def test_a_leaf_always_has_an_output_and_an_item_at_fault_spares_its_batch() -> None:
    items = [PIPELINE.entry_id(number, 0) for number in range(3)]
    made = collect(PIPELINE, 1, items, [Produced(), Produced(error="not a picture"), Produced(output=np.ones(2))], NOWHERE)
    assert (made.fanouts, made.ids, made.faults) == ([], [items[0], items[2]], {1: Fault("not a picture")})
    assert [unpack(frame).size for frame in made.frames] == [0, 2]
    broken = collect(
        PIPELINE, 0, items[:2], [Produced(error="it broke", to_blame=False), Produced(children=([], []))], NOWHERE
    )
    assert (broken.fanouts, broken.faults) == ([(), (0, 0)], {0: Fault("it broke", False)})


def sampled(sample_s: float) -> dict[str, Any]:
    """The tasks, with how long a sample item took when they were profiled."""
    tasks = [replace(task, variants=(replace(task.variants[0], sample_s=sample_s),)) for task in PIPELINE.tasks]
    return {"tasks": tuple(tasks)}


def loaded(bench: Bench) -> Loaded:
    bench.engine.carry(Load(0, 0), 0.0)
    ((letter, _),) = bench.reports(1)
    assert isinstance(letter.message, Loaded)
    assert not letter.message.error
    return letter.message


def test_a_model_that_is_loaded_runs_its_sample_once_beside_what_that_took_when_it_was_profiled(make: Make) -> None:
    bench = make(**sampled(0.01))
    assert loaded(bench).looks == pytest.approx([2.0, 3.0, 2.0])
    assert loaded(bench).looks == []
    assert bench.mirror.calls == ["load cut v", "look cut v", "load cut v"]


@pytest.mark.parametrize("sample_s", [0.0, 2 * MOST_S])
def test_nobody_waits_for_a_look_that_tells_nothing_or_takes_long(make: Make, sample_s: float) -> None:
    bench = make(**sampled(sample_s))
    assert loaded(bench).looks == []
    assert bench.mirror.calls == ["load cut v"]


def test_a_model_whose_sample_fails_is_loaded_all_the_same(make: Make) -> None:
    bench = make(**sampled(0.01))
    bench.mirror.looks = None
    assert loaded(bench).looks == []
