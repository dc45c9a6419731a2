"""What windows say before every decision, beside the policies that they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from loki_rl.control.demand.belief import Coming
from loki_rl.control.formulation.request import Slice
from loki_rl.control.policies.clairvoyant import Clairvoyant
from loki_rl.control.policies.exact import Exact
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.core.plan import Snapshot
from loki_rl.env.fluid.windows import LEAD_IN_S, Ranges, Window, WindowOptions, make_window
from loki_rl.env.gym.cluster_options import ClusterEnvOptions, one_task, pool_for


@pytest.fixture(scope="module")
def options(small: dict[str, Any]) -> WindowOptions:
    return pool_for(ClusterEnvOptions(pipeline="one-task", kind="bursts", **small)).windows.options


def told(window: Window, counts: np.ndarray) -> list[Snapshot]:
    """What a controller would be told before every decision, if it had counted from the lead-in on."""
    ends = LEAD_IN_S + np.arange(len(window.comings))
    return [Snapshot(float(end), 1.0, tuple(counts[:end].astype(int).tolist()), 0.0, ()) for end in ends.tolist()]


def seconds(options: WindowOptions, seed: int) -> np.ndarray:
    trace = options.sample(options.length_s, seed)
    return trace.counts[: options.length_s]


def said(coming: Coming) -> tuple[float, float, tuple[Slice, ...], list[float]]:
    return coming.expected_rps, coming.mean_rps, coming.slices, coming.above.tolist()


def test_a_window_believes_what_exact_would(options: WindowOptions) -> None:
    window = make_window(options, 3)
    policy = Exact(one_task(), PolicyOptions(servers=20, interval_s=1.0))
    for k, snapshot in enumerate(told(window, seconds(options, 3))):
        assert said(window.comings[k]) == said(policy.coming(snapshot))
        assert window.row.horizon_s[k] == policy.horizon_s(snapshot)


def test_a_clairvoyant_window_knows_what_clairvoyant_does(options: WindowOptions) -> None:
    window, counts = make_window(replace(options, base="clairvoyant"), 3), seconds(options, 3)
    future = tuple(counts.astype(int).tolist())
    policy = Clairvoyant(one_task(), PolicyOptions(servers=20, interval_s=1.0, future=future))
    for k, snapshot in enumerate(told(window, counts)):
        assert window.comings[k].slices == policy.coming(snapshot).slices


def test_late_counts_are_those_of_before(options: WindowOptions) -> None:
    late = make_window(replace(options, ranges=Ranges(lag_s=(2,))), 3)
    soon = make_window(options, 3)
    assert [said(one) for one in late.comings[2:]] == [said(one) for one in soon.comings[:-2]]


def test_a_controller_that_began_lately_knows_little(options: WindowOptions) -> None:
    young, old = (make_window(replace(options, ranges=Ranges(known_s=(known_s,))), 3) for known_s in (10, LEAD_IN_S))
    assert young.row.to_rps[0, -1] != old.row.to_rps[0, -1]
    assert np.array_equal(young.row.floor, old.row.floor)
    assert np.array_equal(young.row.ticks, old.row.ticks)
