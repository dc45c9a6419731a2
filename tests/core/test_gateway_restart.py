"""A gateway that was killed goes on where it stood when that was last written down: nothing is counted twice or lost, and no
number means two requests."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from loki_rl.core.effects import Effect, Send
from loki_rl.core.gateway import Gateway
from loki_rl.core.messages import (
    CONTROLLER,
    GATEWAY,
    Begin,
    Counted,
    Drain,
    Message,
    Outcome,
    PlanChanged,
    Restarted,
    Restored,
    Sample,
    Submit,
    Tick,
    router,
)
from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import ROOT_BITS, root_of
from loki_rl.core.plan import Plan
from loki_rl.core.requests.ledger import Tally
from loki_rl.core.requests.open_requests import LIFE_ROOTS
from tests.core.gateway_events import CHAIN, SLO, arrive, first, leaf, lost, make, replies

PLAN = Plan("hardware", (), 0, 1.0, 1.0, 1.0, 1.0, {}, {}, epoch=3)


def snapshot(gateway: Gateway) -> Restored:
    """What the gateway's process writes down of it."""
    return Restored(
        gateway.seconds.origin,
        round(gateway.seconds.next - gateway.seconds.origin) - 1,
        gateway.arrived,
        gateway.next_root,
        gateway.draining,
        msgspec.msgpack.encode(gateway.tally),
    )


def reborn(incarnation: int = 1) -> Gateway:
    return Gateway(ClusterOptions(CHAIN, 1), incarnation)


def sent(effects: list[Effect]) -> list[tuple[str, Message]]:
    return [(effect.to, effect.message) for effect in effects if isinstance(effect, Send)]


def roots(effects: list[Effect]) -> list[int]:
    submits = [message for _, message in sent(effects) if isinstance(message, Submit)]
    return [root_of(family.id) for submit in submits for family in submit.families]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.integers(1, 4)),
        st.tuples(st.just("end"), st.integers(0, 9)),
        st.tuples(st.just("lose"), st.integers(0, 9)),
        st.tuples(st.just("wait"), st.integers(1, 9)),
        st.tuples(st.just("drain"), st.just(0)),
    ),
    max_size=40,
)


class Life:
    """A gateway that is told what may happen; every answer is noted."""

    def __init__(self, gateway: Gateway, key: int, now: float) -> None:
        self.gateway = gateway
        self.key = key
        self.now = now
        self.arrived = 0
        self.answered: list[int] = []

    def step(self, what: str, how: int) -> None:
        gateway, open = self.gateway, list(self.gateway.roots)
        effects: list[Effect] = []
        if what == "arrive":
            keys = range(self.key, self.key + how)
            self.key, self.arrived = self.key + how, self.arrived + how
            effects = arrive(gateway, *keys, now=self.now)
        elif what == "wait":
            self.now += how / 5
            effects = gateway.handle(Tick(), self.now)
        elif what == "drain":
            gateway.handle(Drain(), self.now)
        elif open:
            root = open[how % len(open)]
            effects = gateway.handle(first(root, 0) if what == "end" else lost(0, [CHAIN.entry_id(root, 0)]), self.now)
        self.answered += [reply.key for reply in replies(effects)]
        gateway.validate()


@settings(derandomize=True, deadline=None, max_examples=200)
@given(STEPS, STEPS, STEPS)
def test_whenever_it_was_written_down_everything_adds_up(
    before: list[tuple[str, int]], lost: list[tuple[str, int]], after: list[tuple[str, int]]
) -> None:
    """What happens between the snapshot and the death is not known afterwards."""
    former = Life(make(), 0, 0.0)
    for step in before:
        former.step(*step)
    written, known = snapshot(former.gateway), former.gateway.tally.arrivals
    in_flight, numbers = len(former.gateway.by_key), former.gateway.next_root
    for step in lost:
        former.step(*step)
    held = set(former.gateway.roots)

    later = Life(reborn(), 1000, former.now + 0.4)
    assert sent(later.gateway.handle(written, later.now))[:3] == [
        (address, Restarted(GATEWAY)) for address in (CONTROLLER, router(0), router(1))
    ]
    later.gateway.validate()
    tally = later.gateway.tally
    assert tally.arrivals == known == sum(map(tally.outcome, Outcome))
    assert tally.outcome(Outcome.FAILED) == in_flight
    assert later.gateway.next_root == numbers + LIFE_ROOTS
    for root in held:
        assert replies(later.gateway.handle(leaf(root), later.now)) == [], "of nobody that is known here"
    for step in after:
        later.step(*step)
        assert not held & later.gateway.roots.keys()
    later.step("wait", 9)
    assert not later.gateway.by_key
    assert len(later.answered) == len(set(later.answered)) == later.arrived
    assert min(later.answered, default=1000) >= 1000, "no answer to a request of the former life"
    assert tally.arrivals == known + later.arrived == sum(map(tally.outcome, Outcome))


