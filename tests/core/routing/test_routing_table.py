"""Routing tables as published: the most accurate servers are filled first, paths from the best to the worst."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loki_rl.core.draws import DEAL, uniform
from loki_rl.core.effects import Send
from loki_rl.core.messages import Begin, Execute, Leaving, PlanChanged, Ready, Submit, worker
from loki_rl.core.options import ClusterOptions, DropPolicy
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.core.plan import Placement, Plan
from loki_rl.core.requests.items import Family, Terms
from loki_rl.core.routing.routing_table import RoutingTable, Seat, coming, fill
from loki_rl.core.routing.table_router import TableRouter

FIND, READ = 0, 1
QUICK, SURE = 0, 1


def variant(name: str, accuracy: float, ms: float, children: float | None = None) -> Variant:
    row = Latency(ms / 1000, ms / 1000, ms / 1000)
    return Variant(name, accuracy, {1: row}, {} if children is None else {"read": children})


PIPELINE = Pipeline(
    "small",
    0.2,
    (
        Task("find", (variant("quick", 0.8, 10, 1.0), variant("sure", 1.0, 20, 2.0)), entry=1.0),
        Task("read", (variant("quick", 0.9, 10), variant("sure", 1.0, 40)), parent="find"),
    ),
    {"read": 1.0},
    servers=8,
)


def plan(demand: float, *placed: tuple[str, str, int]) -> Plan:
    placements = tuple(Placement(task, name, 1, count) for task, name, count in placed)
    split = {"find": 0.5, "read": 1.0}
    return Plan("accuracy", placements, 8, 0.9, 1.0, demand, demand, split, {"find": {}, "read": {}})


def shares(table: RoutingTable, path: int, seats: list[Seat]) -> list[float]:
    picked = [table.pick(path, (k + 0.5) / 1000) for k in range(1000)]
    return [sum(seat == one for one in picked) / 1000 for seat in seats]


# -- the pass over a plan -------------------------------------------------------------------------------------------------


def test_demand_pours_through_the_most_accurate_servers_first() -> None:
    """find: one sure server takes 50 of 80 requests/s, a quick one the rest; each makes its variant's children."""
    rates = coming(PIPELINE, READ, plan(80.0, ("find", "quick", 1), ("find", "sure", 1), ("read", "sure", 1)))
    assert rates == {PIPELINE.extend(0, SURE): pytest.approx(100.0), PIPELINE.extend(0, QUICK): pytest.approx(30.0)}


def test_the_best_path_gets_the_best_servers_and_the_next_goes_on_where_it_stopped() -> None:
    sure, quick = Seat(0, SURE, 25.0), Seat(1, QUICK, 100.0)
    found = fill([sure, quick], {1: 10.0, 2: 40.0}, {1: 0.8, 2: 1.0}.__getitem__)
    assert found == {2: [25.0, 15.0], 1: [0.0, 10.0]}


def test_what_exceeds_all_servers_is_spread_evenly() -> None:
    assert fill([Seat(0, SURE, 25.0), Seat(1, QUICK, 100.0)], {0: 165.0}, lambda _: 1.0) == {0: [45.0, 120.0]}


@settings(deadline=None)
@given(
    st.lists(st.floats(1, 100), min_size=1, max_size=6),
    st.dictionaries(st.integers(0, 5), st.floats(0, 400), min_size=1, max_size=4),
)
def test_everything_that_comes_goes_somewhere_and_no_server_is_overfull_before_all_are(
    capacities: list[float], rates: dict[int, float]
) -> None:
    seats = [Seat(number, SURE, capacity) for number, capacity in enumerate(capacities)]
    given_to = fill(seats, rates, float)
    for path, amounts in given_to.items():
        assert sum(amounts) == pytest.approx(rates[path])
    loads = [sum(column) for column in zip(*given_to.values(), strict=True)]
    if sum(rates.values()) <= sum(capacities):
        assert all(load <= seat.capacity * (1 + 1e-9) for load, seat in zip(loads, seats, strict=True))


def test_a_table_sends_each_path_where_it_was_poured() -> None:
    seats = [Seat(3, SURE, 25.0), Seat(5, QUICK, 100.0)]
    table = RoutingTable(PIPELINE, READ, plan(40.0, ("find", "sure", 1), ("find", "quick", 1)), seats)
    assert shares(table, PIPELINE.extend(0, SURE), seats) == pytest.approx([25 / 80, 55 / 80], abs=0.002)
    # Nothing is planned by this path: by what the servers can do.
    assert shares(table, PIPELINE.extend(0, QUICK), seats) == pytest.approx([0.2, 0.8], abs=0.002)


