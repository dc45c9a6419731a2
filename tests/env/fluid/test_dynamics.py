"""The fluid twin: conservation, loads, swaps, drops."""

from __future__ import annotations

import numpy as np
import pytest

from loki_rl.control.fast.model_arrays import Fleet, Floats, build_fleet
from loki_rl.control.fast.table import Table
from loki_rl.env.fluid.dynamics import (
    ACCURACY,
    ARRIVALS,
    BUSY,
    FIGURES,
    LOADS,
    LOST,
    OK,
    TICK_S,
    USED,
    advance,
    new_rules,
    scratch,
)
from loki_rl.env.fluid.swaps import Clusters, adopt, new_clusters, settle
from loki_rl.files.config import load_pipeline

SECOND = round(1 / TICK_S)


class Cluster:
    """One fluid cluster, driven by hand."""

    def __init__(self, fleet: Fleet, servers: int, load_s: float) -> None:
        self.fleet, self.servers = fleet, servers
        self.state = new_clusters(fleet, 1, servers)
        self.state.load_s[:] = load_s
        self.row, self.room = Clusters(*(array[0] for array in self.state)), scratch(fleet, servers)

    def plan(self, warm: bool = False, **counts: int) -> None:
        wanted = np.zeros(self.fleet.models)
        for variant, number in counts.items():
            wanted[self.number(variant)] = number
        adopt(wanted, self.row, self.fleet.net, 10.0)
        if warm:
            settle(self.row)

    def number(self, variant: str) -> int:
        names = [variant.name.replace("-", "_") for task in self.fleet.pipeline.tasks for variant in task.variants]
        return names.index(variant)

    def run(self, rps: float, seconds: int) -> Floats:
        fleet, figures = self.fleet, np.zeros(FIGURES)
        ticks = np.full(seconds * SECOND, rps * TICK_S, np.float32)
        rules = new_rules(fleet, exponent=1.0)
        advance(ticks, 0, len(ticks), self.row, fleet.physical[0], rules, fleet.net, self.room, figures)
        return figures


@pytest.fixture
def cluster(table: Table) -> Cluster:
    return Cluster(table.fleet, 4, load_s=5.0)


def rate(cluster: Cluster, variant: str) -> float:
    return float(cluster.fleet.physical[0, cluster.number(variant)])


def test_arrivals_are_served_lost_or_queued(cluster: Cluster) -> None:
    cluster.plan(warm=True, v0=2, v1=2)
    before = 0.0
    for rps in (40.0, 150.0, 20.0):
        figures = cluster.run(rps, 7)
        queued = float(cluster.state.queue[0].sum())
        assert figures[ARRIVALS] + before == pytest.approx(figures[OK] + figures[LOST] + queued)
        before = queued
    assert figures[LOST] < 0.02 * figures[ARRIVALS]


def test_below_capacity_nothing_is_lost_and_the_most_accurate_serve(cluster: Cluster) -> None:
    cluster.plan(warm=True, v0=2, v4=2)
    figures = cluster.run(1.9 * rate(cluster, "v0"), 10)
    assert figures[LOST] == 0
    assert figures[6] == pytest.approx(figures[OK])  # accuracy 1 each


def test_models_that_stand_by_take_what_is_too_much_for_the_others(cluster: Cluster) -> None:
    """Those the plan has and means nothing for: they cost no accuracy while demand is as expected."""
    cluster.plan(warm=True, v0=2, v4=2)
    cluster.state.tokens[0] = 0.0
    cluster.state.tokens[0, cluster.number("v0")] = rate(cluster, "v0")
    calm = cluster.run(0.9 * BUSY * 2 * rate(cluster, "v0"), 10)
    assert calm[LOST] == 0
    assert calm[ACCURACY] == pytest.approx(calm[OK])
    crowd = cluster.run(2.5 * rate(cluster, "v0"), 10)
    assert crowd[LOST] == 0
    assert crowd[ACCURACY] < 0.999 * crowd[OK]


def test_above_capacity_the_excess_is_lost(cluster: Cluster) -> None:
    cluster.plan(warm=True, v0=4)
    most = 4 * rate(cluster, "v0")
    figures = cluster.run(1.5 * most, 20)
    assert figures[LOST] / figures[ARRIVALS] == pytest.approx(1 / 3, abs=0.02)


def test_a_load_takes_its_time_and_nothing_is_served_meanwhile(cluster: Cluster) -> None:
    cluster.plan(warm=True, v0=4)
    cluster.plan(v4=4)
    assert cluster.run(50.0, 5)[OK] == 0
    figures = cluster.run(50.0, 5)
    assert figures[LOST] == 0
    assert cluster.run(50.0, 1)[LOADS] == 0


def test_servers_count_while_they_load_and_parked_ones_do_not(cluster: Cluster) -> None:
    cluster.plan(v0=2)
    figures = cluster.run(10.0, 5)
    assert figures[LOADS] == 2
    assert figures[USED] == pytest.approx(2)
    cluster.plan()
    assert cluster.run(0.0, 1)[USED] == 0


def test_a_parked_model_serves_again_at_once(cluster: Cluster) -> None:
    cluster.plan(warm=True, v0=4)
    cluster.plan(v0=1)
    cluster.run(10.0, 3)
    cluster.plan(v0=4)
    figures = cluster.run(100.0, 5)
    assert figures[LOADS] == 0
    assert figures[LOST] == 0


def test_a_load_in_flight_is_left_alone_while_another_server_can_be_had(cluster: Cluster) -> None:
    cluster.plan(v0=1)
    cluster.run(0.0, 2)
    left = cluster.state.left[0].copy()
    cluster.plan(v0=1, v1=2)
    cluster.run(0.0, 1)
    assert cluster.state.left[0].max() == pytest.approx(5.0 - 1.0)
    assert np.isclose(cluster.state.left[0], left.max() - 1.0).sum() == 1


def test_children_inherit_their_share_of_losses() -> None:
    pipeline = load_pipeline("traffic").pipeline
    cluster = Cluster(build_fleet(pipeline), 20, load_s=5.0)
    cluster.plan(warm=True, yolov5x=6, efficientnet_b6=2, genderNet_19=1)
    # Two car classifiers serve a fraction of the cars that six detectors find: requests are lost there, not at the entry.
    figures = cluster.run(100.0, 10)
    cars = 2 * rate(cluster, "efficientnet_b6") / 17.817042
    assert figures[OK] / 10 == pytest.approx(cars, rel=0.1)


def test_equal_input_gives_equal_results(table: Table) -> None:
    one, other = Cluster(table.fleet, 4, 2.0), Cluster(table.fleet, 4, 2.0)
    for cluster in (one, other):
        cluster.plan(v0=2, v2=2)
    assert np.array_equal(one.run(90.0, 9), other.run(90.0, 9))
