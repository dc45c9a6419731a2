"""The router as a state machine: whatever is told to it in whatever order, every item ends exactly once."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from loki_rl.core.cluster import build
from loki_rl.core.effects import Drop, Effect, Kill, Send
from loki_rl.core.messages import (
    CONTROLLER,
    GATEWAY,
    Backlog,
    Begin,
    Cancelled,
    Ended,
    Event,
    Execute,
    Leaving,
    Outcome,
    PlanChanged,
    Pressure,
    Ready,
    Result,
    Submit,
    Tick,
    WorkerGone,
    router,
)
from loki_rl.core.options import DROPS, ClusterOptions, DropPolicy, Routing
from loki_rl.core.pipeline import root_of
from loki_rl.core.requests.items import Family, members, size
from loki_rl.core.router import RETURNED, Router
from loki_rl.core.routing.leases import Lease
from loki_rl.core.routing.pull_router import PullRouter
from loki_rl.core.routing.queue import Entry
from loki_rl.core.routing.table_router import TableRouter
from tests.core.deep_pipeline import MS, PIPELINE, plan

WORKERS = 4


class RouterMachine(RuleBasedStateMachine):
    """Beside the router: what its items, credits and batches should be."""

    drop: DropPolicy
    routing: Routing

    @initialize(task=st.sampled_from(range(len(PIPELINE.tasks))))
    def start(self, task: int) -> None:
        self.task = task
        options = ClusterOptions(PIPELINE, WORKERS, drop=self.drop, routing=self.routing)
        built = build(router(task), options)
        assert isinstance(built, Router)
        self.router = built
        self.children = PIPELINE.children[task]
        self.now = 100.0
        self.sent: dict[int, Family] = {}  # by parent
        self.submitted: set[int] = set()
        self.stamps: dict[int, tuple[float, float]] = {}
        self.ended: dict[int, Outcome] = {}
        self.cancelled: set[int] = set()
        self.forwarded: set[int] = set()
        self.suspects: set[int] = set()  # were lost with a worker, or with one that is overdue
        self.made: set[int] = set()
        self.incarnations = [0] * WORKERS
        self.serials = [0] * WORKERS  # of the last credit given
        self.used = [0] * WORKERS  # of the last credit that got a batch
        self.ended_now: set[int] = set()
        self.credits: dict[int, Ready] = {}
        self.pulling: set[int] = set()
        self.batches: dict[int, tuple[int, int, Execute]] = {}  # in workers' hands, lost ones too
        self.results: list[Result] = []
        self.pressed: set[int] = set()
        self.pressing = False
        self.tell(Begin(self.now))

    # -- what can be told ---------------------------------------------------------------------------------------------

    @rule(
        parents=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), min_size=1, max_size=3),
        count=st.integers(1, 5),
        age=st.integers(0, 60),
        timeout=st.sampled_from([0.1, 0.1, 0.02, 5.0]),
        path=st.lists(st.integers(0, 1), min_size=2, max_size=2),
    )
    def submit(self, parents: list[tuple[int, int]], count: int, age: int, timeout: float, path: list[int]) -> None:
        """Repeats too, of any family that has not ended as a whole. A request makes one family of an entry task, items of
        it or of its children more."""
        t0 = self.now - age * MS
        prefix = 0
        for variant in path[: len(PIPELINE.lines[self.task]) - 1]:
            prefix = PIPELINE.extend(prefix, variant)
        families = []
        for root, number in parents:
            first = self.first(root, number)
            family = self.sent.setdefault(first, Family(first, t0, t0 + timeout, prefix, None, count))
            siblings = PIPELINE.members(self.task, first, family.count)
            if not self.ended.keys() >= set(siblings):
                families.append(family)
                self.submitted |= set(siblings)
        self.tell(Submit(families))

    def first(self, root: int, number: int) -> int:
        """The first item of this task that a request or the number-th item above made."""
        above = PIPELINE.lines[self.task][:-1]
        if not above:
            return PIPELINE.entry_id(root, 0)
        item = PIPELINE.entry_id(root, number)
        for task in (*above[1:], self.task):
            item = PIPELINE.child_id(item, task, 0)
        return item

    @rule(number=st.integers(0, WORKERS - 1), variant=st.integers(0, 1), batch=st.integers(1, 6), repeat=st.booleans())
    def credit(self, number: int, variant: int, batch: int, repeat: bool) -> None:
        """A repeat takes the place of a credit that is open, and is nothing if that one is used."""
        self.serials[number] += not (repeat and number in self.pulling)
        ready = Ready(number, self.incarnations[number], self.serials[number], variant, batch)
        if ready.serial > self.used[number]:
            self.credits[number] = ready
            self.pulling.add(number)
        self.tell(ready)

    @precondition(lambda self: self.batches)
    @rule(data=st.data(), error=st.sampled_from(["", "", "", "out of memory", RETURNED]))
    def result(self, data: st.DataObject, error: str) -> None:
        number = data.draw(st.sampled_from(sorted(self.batches)))
        worker, incarnation, batch = self.batches.pop(number)
        counts = st.tuples(*(st.integers(0, 3) for _ in self.children))
        fanouts = [data.draw(counts) for _ in range(size(batch.families))] if self.children and not error else []
        self.results.append(Result(worker, incarnation, number, batch.variant, fanouts, 0.01, error))
        self.tell(self.results[-1])

    @precondition(lambda self: self.results)
    @rule(data=st.data())
    def late_repeat(self, data: st.DataObject) -> None:
        """A result that has been handled, of this life of the worker or of a former one."""
        before = dict(self.ended)
        self.tell(data.draw(st.sampled_from(self.results)))
        assert {item for item in self.ended if item not in before} <= self.dropped_now

    @rule(number=st.integers(0, WORKERS - 1))
    def leave(self, number: int) -> None:
        self.credits.pop(number, None)
        self.pulling.discard(number)
        self.tell(Leaving(number, self.incarnations[number]))

    @rule(number=st.integers(0, WORKERS - 1))
    def lose(self, number: int) -> None:
        self.credits.pop(number, None)
        self.pulling.discard(number)
        before = set(self.ended)
        mine = [lease for lease in self.router.leases.all.values() if lease.worker == number]
        ran = mine[0].families if mine and mine[0].again else []
        self.tell(WorkerGone(number, "killed"))
        failed = {item for item in self.ended if item not in before and self.ended[item] is Outcome.FAILED}
        assert failed == set(self.items(ran)), "an item fails when it is lost a second time"
        self.incarnations[number] += 1
        self.serials[number] = self.used[number] = 0

    @rule(roots=st.lists(st.integers(0, 5), min_size=1, max_size=3))
    def cancel(self, roots: list[int]) -> None:
        self.cancelled |= {item for item in self.waiting() if root_of(item) in roots}
        self.tell(Cancelled(roots))

    @rule(split=st.sampled_from([0.2, 0.6, 0.9]), rate=st.sampled_from([1.0, 50.0]), sparing=st.booleans())
    def adopt(self, split: float, rate: float, sparing: bool) -> None:
        self.tell(PlanChanged(plan(split, rate, sparing)))

    @precondition(lambda self: self.children)
    @rule(overloaded=st.booleans())
    def press(self, overloaded: bool) -> None:
        child = self.children[0]
        (self.pressed.add if overloaded else self.pressed.discard)(child)
        self.tell(Pressure(child, overloaded))

    @rule(ms=st.sampled_from([0, 1, 7, 40, 400, 3000]))
    def pass_time(self, ms: int) -> None:
        """A driver ticks at every time the router asked for on the way."""
        end = self.now + ms * MS
        for _ in range(1000):
            wake = self.router.wake_at()
            assert wake is not None, "a second is always ahead"
            if wake > end:
                break
            self.now = max(self.now, wake)
            self.tell(Tick())
        else:
            pytest.fail("the router asks for Ticks without end")
        self.now = end

    def waiting(self) -> set[int]:
        queues = self.router.queues()
        return set(self.items([entry.family for queue in queues for lane in queue.lanes for entry in lane]))

    def items(self, families: list[Family]) -> list[int]:
        return members(PIPELINE, self.task, families)

    def entries(self) -> list[Entry]:
        """All that the router has."""
        held = [entry for lease in self.router.leases.all.values() for entry in lease.entries]
        return held + [entry for queue in self.router.queues() for lane in queue.lanes for entry in lane]

    # -- what must come of it -----------------------------------------------------------------------------------------

    def tell(self, event: Event) -> None:
        self.dropped_now: set[int] = set()
        dropped = []
        if isinstance(event, WorkerGone | Tick):
            self.suspect(event)
        for effect in self.router.handle(event, self.now):
            if isinstance(effect, Drop):
                dropped += self.items(effect.families)
            else:
                self.see(effect)
        assert len(set(dropped)) == len(dropped), "a payload is let go twice"
        assert set(dropped) == self.ended_now, "payloads are kept exactly until their item ends"
        assert self.forwarded == self.made, "what is handed on is what the gateway is told of"
        self.ended_now = set()

    def suspect(self, event: WorkerGone | Tick) -> None:
        """The batches that workers run when they are lost, or when theirs are overdue."""
        leases: dict[int, list[Lease]] = {}
        for lease in self.router.leases.all.values():
            leases.setdefault(lease.worker, []).append(lease)
        for number, mine in leases.items():
            late = any(lease.expiry <= self.now for lease in mine)
            if late if isinstance(event, Tick) else number == event.worker:
                self.suspects |= set(self.items(mine[0].families))

    def see(self, effect: Effect) -> None:
        if isinstance(effect, Kill):
            assert self.incarnations[effect.worker] >= effect.incarnation
            return
        assert isinstance(effect, Send)
        match effect.message:
            case Execute():
                assert effect.to.startswith("worker:")
                self.check_batch(int(effect.to.split(":")[1]), effect.message)
            case Ended():
                assert effect.to == GATEWAY
                self.check_settled(effect.message)
            case Submit(families):
                self.check_children(effect.to, families)
            case Pressure(task, overloaded):
                assert effect.to == router(PIPELINE.parents[self.task])
                assert (task, overloaded) == (self.task, not self.pressing), "only changes are told"
                self.pressing = overloaded
            case Backlog(task, queued):
                assert (effect.to, task, queued) == (CONTROLLER, self.task, len(self.waiting()))
            case _:
                pytest.fail(f"a router does not send {effect.message}")

    def check_batch(self, number: int, batch: Execute) -> None:
        ready = self.credits.pop(number)
        self.used[number] = ready.serial
        assert batch.variant == ready.variant
        assert 1 <= size(batch.families) <= min(ready.batch, 4)
        order = [entry[:2] for entry in self.router.leases.all[batch.batch].entries]
        assert order == sorted(order), "not by deadline"
        assert batch.batch % len(PIPELINE.tasks) == self.task
        self.batches[batch.batch] = number, ready.incarnation, batch
        ids = self.items(batch.families)
        again = self.router.leases.all[batch.batch].again
        assert again == any(item in self.suspects for item in ids), "what was lost is known as that"
        assert len(ids) == 1 or not again, "what was lost goes out alone"

    def check_settled(self, settled: Ended) -> None:
        assert settled.task == self.task
        ids = self.items(settled.families)
        for place, item in enumerate(ids):
            assert item not in self.ended, "an item ended twice"
            self.ended[item] = settled.outcome
            self.ended_now.add(item)
            if settled.outcome is Outcome.OK and self.children:
                made = range(sum(settled.fanouts[place]))
                self.made |= {PIPELINE.child_id(item, self.children[0], number) for number in made}
        if settled.outcome is Outcome.DROPPED:
            self.dropped_now |= set(ids)
            assert self.drop != "none"
            assert self.drop != "last-task" or not self.children
        if settled.outcome is Outcome.CANCELLED:
            assert set(ids) <= self.cancelled

    def check_children(self, to: str, families: list[Family]) -> None:
        assert to in {router(child) for child in self.children}
        for family in families:
            for item in PIPELINE.members(self.children[0], family.id, family.count):
                assert item not in self.forwarded, "a child is handed on twice"
                self.forwarded.add(item)

    @invariant()
    def every_item_is_in_one_place(self) -> None:
        if not hasattr(self, "router"):
            return
        self.router.validate()
        here = set(self.items([entry.family for entry in self.entries()]))
        assert here | self.ended.keys() == self.submitted
        assert not here & self.ended.keys()

    @invariant()
    def a_stamped_deadline_never_moves(self) -> None:
        if hasattr(self, "router"):
            for soft, _, hard, family, _ in self.entries():
                for item in self.items([family]):
                    assert self.stamps.setdefault(item, (soft, hard)) == (soft, hard)

    @invariant()
    def nothing_waits_while_an_able_worker_idles(self) -> None:
        """Where each worker has a queue of its own: nothing waits in that of an idle one, and all is dealt. Where some stand
        by: the router will look again."""
        if not hasattr(self, "router") or self.drop != "none" or self.pressed:
            return
        idle = self.router.pullers.idle
        if isinstance(self.router, TableRouter):
            assert not [number for number in idle if self.router.dealt[number].waiting]
            assert not self.router.pullers.all or not self.router.queue.waiting
        else:
            assert isinstance(self.router, PullRouter)
            standing = self.router.standby.among(self.router.pullers)
            able = [puller for puller in idle.values() if puller.variant not in standing]
            assert not able or not self.router.queue.waiting
            assert not idle or not self.router.queue.waiting or self.now < self.router.due_at < inf
        assert not idle or not self.router.again.waiting

    def teardown(self) -> None:
        """Nobody pulls any more and all time passes: only where nothing may be dropped does anything stay."""
        if not hasattr(self, "router"):
            return
        for number in range(WORKERS):
            self.lose(number)
        self.pass_time(10_000)
        left = self.waiting()
        assert self.ended.keys() | left == self.submitted
        assert not left or not self.router.early_drop


@pytest.mark.parametrize(
    ("policy", "routing"), [*((drop, "pull") for drop in DROPS), ("none", "table"), ("reroute", "table")]
)
def test_every_item_ends_exactly_once(policy: DropPolicy, routing: Routing) -> None:
    machine: type[Any] = type(f"Router_{policy}_{routing}", (RouterMachine,), {"drop": policy, "routing": routing})
    run_state_machine_as_test(
        machine,
        settings=settings(
            derandomize=True, deadline=None, max_examples=120, stateful_step_count=40,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )  # fmt: skip
