"""Which servers go over to a plan when: never so many that a task cannot serve its share, and never none for ever."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Latency, Pipeline, Swap, Task, Variant
from loki_rl.core.plan import Plan, Route
from loki_rl.core.servers.exclusions import Exclusions
from loki_rl.core.servers.rollout import Rollout
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
    assert rollout(0, 20.0).next(fleet("find", "find", "read"), 0.0) == [0, 1, 2]


def test_no_more_go_than_the_limit_and_those_first_whose_task_is_left_with_most() -> None:
    assert rollout(2, 10.0).next(fleet("find", "find", "read", "read", "read", "read"), 0.0) == [2, 3]


def test_a_server_stays_while_its_task_needs_it_and_others_load() -> None:
    machines = fleet("find", "find", "read")
    machines[3] = ServerRecord(0)
    machines[3].target, machines[3].ordered = ("read", "new", 1), False
    assert rollout(4, 10.0).next(machines, 0.0) == [0, 3], "one of two may go, the only one waits for the parked one"


def test_a_server_that_is_to_be_parked_stays_until_its_successor_serves() -> None:
    machines = {0: serving("read", None), 1: ServerRecord(0)}
    machines[1].target, machines[1].ordered = ("read", "new", 1), False
    made = rollout(2, 10.0)
    assert made.next(machines, 0.0) == [1]
    machines[1].ordered, machines[1].loading = True, ("read", "new")
    assert made.next(machines, 0.0) == []
    machines[1].loading, machines[1].serving, machines[1].batch = None, ("read", "new"), 1
    assert made.next(machines, 0.0) == [0]


def test_where_every_step_takes_too_much_one_is_taken() -> None:
    made, machines = rollout(4, 100.0), fleet("find", "read", "read")
    assert made.next(machines, 0.0) == [1]
    machines[1].ordered = True
    assert made.next(machines, 0.0) == [], "while it loads no other leaves"


def test_where_the_old_model_serves_until_the_new_one_is_warm_nobody_waits() -> None:
    assert rollout(1, 100.0, "make").next(fleet("find", "read"), 0.0) == [0, 1]


def test_a_server_whose_load_failed_is_left_alone_for_a_while() -> None:
    machines = fleet("find", "find")
    machines[0].held_until = 1.0
    assert rollout(2, 5.0).next(machines, 0.0) == [1]


@settings(deadline=None)
@given(st.lists(st.sampled_from(["find", "read"]), min_size=1, max_size=8), st.integers(1, 4), st.floats(0, 60))
def test_every_plan_is_carried_out_in_the_end(tasks: list[str], parallel: int, rps: float) -> None:
    made, machines = rollout(parallel, rps), fleet(*tasks)
    for _ in range(3 * len(tasks)):
        for number in made.next(machines, 0.0):
            machines[number].ordered, machines[number].serving = True, None
            machines[number].loading = ("x", "x")
        assert sum(machine.loading is not None for machine in machines.values()) <= parallel
        for machine, task in zip(machines.values(), tasks, strict=True):
            if machine.loading is not None:
                machine.loading, machine.serving = None, (task, "new")
    assert all(machine.converged for machine in machines.values())
