"""Measurements in service against the profile: what counts as drift, what the router does about it, and who is told."""

from __future__ import annotations

from itertools import cycle, islice

import pytest

from loki_rl.core.effects import Send
from loki_rl.core.messages import CONTROLLER, Backlog, Begin, Drifted, Restarted, Result, Tick, router
from loki_rl.core.plan import Drift
from loki_rl.core.router import HUNG_S, LIFE_BITS, Router
from loki_rl.core.routing.pull_router import PullRouter
from loki_rl.core.servers.drift import WINDOW, Gauge
from loki_rl.core.servers.slowdown import LEAST, TOLERANCE
from tests.core.fork import FIND, FINE, MS, READ, ROUGH, batches, items, make, ready, settled

# In turn, around 1.
NOISE = (0.9, 1.1, 0.95, 1.05)
# Of a batch of one by `fine`, as profiled: 20 ms, and 40 ms in the tail.
MEAN_S = (0.97 * 20 + 0.03 * 40) * MS


def count(gauge: Gauge, mean: float, windows: int = 1) -> bool:
    """Whether windows of noisy samples around a mean have changed what is believed."""
    changes = [gauge.add(mean * noise) for noise in islice(cycle(NOISE), windows * WINDOW)]
    return any(changes)


def test_a_gauge_believes_its_value_until_two_windows_contradict_it() -> None:
    gauge = Gauge(1.0)
    assert not count(gauge, 1.05, 4), "not worth a plan"
    assert not count(gauge, 1.5)
    assert not count(gauge, 1.0), "it was a disturbance"
    assert not count(gauge, 1.5)
    assert not count(gauge, 0.6), "and this another"
    assert not count(gauge, 1.0)
    assert count(gauge, 1.5, 2)
    assert gauge.value == 1.5
    assert not count(gauge, 1.5, 4)
    assert count(gauge, 1.0, 2)
    assert gauge.value == 1.0


def test_a_window_as_noisy_as_it_is_off_proves_nothing() -> None:
    gauge = Gauge(1.0)
    for sample in islice(cycle((0.0, 0.0, 0.0, 5.0)), 4 * WINDOW):
        assert not gauge.add(sample)


def serve(
    actor: Router,
    times: int,
    seconds: float,
    fanout: tuple[int, int],
    variant: int = FINE,
    begin: float = 0.0,
    each: float = 0.5,
) -> None:
    """Batches of one by worker 0, each of them this long, one each half second."""
    for number in range(times):
        now = begin + each * number
        serial = actor.batches % (1 << LIFE_BITS) + 1
        actor.handle(ready(0, variant, batch=1, serial=serial), now)
        batch = batches(actor.handle(items(serial, t0=now), now))["worker:0"]
        actor.handle(Result(0, 0, batch.batch, batch.variant, [fanout], seconds, ""), now)


def backlog(actor: Router) -> Backlog:
    """What the controller is told."""
    actor.handle(Begin(0.0), 0.0)
    (told,) = [e.message for e in actor.handle(Tick(), 1.0) if isinstance(e, Send) and e.to == CONTROLLER]
    assert isinstance(told, Backlog)
    return told


def test_a_router_tells_what_drifts_and_counts_on_it() -> None:
    actor = make(FIND)
    serve(actor, 2 * WINDOW, MEAN_S, (1, 1))
    assert backlog(actor).drift == [Drift("find", "fine", "", 1.0, {"read": 1.0, "sort": 1.0})]
    assert backlog(actor).levels == {"": 1.0}
    serve(actor, LEAST, 2 * MEAN_S, (1, 1), begin=40.0)
    drift, other = sorted(backlog(actor).drift, key=lambda one: one.variant)
    assert other == Drift("find", "rough", "", drift.slowdown, {"read": 2.0, "sort": 1.0}), "taken to be as slow"
    assert drift.slowdown == pytest.approx(2.0, rel=TOLERANCE)
    assert backlog(actor).levels == {"": drift.slowdown}
    actor.handle(ready(1, FINE, batch=1), 50.0)
    (given,) = batches(actor.handle(items(10_000, t0=50.0), 50.0)).values()
    assert given.slowdown == drift.slowdown
    assert actor.pullers.all[1].times[1] == pytest.approx(20 * MS * drift.slowdown)
    assert actor.leases.next_expiry == pytest.approx(50.0 + actor.options.lease * 40 * MS * drift.slowdown + HUNG_S)
    assert actor.times.of[0][ROUGH][1] == pytest.approx(5 * MS * drift.slowdown)


