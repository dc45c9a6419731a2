"""Workers: credits, early credits, and swaps that keep what the swap kind promises."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from msgspec.structs import replace

from loki_rl.core.effects import Effect, Load, Run, Send, Unload
from loki_rl.core.messages import (
    CONTROLLER,
    Assign,
    BatchDone,
    Execute,
    Leaving,
    Loaded,
    Ready,
    Report,
    Result,
    Submit,
    Tick,
)
from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Latency, Pipeline, Swap, Task, Variant
from loki_rl.core.requests.items import Family
from loki_rl.core.router import RETURNED
from loki_rl.core.servers.server_type import ServerType
from loki_rl.core.worker import PARKED, Model, Worker

MS = 0.001
TEN = {1: Latency(10 * MS, 12 * MS, 15 * MS), 2: Latency(20 * MS, 24 * MS, 30 * MS)}
PIPELINE = Pipeline(
    name="pair",
    slo_s=0.2,
    tasks=(
        Task(
            "find",
            (Variant("f0", 0.5, TEN, {"read": 1.0}, memory_mb=1.0), Variant("f1", 0.9, TEN, {"read": 1.0}, memory_mb=2.0)),
            entry=1.0,
        ),
        Task("read", (Variant("r0", 0.5, TEN, memory_mb=3.0), Variant("r1", 0.9, TEN, memory_mb=4.0)), parent="find"),
    ),
    leaf_weights={"read": 1.0},
)


def make(swap: Swap = "break", **options: Any) -> Worker:
    actor = Worker(ClusterOptions(replace(PIPELINE, swap=swap), 1, lead_s=2 * MS, **options), 0)
    actor.handle(Tick(), 0.0)
    return actor


def serving(task: int, variant: int, swap: Swap = "break", batch: int = 2) -> Worker:
    """A worker that serves a variant and has given its first credit."""
    actor = make(swap)
    actor.handle(Assign(1, task, variant, batch), 0.0)
    actor.handle(Loaded(task, variant, 1.0), 0.0)
    return actor


def batch(task: int, variant: int, number: int = 0) -> Execute:
    return Execute(number * len(PIPELINE.tasks) + task, variant, [Family(number, 0.0, 1.0, 0)])


def sent(effects: list[Effect]) -> list[object]:
    """Everything but reports."""
    return [
        effect.message if isinstance(effect, Send) else effect
        for effect in effects
        if not (isinstance(effect, Send) and isinstance(effect.message, Report))
    ]


def reports(effects: list[Effect]) -> list[Report]:
    return [effect.message for effect in effects if isinstance(effect, Send) and isinstance(effect.message, Report)]


def credit(serial: int, variant: int, size: int = 2) -> Ready:
    return Ready(0, 0, serial, variant, size)


def test_a_worker_says_that_it_is_there() -> None:
    actor = Worker(ClusterOptions(PIPELINE, 1), 0, incarnation=3)
    wake = actor.wake_at()
    assert wake is not None
    assert wake < 0
    assert actor.handle(Tick(), 5.0) == [Send(CONTROLLER, Report(0, 3, -1, -1, -1, 1, -1, -1, 0.0, 0))]
    assert actor.wake_at() is None


def test_a_warm_worker_pulls_once_and_again_just_before_its_batch_ends() -> None:
    actor = make()
    assert sent(actor.handle(Assign(1, 1, 0, 2), 0.0)) == [Load(1, 0)]
    assert sent(actor.handle(Loaded(1, 0, 1.0), 1.0)) == [credit(1, 0)]
    work = batch(1, 0)
    assert sent(actor.handle(work, 1.0)) == [Run(work.batch, 1, 0, work.families)]
    assert actor.wake_at() == pytest.approx(1.0 + 8 * MS)
    assert sent(actor.handle(Tick(), 1.005)) == [], "not before"
    assert sent(actor.handle(Tick(), 1.008)) == [credit(2, 0)]
    assert actor.wake_at() is None, "one credit at a time"
    following = batch(1, 0, 1)
    assert sent(actor.handle(following, 1.009)) == []
    done = sent(actor.handle(BatchDone(work.batch, [], 0.01), 1.010))
    assert done == [Result(0, 0, work.batch, 0, [], 0.01, ""), Run(following.batch, 1, 0, following.families)]


def test_a_worker_whose_batch_is_late_has_still_asked_once() -> None:
    actor = serving(1, 0)
    actor.handle(batch(1, 0), 0.0)
    assert sent(actor.handle(Tick(), 0.009)) == [credit(2, 0)]
    assert sent(actor.handle(BatchDone(batch(1, 0).batch, [], 0.1), 0.1)) == [Result(0, 0, 1, 0, [], 0.1, "")]


@pytest.mark.parametrize("slowdown", [0.5, 2.0])
def test_a_worker_asks_just_before_its_batch_ends_also_where_that_takes_longer_or_shorter_than_profiled(
    slowdown: float,
) -> None:
    actor = serving(1, 0)
    actor.handle(replace(batch(1, 0), slowdown=slowdown), 1.0)
    assert actor.wake_at() == pytest.approx(1.0 + slowdown * 10 * MS - 2 * MS)


def test_the_end_of_another_batch_is_nobodys() -> None:
    actor = serving(1, 0)
    actor.handle(batch(1, 0), 0.0)
    assert actor.handle(BatchDone(99, [], 0.1), 0.1) == []


def test_break_stops_pulling_ends_its_batch_unloads_loads() -> None:
    actor = serving(1, 0)
    work, following = batch(1, 0), batch(1, 0, 1)
    actor.handle(work, 0.0)
    actor.handle(following, 0.009)
    assert sent(actor.handle(Assign(2, 0, 1, 2), 0.009)) == [Leaving(0, 0)]
    assert sent(actor.handle(BatchDone(work.batch, [], 0.01), 0.010)) == [
        Result(0, 0, work.batch, 0, [], 0.01, ""),
        Unload(1, 0),
        Load(0, 1),
        Result(0, 0, following.batch, 0, [], 0.0, RETURNED),
    ]
    assert sent(actor.handle(Loaded(0, 1, 1.0), 1.0)) == [credit(2, 1)]


def test_make_pulls_for_the_old_variant_until_the_new_one_is_warm() -> None:
    actor = serving(1, 0, "make")
    work = batch(1, 0)
    assert sent(actor.handle(Assign(2, 0, 1, 2), 0.0)) == [Load(0, 1)]
    assert sent(actor.handle(work, 0.0)) == [Run(work.batch, 1, 0, work.families)]
    assert sent(actor.handle(BatchDone(work.batch, [], 0.01), 0.01)) == [
        Result(0, 0, work.batch, 0, [], 0.01, ""),
        credit(2, 0),
    ]
    assert sent(actor.handle(Loaded(0, 1, 1.0), 1.0)) == [Leaving(0, 0), credit(3, 1)]
    assert sent(actor.handle(Assign(3, 1, 0, 2), 1.0)) == [Leaving(0, 0), credit(4, 0)], "the old one is still warm"


def test_a_batch_that_crosses_a_swap_goes_back_also_to_another_task_with_a_variant_of_that_number() -> None:
    """Variants are numbered per task: number 1 of the old task is not number 1 of the new one."""
    actor = serving(0, 1, "make")
    actor.handle(Assign(2, 1, 1, 2), 0.0)
    actor.handle(Loaded(1, 1, 1.0), 0.0)
    crossing, work = batch(0, 1), batch(1, 1)
    effects = actor.handle(crossing, 0.0)
    assert effects == [Send("router:0", Result(0, 0, crossing.batch, 1, [], 0.0, RETURNED))]
    assert sent(actor.handle(work, 0.0)) == [Run(work.batch, 1, 1, work.families)], "the credit of the new task is untouched"


def test_a_parked_worker_keeps_its_model_warm() -> None:
    actor = serving(1, 0)
    assert sent(actor.handle(Assign(2, -1, -1, 1), 0.0)) == [Leaving(0, 0)]
    assert actor.wake_at() is None
    assert sent(actor.handle(Assign(3, 1, 0, 2), 9.0)) == [credit(2, 0)]


def test_a_new_batch_size_replaces_the_open_credit() -> None:
    actor = serving(1, 0, batch=2)
    assert sent(actor.handle(Assign(2, 1, 0, 1), 0.0)) == [credit(1, 0, 1)]


def test_an_assignment_of_an_older_plan_is_ignored() -> None:
    actor = serving(1, 0)
    assert actor.handle(Assign(0, 0, 0, 2), 0.0) == []


def test_a_load_in_flight_ends_and_counts_if_it_is_wanted_again() -> None:
    actor = make()
    actor.handle(Assign(1, 1, 0, 2), 0.0)
    assert sent(actor.handle(Assign(2, -1, -1, 1), 0.5)) == []
    assert sent(actor.handle(Assign(3, 1, 0, 2), 0.8)) == []
    assert sent(actor.handle(Loaded(1, 0, 1.0), 1.0)) == [credit(1, 0)]


def test_a_load_wanted_for_nothing_else_ends_parked_and_warm() -> None:
    actor = make()
    actor.handle(Assign(1, 1, 0, 2), 0.0)
    actor.handle(Assign(2, -1, -1, 1), 0.5)
    assert sent(actor.handle(Loaded(1, 0, 1.0), 1.0)) == []
    assert sent(actor.handle(Assign(3, 1, 0, 2), 1.0)) == [credit(1, 0)]


def test_another_target_waits_for_the_load_in_flight() -> None:
    actor = make()
    actor.handle(Assign(1, 1, 0, 2), 0.0)
    assert sent(actor.handle(Assign(2, 0, 1, 2), 0.5)) == []
    assert sent(actor.handle(Loaded(1, 0, 1.0), 1.0)) == [Unload(1, 0), Load(0, 1)]


def test_a_failed_load_is_reported_and_left_to_the_controller() -> None:
    cases: list[tuple[Swap, Model]] = [("break", PARKED), ("make", (1, 0))]
    for swap, serves in cases:
        actor = serving(1, 0, swap)
        actor.handle(Assign(2, 0, 1, 2), 0.0)
        effects = actor.handle(Loaded(0, 1, 1.0, "out of memory"), 1.0)
        assert sent(effects) == []
        assert [(report.task, report.variant, report.error) for report in reports(effects)] == [(*serves, "out of memory")]
        assert [(report.ended_task, report.ended_variant) for report in reports(effects)] == [(0, 1)]
        assert Load(0, 1) in sent(actor.handle(Assign(2, 0, 1, 2), 2.0)), "the same assignment tries again"


def test_a_failed_load_does_not_undo_a_newer_assignment() -> None:
    actor = make()
    actor.handle(Assign(1, 1, 0, 2), 0.0)
    actor.handle(Assign(2, 0, 1, 2), 0.5)
    effects = actor.handle(Loaded(1, 0, 1.0, "out of memory"), 1.0)
    assert sent(effects) == [Load(0, 1)]
    ended = [(report.ended_task, report.ended_variant, report.error) for report in reports(effects)]
    assert ended == [(-1, -1, ""), (1, 0, "out of memory")]


def test_models_that_do_not_fit_together_are_exchanged_by_break() -> None:
    pool = (ServerType("small", 1, memory_mb=5.0),)
    actor = Worker(ClusterOptions(replace(PIPELINE, swap="make"), 1, pool=pool), 0)
    actor.handle(Assign(1, 1, 0, 1), 0.0)
    actor.handle(Loaded(1, 0, 1.0), 0.0)
    together = sent(actor.handle(Assign(2, 0, 1, 1), 1.0))
    assert [effect for effect in together if isinstance(effect, Load | Unload)] == [Load(0, 1)]
    actor.handle(Loaded(0, 1, 1.0), 2.0)
    alone = sent(actor.handle(Assign(3, 1, 1, 1), 3.0))
    assert [effect for effect in alone if isinstance(effect, Load | Unload)] == [Unload(1, 0), Unload(0, 1), Load(1, 1)]


def test_a_model_stays_in_memory_as_long_as_its_batch_runs() -> None:
    actor = Worker(ClusterOptions(replace(PIPELINE, swap="make"), 1), 0)
    actor.handle(Assign(1, 1, 0, 1), 0.0)
    actor.handle(Loaded(1, 0, 1.0), 1.0)
    actor.handle(batch(1, 0, 0), 1.0)
    actor.handle(Assign(2, 0, 1, 1), 1.0)
    actor.handle(Loaded(0, 1, 1.0), 2.0)
    waits = sent(actor.handle(Assign(3, 0, 0, 1), 2.0))
    assert [effect for effect in waits if isinstance(effect, Load | Unload)] == []
    goes_on = sent(actor.handle(BatchDone(1, [], 1.0), 2.0))
    assert [effect for effect in goes_on if isinstance(effect, Load | Unload)] == [Unload(1, 0), Load(0, 0)]


def test_an_event_for_somebody_else_is_refused() -> None:
    with pytest.raises(TypeError, match="a worker cannot handle Submit"):
        make().handle(Submit([]), 0.0)


class WorkerMachine(RuleBasedStateMachine):
    """Beside the worker: an engine, and routers that answer credits, each at its own pace."""

    swap: Swap
    memory_mb: float

    @initialize()
    def start(self) -> None:
        pool = (ServerType("small", 1, memory_mb=self.memory_mb),)
        self.worker = Worker(ClusterOptions(replace(PIPELINE, swap=self.swap), 1, lead_s=2 * MS, pool=pool), 0)
        self.now = 0.0
        self.epoch = 0
        self.target = PARKED
        self.credits: list[tuple[int, Ready]] = []
        self.number = 0
        self.running: Run | None = None
        self.loading: Load | None = None
        self.models: set[tuple[int, int]] = set()
        self.open: set[int] = set()
        self.tell(Tick())

    @rule(task=st.integers(-1, 1), variant=st.integers(0, 1), size=st.integers(1, 2))
    def assign(self, task: int, variant: int, size: int) -> None:
        self.epoch += 1
        self.target = (task, variant) if task >= 0 else PARKED
        self.tell(Assign(self.epoch, *self.target, size))

    @precondition(lambda self: self.credits)
    @rule(data=st.data())
    def give(self, data: st.DataObject) -> None:
        """A router uses a credit; it may not have heard of the worker's leaving."""
        task, ready = self.credits.pop(data.draw(st.integers(0, len(self.credits) - 1)))
        work = batch(task, ready.variant, self.number)
        self.number += 1
        self.open.add(work.batch)
        self.tell(work)

    @precondition(lambda self: self.running)
    @rule(ms=st.integers(5, 15))
    def finish(self, ms: int) -> None:
        self.now += ms * MS
        done, self.running = self.running, None
        assert done is not None
        self.tell(BatchDone(done.batch, [(1,)] if done.task == 0 else [], ms * MS))

    @precondition(lambda self: self.loading)
    @rule(error=st.sampled_from(["", "", "out of memory"]))
    def load(self, error: str) -> None:
        self.now += 1.0
        done, self.loading = self.loading, None
        assert done is not None
        if not error:
            self.models.add((done.task, done.variant))
        elif self.target == (done.task, done.variant):
            self.target = self.worker.serving
        self.tell(Loaded(done.task, done.variant, 1.0, error))

    @rule()
    def tick(self) -> None:
        wake = self.worker.wake_at()
        if wake is not None:
            self.now = max(self.now, wake)
            self.tell(Tick())
            again = self.worker.wake_at()
            assert again is None or again > self.now

    def tell(self, event: Any) -> None:
        for effect in self.worker.handle(event, self.now):
            self.see(effect)
        self.worker.validate()

    def see(self, effect: Effect) -> None:
        match effect:
            case Run(task=task, variant=variant):
                assert self.running is None, "two batches at once"
                assert (task, variant) in self.models, "runs a model that is not in memory"
                assert effect.batch % 2 == task
                self.running = effect
            case Load(task, variant):
                assert self.loading is None
                held = sum(PIPELINE.tasks[t].variants[v].memory_mb for t, v in {*self.models, (task, variant)})
                assert held <= self.memory_mb, "more models than the memory holds"
                if self.swap == "break":
                    assert not self.models
                if self.running is not None:
                    assert (self.running.task, self.running.variant) in self.models, "unloads what still runs"
                self.loading = effect
            case Unload(task, variant):
                self.models.remove((task, variant))
            case Send(to, Ready() as ready):
                self.credits.append((int(to.split(":")[1]), ready))
            case Send(to, Result() as result):
                assert to == f"router:{result.batch % 2}"
                self.open.remove(result.batch)
            case Send(_, Leaving()):
                pass
            case Send(to, Report()):
                assert to == CONTROLLER
            case _:
                pytest.fail(f"a worker does not do {effect}")

    def teardown(self) -> None:
        """Left alone it answers every batch once and serves what it was told to."""
        if not hasattr(self, "worker"):
            return
        while self.running or self.loading:
            if self.running:
                self.finish(10)
            if self.loading:
                self.load("")
        assert not self.open, "a batch was never answered"
        assert self.worker.serving == self.target


@pytest.mark.parametrize(("swap", "memory_mb"), [("break", inf), ("make", inf), ("make", 5.0)])
def test_every_batch_is_answered_once_and_the_last_assignment_is_reached(swap: Swap, memory_mb: float) -> None:
    machine: type[Any] = type(f"Worker_{swap}_{memory_mb}", (WorkerMachine,), {"swap": swap, "memory_mb": memory_mb})
    run_state_machine_as_test(
        machine,
        settings=settings(
            derandomize=True, deadline=None, max_examples=120, stateful_step_count=40,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )  # fmt: skip
