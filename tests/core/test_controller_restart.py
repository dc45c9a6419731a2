"""A controller that was killed takes the running cluster over: it moves no server, plans when it knows who is there, and
tells others what they have lost."""

from __future__ import annotations

from math import inf

from msgspec.structs import replace

from loki_rl.core.controller import ADOPT_S, ALONE_S, COUNTED_S, Controller
from loki_rl.core.effects import Effect, Send, Solve
from loki_rl.core.messages import (
    CONTROLLER,
    GATEWAY,
    Backlog,
    Begin,
    Drifted,
    PlanChanged,
    Planned,
    Restarted,
    Resume,
    Sample,
    Tick,
    WorkerGone,
    router,
)
from loki_rl.core.options import ClusterOptions
from loki_rl.core.plan import Drift
from tests.core.controlled import PIPELINE, Cluster, orders, plan

IN_FORCE = replace(plan(f0=1, r1=2), epoch=7)
NOW = 43.5  # of a run that began at 0, with a plan each 10 s


class Reborn(Cluster):
    """A later life: nothing is known, and time goes on."""

    def __init__(self, servers: int = 3) -> None:
        super().__init__(servers)
        self.controller = Controller(ClusterOptions(PIPELINE, servers), 1)
        self.loads = [4] * servers
        assert self.controller.wake_at() == -inf
        told = self.tell(Tick(), NOW)
        assert told == [Send(to, Restarted(CONTROLLER)) for to in (GATEWAY, *(f"worker:{n}" for n in range(servers)))]

    def resume(self, now: float = NOW) -> list[Effect]:
        return self.tell(Resume(0.0, 43, [5] * 43, IN_FORCE), now)


def asked(effects: list[Effect]) -> Solve | None:
    return next((effect for effect in effects if isinstance(effect, Solve)), None)


def test_it_goes_on_where_the_gateway_says_and_moves_nobody_that_does_what_the_plan_says() -> None:
    cluster = Reborn()
    assert cluster.resume() == []
    for number, name in enumerate(("f0", "r1", "r1")):
        assert orders(cluster.report(number, serves=name)) == {}
    controller = cluster.controller
    assert controller.converged
    assert (controller.plan, controller.epoch, len(controller.history.arrivals)) == (IN_FORCE, 7, 43)
    assert controller.wake_at() == 44.0, "the next second"
    (sample,) = [effect.message for effect in cluster.tell(Tick(), 44.0) if isinstance(effect, Send)]
    assert sample == Sample(43, 3, 0), "loads of before are counted"
    question = asked(cluster.tell(Tick(), 50.0 + COUNTED_S))
    assert question is not None
    assert (question.snapshot.arrivals, len(question.snapshot.servers)) == ((5,) * 43, 3)
    told = [effect.message for effect in cluster.tell(Planned(plan(f0=1, r1=2))) if isinstance(effect, Send)]
    assert {message.plan.epoch for message in told if isinstance(message, PlanChanged)} == {8}


def test_a_server_whose_word_was_lost_is_told_again() -> None:
    cluster = Reborn()
    cluster.resume()
    cluster.report(0, serves="f0")
    cluster.report(1, serves="r1")
    assert orders(cluster.report(2, serves="r0")) == {2: "r1"}


def test_servers_that_do_not_report_are_planned_without_after_a_while() -> None:
    cluster = Reborn()
    cluster.resume()
    cluster.report(0, serves="f0")
    assert cluster.controller.wake_at() == NOW + ADOPT_S
    assert asked(cluster.tell(Tick(), NOW + ADOPT_S)) is None
    question = asked(cluster.tell(Tick(), NOW + ADOPT_S))
    assert question is not None
    assert [server.id for server in question.snapshot.servers] == [0]


def test_without_a_gateway_it_plans_for_who_is_there() -> None:
    cluster = Reborn()
    for number, name in enumerate(("f0", "r1", "r1")):
        assert asked(cluster.report(number, serves=name)) is None
    assert cluster.controller.wake_at() == NOW + ALONE_S
    cluster.tell(WorkerGone(2, "killed"))
    cluster.tell(Tick(), NOW + ALONE_S)
    assert asked(cluster.tell(Tick(), NOW + ALONE_S)) is not None


def test_a_gateway_that_begins_anew_is_told_what_is_newer_than_its_memory() -> None:
    cluster = Reborn()
    assert cluster.tell(Restarted(GATEWAY)) == [Send(GATEWAY, Restarted(CONTROLLER))], "that one knows more"
    cluster.resume()
    for number, name in enumerate(("f0", "r1", "r1")):
        cluster.report(number, serves=name)
    assert cluster.tell(Restarted(GATEWAY)) == [Send(GATEWAY, Begin(0.0)), Send(GATEWAY, PlanChanged(IN_FORCE))]


def test_a_router_that_begins_anew_is_told_what_drifts_there() -> None:
    cluster = Cluster(3)
    cluster.serve(plan(f0=1, r1=2), "f0", "r1", "r1")
    assert cluster.tell(Restarted(router(1))) == []
    drift = [Drift("read", "r1", "", 5.0, {})]
    cluster.tell(Backlog(1, 0, 0.0, 0, drift), 1.5)
    assert cluster.tell(Restarted(router(1))) == [Send(router(1), Drifted(drift))]
