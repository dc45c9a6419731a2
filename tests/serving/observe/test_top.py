"""The live view: figures from two states, the screen, and where states come from."""

from __future__ import annotations

import json
from copy import deepcopy
from math import inf
from typing import Any

import pytest
from click.testing import CliRunner
from msgspec.structs import replace
from rich.console import Console

from loki_rl.cli.commands.top import screen, sparkline
from loki_rl.cli.main import app
from loki_rl.serving.observe.watch import Watch, percentile, view
from loki_rl.serving.state import Control, Histogram, PlaneState
from tests.serving.site import Site


def later(state: PlaneState) -> PlaneState:
    """Ten seconds on: twenty more requests, half of them late, the second stage a little slower."""
    after = deepcopy(state)
    after.uptime_s += 10
    after.requests.arrivals += 20
    after.requests.outcomes[0] += 10
    after.requests.outcomes[1] += 10
    after.requests.accuracy_sum += 8.0
    for _ in range(20):
        after.requests.latency.add(0.2)
    slow = after.stages[1].variants["slow"]
    slow.items += 20
    for _ in range(10):
        slow.compute.add(0.05)
    slow.sizes[2].batches += 10
    slow.sizes[2].seconds += 0.5
    slow.queue.sum_s += 0.2
    return after


def test_figures_are_those_between_two_states(plane_state: PlaneState) -> None:
    seen = view(plane_state, later(plane_state), [12.0])
    assert (seen.seconds, seen.arrivals_rps, seen.outcomes_rps["late"]) == (10.0, 2.0, 1.0)
    assert (seen.violation_ratio, seen.accuracy) == (0.5, 0.8)
    assert (seen.p50_s, seen.p99_s) == (0.25, 0.25)
    (find, read) = seen.variants
    assert (find.stage, find.variant, find.items_rps, find.batch, find.planned, find.workers) == ("find", "big", 0, 0, 1, 1)
    assert (read.stage, read.variant, read.items_rps, read.batch) == ("read", "slow", 2.0, 2.0)
    assert read.queue_s == pytest.approx(0.01)
    assert read.compute_s == pytest.approx(0.05)


def test_one_state_gives_the_figures_since_the_start(plane_state: PlaneState) -> None:
    seen = view(plane_state, plane_state, [])
    assert seen.seconds == 60.0
    assert seen.violation_ratio == pytest.approx(0.1)
    assert seen.accuracy == pytest.approx(0.75)


def test_a_watch_forgets_a_plane_that_another_has_replaced(plane_state: PlaneState) -> None:
    watch = Watch()
    watch.see(plane_state)
    assert watch.see(later(plane_state)).seconds == 10.0
    young = replace(plane_state, uptime_s=1.0)
    assert watch.see(young).seconds == 1.0
    assert watch.see(replace(young, uptime_s=2.0)).seconds == 1.0


def test_percentiles_are_bounds() -> None:
    assert percentile(Histogram(), 0.5) == 0.0
    seen = Histogram()
    for seconds in (0.0004, 0.003, 0.004, 99.0):
        seen.add(seconds)
    assert [percentile(seen, share) for share in (0.25, 0.5, 0.75, 0.99)] == [0.0005, 0.005, 0.005, inf]


def drawn(state: PlaneState, **changes: Any) -> str:
    console = Console(width=80, record=True, force_terminal=False)
    console.print(screen(replace(view(state, state if len(state.stages) < 2 else later(state), [1.0, 12.0]), **changes)))
    return console.export_text()


def test_the_screen_shows_demand_plan_queues_violations_accuracy_and_workers(plane_state: PlaneState) -> None:
    text = drawn(plane_state)
    for part in (
        "reading (onnx, SLO 500 ms) ready, up 0:01:10, 0 in flight",
        "demand   12.0/s",
        "violations 50.0 %, accuracy 80.0 %, p50 <= 250 ms",
        "plan 0: hardware, for 12.0/s of 20.0/s, accuracy 75.0 %\nservers 2 of 2 in use, 1 loading",
        "2 dropped",
        "read/slow",
        "read/fast",
        "'big' of 'find' takes 1.40 x its profiled time",
        "planned without: 'old' of 'read' cannot be loaded: there is no model \nold/1/model.onnx",
        "worker 1: out of memory",
        "gateway: the journal cannot be written and ends here (2 times, 0:00:22 ago)",
    ):
        assert part in text, text
    assert max(map(len, text.splitlines())) <= 80


def test_the_screen_says_up_to_which_demand_servers_stand_by(plane_state: PlaneState) -> None:
    assert plane_state.control is not None
    assert plane_state.control.plan is not None
    assert "stand by" not in drawn(plane_state)
    plan = replace(plane_state.control.plan, standby_rps=1600.0)
    text = drawn(replace(plane_state, control=replace(plane_state.control, plan=plan)))
    assert "servers 2 of 2 in use, 1 loading, some stand by up to 1600.0/s" in text


def test_where_servers_are_of_several_types_the_workers_tell_theirs(plane_state: PlaneState) -> None:
    assert plane_state.control is not None
    assert "type" not in drawn(plane_state)
    workers = [replace(worker, server_type="quick") for worker in plane_state.control.workers]
    text = drawn(replace(plane_state, control=replace(plane_state.control, workers=workers)))
    assert "type  serves" in text
    assert "quick find/big" in text


def test_a_screen_without_a_plan_workers_or_traffic(plane_state: PlaneState) -> None:
    bare = replace(plane_state, control=None, stages=[replace(plane_state.stages[0], drain_s=None, variants={}, queued=3)])
    text = drawn(bare, demand=[], p99_s=inf)
    assert "the controller does not answer" in text
    reason = "stage 'read' does not answer"
    text = drawn(replace(bare, ready=False, unready=reason, silent=["read"]), demand=[])
    assert f"not ready: {reason}" in text
    assert f"\n{reason}" in text
    text = drawn(bare, demand=[], p99_s=inf)
    assert "never" in text
    assert "long" in text
    assert "no plan yet" in drawn(replace(plane_state, control=Control(None, 0.0, [], [])))


def test_a_sparkline_is_relative_to_its_top() -> None:
    assert sparkline([0.0, 4.0, 8.0]) == " ▄█"
    assert sparkline([0.0, 0.0]) == "  "
    assert sparkline([]) == ""


def test_the_command_prints_one_object_or_one_screen(site: Site) -> None:
    printed = CliRunner().invoke(app, ["top", "--url", f"http://{site.url}", "--json"])
    assert json.loads(printed.stdout)["state"]["requests"]["arrivals"] == 10
    printed = CliRunner().invoke(app, ["top", "--url", f"http://{site.url}", "--once"])
    assert "violations" in printed.stdout
