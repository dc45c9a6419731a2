"""Which servers go over to a plan when: never so many that a task cannot serve its share, and never none for ever."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Latency, Pipeline, Swap, Task, Variant
from loki_rl.core.plan import Plan, Route
from loki_rl.core.servers.exclusions import Exclusions
from loki_rl.core.servers.rollout import RECENT_S, Rollout
from loki_rl.core.servers.server_record import ServerRecord
from loki_rl.core.servers.servers import Servers

TENTH = {1: Latency(0.1, 0.1, 0.1)}  # 10 items a second


def pipeline(swap: Swap = "break") -> Pipeline:
    both = tuple(Variant(name, accuracy, TENTH, {}) for name, accuracy in (("old", 0.5), ("new", 0.9)))
    find = tuple(Variant(v.name, v.accuracy, TENTH, {"read": 1.0}) for v in both)
    return Pipeline(
        "chain", 1.0, (Task("find", find, entry=1.0), Task("read", both, parent="find")), {"read": 1.0}, swap=swap
    )


def plan(rps: float) -> Plan:
    routes = (Route("read", (("new", 1, ""), ("new", 1, "")), 1.0),)
    flows = {"find": {"new": 1.0}, "read": {"new": 1.0}}
    return Plan("accuracy", (), 2, 0.9, 1.0, rps, rps, {}, flows, routes=routes)


def serving(task: str, target: str | None = "new") -> ServerRecord:
    machine = ServerRecord(0)
    machine.serving, machine.batch = (task, "old"), 1
    machine.target, machine.ordered = None if target is None else (task, target, 1), False
    return machine


def rollout(parallel: int, rps: float, swap: Swap = "break") -> Rollout:
    servers = Servers(ClusterOptions(pipeline(swap), 9))
    made = Rollout(servers, parallel, Exclusions(servers), 10.0)
    made.adopt(plan(rps))
    return made


def fleet(*tasks: str) -> dict[int, ServerRecord]:
    return dict(enumerate(map(serving, tasks)))


def test_without_a_limit_all_go_at_once() -> None:
    assert rollout(0, 20.0).next(fleet("find", "find", "read"), {}, 0.0) == [0, 1, 2]


def test_no_more_go_than_the_limit_and_those_first_whose_task_is_left_with_most() -> None:
    assert rollout(2, 10.0).next(fleet("find", "find", "read", "read", "read", "read"), {}, 0.0) == [2, 3]


def test_a_server_stays_while_its_task_needs_it_and_others_load() -> None:
    machines = fleet("find", "find", "read")
    machines[3] = ServerRecord(0)
    machines[3].target, machines[3].ordered = ("read", "new", 1), False
    assert rollout(4, 10.0).next(machines, {}, 0.0) == [0, 3], "one of two may go, the only one waits for the parked one"


def test_a_server_that_is_to_be_parked_stays_until_its_successor_serves() -> None:
    machines = {0: serving("read", None), 1: ServerRecord(0)}
    machines[1].target, machines[1].ordered = ("read", "new", 1), False
    made = rollout(2, 10.0)
    assert made.next(machines, {}, 0.0) == [1]
    machines[1].ordered, machines[1].loading = True, ("read", "new")
    assert made.next(machines, {}, 0.0) == []
    machines[1].loading, machines[1].serving, machines[1].batch = None, ("read", "new"), 1
    assert made.next(machines, {}, 0.0) == [0]


def test_where_every_step_takes_too_much_one_is_taken() -> None:
    made, machines = rollout(4, 100.0), fleet("find", "read", "read")
    assert made.next(machines, {}, 0.0) == [1]
    machines[1].ordered = True
    assert made.next(machines, {}, 0.0) == [], "while it loads no other leaves"


def test_where_the_old_model_serves_until_the_new_one_is_warm_nobody_waits() -> None:
    assert rollout(1, 100.0, "make").next(fleet("find", "read"), {}, 0.0) == [0, 1]


def test_a_server_whose_load_failed_is_left_alone_for_a_while() -> None:
    machines = fleet("find", "find")
    machines[0].held_until = 1.0
    assert rollout(2, 5.0).next(machines, {}, 0.0) == [1]


RATE = 10.0  # items a second that each server of these fleets can serve


def test_a_spike_does_not_take_the_servers_that_serve_what_comes() -> None:
    made, machines, items = rollout(0, 3000.0), fleet(*["find"] * 20), {"find": [60, 3000, 60]}
    first = made.next(machines, items, 0.0)
    assert len(first) == 14
    for number in first:
        machines[number].ordered = True
    assert made.next(machines, items, 0.0) == [], "those that stay are needed, also when the spike has passed"
    for number in first[:6]:
        machines[number].serving = ("find", "new")
    assert len(made.next(machines, {"find": [60, 60, 60]}, 0.0)) == 6, "as many as have come back may go"


def test_a_task_that_cannot_serve_what_comes_anyway_holds_nobody() -> None:
    assert rollout(0, 20.0).next(fleet("find", "find"), {"find": [30, 40, 50]}, 0.0) == [0, 1]


def test_a_server_that_is_missed_goes_when_no_other_of_its_task_is_away() -> None:
    made, machines, items = rollout(0, 20.0), fleet("find", "find", "read"), {"find": [20] * 3, "read": [10] * 3}
    assert made.next(machines, items, 0.0) == [0, 2], "each task gives one up, whatever the others do"
    machines[0].ordered = machines[2].ordered = True
    machines[0].loading, machines[0].serving = ("find", "new"), None
    assert made.next(machines, items, 0.0) == []
    machines[0].loading, machines[0].serving = None, ("find", "new")
    assert made.next(machines, items, 0.0) == [1]


def test_one_that_is_lost_on_its_way_is_not_waited_for() -> None:
    made, machines, items = rollout(0, 20.0), fleet("find", "find"), {"find": [20] * 3}
    assert made.next(machines, items, 0.0) == [0]
    del machines[0]
    assert made.next(machines, items, 0.0) == [1]


def test_what_came_long_ago_holds_nobody() -> None:
    assert rollout(0, 20.0).next(fleet("find", "find"), {"find": [20, 20, 5, 5, 5]}, 0.0) == [0]


LEVELS = st.lists(st.integers(0, 120), max_size=5)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["find", "read"]), st.sampled_from(["find", "read", ""])), min_size=1, max_size=10),
    st.lists(st.tuples(LEVELS, LEVELS, st.lists(st.integers(0, 9), max_size=4)), min_size=1, max_size=8),
    st.integers(0, 3),
)
def test_no_move_takes_a_task_below_what_comes_and_every_plan_is_carried_out(
    moves: list[tuple[str, str]], rounds: list[tuple[list[int], list[int], list[int]]], parallel: int
) -> None:
    made = rollout(parallel, 20.0)
    machines = {number: serving(old, "new" if new else None) for number, (old, new) in enumerate(moves)}
    for machine, (_, new) in zip(machines.values(), moves, strict=True):
        if new:
            machine.target = (new, "new", 1)
    served = {old for old, _ in moves}
    calm: tuple[list[int], list[int], list[int]] = ([], [], list(range(10)))
    for found, read, ends in [*rounds, *[calm] * (3 * len(moves))]:
        items = {"find": found, "read": read}
        before, away = (
            {task: ready(machines, task) for task in served},
            {task: left(machines, moves, task) for task in served},
        )
        told = made.next(machines, items, 0.0)
        for number in told:
            machines[number].ordered = True
        for task in served:
            gone = sum(moves[number][0] == task for number in told)
            for count in items[task][-RECENT_S:]:
                kept = before[task] - RATE * gone >= count
                assert kept or before[task] < count or gone == 0 or (gone == 1 and not away[task]), "one too many has left"
        for number in ends:
            if number in machines and machines[number].ordered:
                machines[number].serving = None if machines[number].target is None else (moves[number][1], "new")
    assert all(machine.converged for machine in machines.values())


def ready(machines: dict[int, ServerRecord], task: str) -> float:
    """Items per second that a task can serve while whoever was told to leave has left."""
    there = [machine for machine in machines.values() if machine.serving is not None and machine.serving[0] == task]
    return RATE * sum(not machine.ordered or machine.serving == (task, "new") for machine in there)


def left(machines: dict[int, ServerRecord], moves: list[tuple[str, str]], task: str) -> int:
    """Servers that have left a task and serve nothing yet."""
    mine = [machine for number, machine in machines.items() if moves[number][0] == task]
    return sum(machine.ordered and not machine.converged for machine in mine)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["find", "read"]), min_size=1, max_size=8), st.integers(1, 4), st.floats(0, 60))
def test_every_plan_is_carried_out_in_the_end(tasks: list[str], parallel: int, rps: float) -> None:
    made, machines = rollout(parallel, rps), fleet(*tasks)
    for _ in range(3 * len(tasks)):
        for number in made.next(machines, {}, 0.0):
            machines[number].ordered, machines[number].serving = True, None
            machines[number].loading = ("x", "x")
        assert sum(machine.loading is not None for machine in machines.values()) <= parallel
        for machine, task in zip(machines.values(), tasks, strict=True):
            if machine.loading is not None:
                machine.loading, machine.serving = None, (task, "new")
    assert all(machine.converged for machine in machines.values())