def test_the_others_hear_of_it_before_anything_else_also_without_a_snapshot() -> None:
    gateway = reborn(2)
    effects = arrive(gateway, 1, now=100.5)
    told = [message for _, message in sent(effects)]
    assert told[:3] == [Restarted(GATEWAY)] * 3
    assert [type(message) for message in told[3:]] == [Submit]
    assert roots(effects) == [2 * LIFE_ROOTS]
    assert Restarted(GATEWAY) not in [message for _, message in sent(gateway.handle(Tick(), 101.0))]


def test_a_first_life_has_nothing_to_tell() -> None:
    assert sent(make().handle(Tick(), 0.1)) == []


def test_without_a_snapshot_it_begins_with_what_the_controller_tells() -> None:
    gateway = reborn()
    gateway.handle(Tick(), 1000.1)
    gateway.handle(PlanChanged(PLAN), 1000.2)
    gateway.handle(Begin(998.0), 1000.2)
    assert [(record.time, record.plan) for record in gateway.tally.plans] == [(0.0, PLAN)]
    arrive(gateway, 1, now=1000.3)
    assert list(gateway.tally.seconds) == [2]
    counted = [message for _, message in sent(gateway.handle(Tick(), 1001.0)) if isinstance(message, Counted)]
    assert counted == [Counted(2, 1)], "not what it cannot know"


def test_what_the_others_tell_it_again_changes_nothing() -> None:
    former = make()
    former.handle(PlanChanged(PLAN), 0.5)
    arrive(former, 1, now=0.7)
    gateway = reborn()
    gateway.handle(snapshot(former), 1.2)
    gateway.handle(PlanChanged(PLAN), 1.3)
    gateway.handle(Begin(0.0), 1.3)
    gateway.handle(Sample(0, 4, 2), 1.3)
    assert [(record.time, record.plan.epoch) for record in gateway.tally.plans] == [(0.5, 3)]
    assert (gateway.tally.arrivals, gateway.tally.seconds[0].servers) == (1, 4)
    gateway.handle(PlanChanged(msgspec.structs.replace(PLAN, epoch=4)), 1.4)
    gateway.handle(Begin(1.5), 1.5)
    assert [(record.time, record.plan.epoch) for record in gateway.tally.plans] == [(0.0, 4)]
    assert gateway.tally.arrivals == 0, "another run"


def test_seconds_that_nobody_reported_are_reported() -> None:
    """The second of the snapshot with what had arrived by then, those since as quiet."""
    former = make()
    arrive(former, 1, 2, now=5.3)
    gateway = reborn()
    told = sent(gateway.handle(snapshot(former), 7.9))
    assert told[3:] == [(CONTROLLER, Counted(5, 2)), (CONTROLLER, Counted(6, 0))]
    assert gateway.wake_at() == 8.0


def test_what_arrives_before_the_run_is_known_is_counted_in_it() -> None:
    """Killed before anything was written down; clients are served before the controller tells which run it is."""
    gateway = reborn()
    (root,) = roots(arrive(gateway, 1, now=61_000.4))
    gateway.handle(Begin(60_998.9), 61_000.5)
    gateway.handle(PlanChanged(PLAN), 61_000.5)
    assert (gateway.tally.arrivals, min(gateway.tally.seconds)) == (1, 2)
    gateway.handle(first(root, 0), 61_000.5)
    gateway.validate()
    assert gateway.tally.outcome(Outcome.OK) == 1
    assert gateway.wake_at() == 61_000.9
    gateway.handle(Begin(61_000.7), 61_000.7)
    assert gateway.tally.arrivals == 0, "another run"


def test_draining_goes_on() -> None:
    former = make()
    former.handle(Drain(), 0.5)
    gateway = reborn()
    gateway.handle(snapshot(former), 1.0)
    assert [reply.outcome for reply in replies(arrive(gateway, 1, now=1.1))] == [Outcome.REJECTED]


def test_numbers_go_round_and_a_new_run_begins_with_those_of_this_life() -> None:
    former = make()
    former.next_root = (1 << ROOT_BITS) - 5
    gateway = reborn()
    gateway.handle(snapshot(former), 1.0)
    base = LIFE_ROOTS - 5
    for origin in (10.0, 20.0):
        gateway.handle(Begin(origin), origin)
        assert roots(arrive(gateway, 1, now=origin)) == [base]
        gateway.handle(first(base, 0), origin + SLO / 2)
    assert gateway.tally == msgspec.msgpack.decode(msgspec.msgpack.encode(gateway.tally), type=Tally)
