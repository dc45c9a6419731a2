"""Servers on their way from one plan to the next, beside the core's own rule."""

from __future__ import annotations

import numpy as np
import pytest

from loki_rl.control.fast.model_arrays import Floats
from loki_rl.control.fast.table import Table
from loki_rl.core.options import ClusterOptions
from loki_rl.core.plan import Placement, Plan, Snapshot
from loki_rl.core.servers.rollout import HOLD_S
from loki_rl.env.fluid.dynamics import TICK_S
from loki_rl.env.fluid.swaps import Clusters, adopt, carry_out, new_clusters, pass_time, settle
from loki_rl.env.gym.cluster_options import one_task
from loki_rl.env.gym.event_cluster import PausedWorld

SERVERS = 4
# Servers for the accurate and the fast variant that plans want, second by second.
WISHES = ((4, 0), (3, 1), (4, 0), (3, 1), (3, 1), (2, 1), (2, 1), (2, 2), (4, 0), (4, 0), (4, 0), (4, 0))


def fluid(table: Table, interval_s: float) -> list[tuple[int, int, int]]:
    """Servers that serve either variant, and that load, just before every decision."""
    state = new_clusters(table.fleet, 1, SERVERS)
    row, seen = Clusters(*(array[0] for array in state)), []
    for number, (accurate, fast) in enumerate(WISHES):
        seen.append((int((row.serves == 0).sum()), int((row.serves == 4).sum()), int((row.left > 0).sum())))
        wanted: Floats = np.zeros(table.fleet.models)
        wanted[0], wanted[4] = accurate, fast
        adopt(wanted, row, table.fleet.net, interval_s)
        if number == 0:
            settle(row)
        for _ in range(round(interval_s / TICK_S)):
            carry_out(row, False)
            pass_time(row, TICK_S)
        carry_out(row, False)
    return seen[1:]


def core(interval_s: float) -> list[tuple[int, int, int]]:
    """The same of the core's own actors."""
    pipeline = one_task()
    world = PausedWorld(ClusterOptions(pipeline, SERVERS, interval_s=interval_s), -7.0)
    world.begin(0.0)
    seen = []
    for accurate, fast in WISHES:
        while world.pending is None:
            world.step()
        seen.append(counted(world.pending))
        world.answer(plan(accurate, fast))
    return seen[1:]


def plan(accurate: int, fast: int) -> Plan:
    wanted = [("v0", accurate), ("v4", fast)]
    places = tuple(Placement("task", variant, 4, number) for variant, number in wanted if number)
    shares = {variant: number / SERVERS for variant, number in wanted if number}
    return Plan("accuracy", places, accurate + fast, 1.0, 1.0, 10.0, 60.0, {"task": 1.0}, {"task": shares})


def counted(snapshot: Snapshot) -> tuple[int, int, int]:
    serving = [server.serving[1] for server in snapshot.servers if server.serving]
    return serving.count("v0"), serving.count("v4"), sum(server.loading is not None for server in snapshot.servers)


@pytest.mark.parametrize("interval_s", [1.0, 2.0])
def test_servers_leave_what_they_serve_as_the_core_lets_them(table: Table, interval_s: float) -> None:
    assert fluid(table, interval_s) == core(interval_s)


def test_a_wish_that_is_taken_back_costs_nothing(table: Table) -> None:
    assert HOLD_S > 1.0
    assert fluid(table, 1.0)[:2] == [(4, 0, 0)] * 2
    assert fluid(table, 2.0)[1] == (3, 0, 1)