def test_without_servers_there_is_no_place_to_go() -> None:
    assert RoutingTable(PIPELINE, READ, plan(40.0, ("find", "sure", 1)), ()).pick(0, 0.5) is None


# -- the router -----------------------------------------------------------------------------------------------------------


def make(drop: DropPolicy = "reroute") -> TableRouter:
    actor = TableRouter(ClusterOptions(PIPELINE, 8, drop=drop, routing="table"), FIND)
    actor.handle(Begin(0.0), 0.0)
    actor.handle(PlanChanged(plan(60.0, ("find", "sure", 1), ("find", "quick", 1))), 0.0)
    return actor


def item(root: int, deadline: float = 0.2, terms: Terms | None = None) -> Family:
    return Family(PIPELINE.entry_id(root, 0), 0.0, deadline, 0, terms)


def given_to(effects: Sequence[object]) -> dict[str, int]:
    """Worker -> root of the one item it got."""
    return {
        effect.to: effect.message.families[0].id >> 31
        for effect in effects
        if isinstance(effect, Send) and isinstance(effect.message, Execute)
    }


def dealt(actor: TableRouter) -> dict[int, list[int]]:
    """Worker -> roots of what waits for it."""
    return {
        number: sorted(entry.family.id >> 31 for lane in queue.lanes for entry in lane)
        for number, queue in actor.dealt.items()
    }


def test_an_item_waits_for_the_worker_it_was_dealt_to_however_idle_another_is() -> None:
    actor = make(drop="per-task")
    actor.handle(Ready(1, 0, 1, SURE, 1), 0.0)
    actor.handle(Ready(2, 0, 1, QUICK, 1), 0.0)
    # 60 of 150/s of room: 50 fill the sure worker, 10 go to the quick one.
    to_sure = [root for root in range(100) if uniform(0, item(root).id, DEAL) < 50 / 60]
    effects = actor.handle(Submit([item(root) for root in to_sure[:3]]), 0.0)
    assert given_to(effects) == {worker(1): to_sure[0]}
    assert dealt(actor) == {1: to_sure[1:3], 2: []}
    actor.validate()


def test_a_worker_that_leaves_has_its_queue_dealt_again() -> None:
    actor = make(drop="per-task")
    actor.handle(Ready(1, 0, 1, SURE, 1), 0.0)
    actor.handle(Submit([item(root) for root in range(4)]), 0.0)
    actor.handle(Leaving(1, 0), 0.0)
    assert dealt(actor) == {}
    assert len(actor.queue) == 3
    assert given_to(actor.handle(Ready(2, 0, 1, QUICK, 1), 0.0)) == {worker(2): 1}
    assert dealt(actor) == {2: [2, 3]}
    actor.validate()


@pytest.mark.parametrize(("drop", "moves"), [("per-task", False), ("reroute", True)])
def test_what_comes_too_late_for_its_worker_moves_to_a_faster_one(drop: DropPolicy, moves: bool) -> None:
    actor = make(drop)
    actor.handle(Ready(1, 0, 1, SURE, 1), 0.0)
    actor.handle(Ready(2, 0, 1, QUICK, 1), 0.0)
    # Its 20 ms and the fastest way on end too late for this one, 10 ms do not.
    slack = actor.after_s + 0.015
    root = next(root for root in range(100) if uniform(0, item(root).id, DEAL) < 50 / 60)
    effects = actor.handle(Submit([item(root, deadline=slack)]), 0.0)
    assert given_to(effects) == ({worker(2): root} if moves else {})
    assert actor.queue.known.keys() == ({root} if moves else set())


def test_an_item_that_asks_for_accuracy_is_dealt_to_who_may_serve_it() -> None:
    actor = make()
    actor.handle(Ready(1, 0, 1, SURE, 1), 0.0)
    actor.handle(Ready(2, 0, 1, QUICK, 1), 0.0)
    actor.handle(Submit([item(root, terms=Terms(floor=0.95)) for root in range(30)]), 0.0)
    assert dealt(actor)[2] == []
    assert len(dealt(actor)[1]) == 29


def test_equal_histories_deal_alike() -> None:
    found = []
    for _ in range(2):
        actor = make()
        actor.handle(Ready(1, 0, 1, SURE, 1), 0.0)
        actor.handle(Ready(2, 0, 1, QUICK, 1), 0.0)
        found.append((actor.handle(Submit([item(root) for root in range(9)]), 0.0), dealt(actor)))
    assert found[0] == found[1]