def test_what_is_again_as_profiled_is_told_no_more() -> None:
    actor = make(FIND)
    serve(actor, LEAST, 2 * MEAN_S, (2, 1))
    assert backlog(actor).drift
    serve(actor, 2 * LEAST, MEAN_S, (2, 1), begin=10.0)
    assert backlog(actor).drift == []
    assert actor.times.of[0][FINE][1] == pytest.approx(20 * MS)


def test_a_task_that_is_faster_than_profiled_drops_less() -> None:
    """The tasks behind it may be as fast: the time that is kept for them shrinks; where it is slower it does not grow."""
    actor = make(FIND)
    former = actor.after_s
    serve(actor, LEAST, 2 * MEAN_S, (2, 1))
    assert actor.after_s == former
    serve(actor, 3 * LEAST, MEAN_S / 2, (2, 1), begin=10.0)
    assert actor.after_s == pytest.approx(former / 2, rel=TOLERANCE)


def test_what_was_measured_is_believed_whatever_the_others_do() -> None:
    """Beside each other one is as profiled and the other is not: it is no host that slows both."""
    actor = make(FIND)
    for second in range(2 * LEAST):
        serve(actor, 1, 5.15 * MS, (2, 1), ROUGH, begin=second)
        serve(actor, 1, 2 * MEAN_S, (2, 1), begin=second + 0.5)
    assert [drift.variant for drift in backlog(actor).drift] == ["fine"]
    assert backlog(actor).levels[""] == pytest.approx(2**0.5, rel=TOLERANCE)


def test_what_was_measured_before_the_host_changed_moves_along() -> None:
    """Plans flee from what is slow to what is not, and come back only if they hear that it is over."""
    actor = make(FIND)
    serve(actor, 2 * LEAST, 2 * MEAN_S, (2, 1))
    serve(actor, 2 * LEAST, 2 * 5.15 * MS, (2, 1), ROUGH, begin=10.0)
    assert len(backlog(actor).drift) == 2
    serve(actor, 2 * LEAST, 5.15 * MS, (2, 1), ROUGH, begin=20.0)
    assert backlog(actor).drift == []


def test_what_was_measured_with_nothing_before_moves_nobody_who_was() -> None:
    """Whether the host or the model is slow, nobody knows."""
    actor = make(FIND)
    serve(actor, 2 * LEAST, 5.15 * MS, (2, 1), ROUGH)
    serve(actor, LEAST, 2 * MEAN_S, (2, 1), begin=20.0)
    assert [drift.variant for drift in backlog(actor).drift] == ["fine"]


def test_results_too_late_for_their_lease_are_measured_all_the_same() -> None:
    actor = make(READ)
    for number in range(LEAST):
        actor.handle(ready(0, FINE, batch=1, serial=number + 1), number)
        batch = batches(actor.handle(items(number + 1, t0=number), number))["worker:0"]
        actor.handle(Tick(), actor.leases.next_expiry)
        assert not actor.leases.all
        assert settled(actor.handle(Result(0, 0, batch.batch, FINE, [], 0.206, ""), number + 0.5)) == []
    assert [drift.slowdown for drift in backlog(actor).drift] == [pytest.approx(10.0, rel=0.05)] * 2


def test_failed_batches_and_those_nobody_gave_measure_nothing() -> None:
    actor = make(READ)
    for number in range(2 * LEAST):
        actor.handle(ready(0, FINE, batch=1, serial=number + 1), number)
        batch = batches(actor.handle(items(number + 1, t0=number), number))["worker:0"]
        actor.handle(Result(0, 0, batch.batch, FINE, [], 0.2, "out of memory"), number)
        actor.handle(Result(0, 0, batch.batch, FINE, [], 0.2, ""), number)
    assert backlog(actor).drift == []


def test_a_router_that_begins_anew_goes_on_from_what_was_found() -> None:
    former = make(FIND)
    serve(former, 2 * WINDOW, 2 * MEAN_S, (1, 1))
    found = backlog(former).drift
    actor = PullRouter(former.options, FIND, 1)
    actor.handle(Drifted(found), 0.0)
    assert actor.times.of == former.times.of
    assert [effect for effect in actor.handle(Tick(), 0.0) if isinstance(effect, Send) and effect.to == CONTROLLER] == [
        Send(CONTROLLER, Restarted(router(FIND)))
    ]
    actor.handle(Begin(0.0), 0.0)
    assert backlog(actor).drift == found
    serve(actor, 2 * LEAST, MEAN_S, (2, 1), begin=50.0)
    assert [drift.variant for drift in backlog(actor).drift if drift.slowdown != 1.0] == []
