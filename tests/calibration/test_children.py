"""How many children items made is kept where a Poisson distribution does not tell, and left out where it does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from loki_rl.calibration.children import fit_children
from loki_rl.control.policies.named import make_policy
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.core.options import ClusterOptions
from loki_rl.env.faults import Faults
from loki_rl.env.histogram import FanoutRow
from loki_rl.env.simulate import simulate
from loki_rl.env.world import Habits
from loki_rl.files.config import load_pipeline
from loki_rl.flight.columns import Collector, Flight
from loki_rl.flight.rows import AnyRow
from loki_rl.flight.sifter import Sifter
from tests.files.test_calibration_file import CALIBRATION

PIPELINE = load_pipeline("traffic").pipeline
TASK, CHILD = PIPELINE.tasks[0].name, PIPELINE.tasks[PIPELINE.children[0][0]].name
# As often none as twelve: the variance is six times the mean.
WILD = (1.0, *[0.0] * 11, 1.0)


def _fly(seconds: float = 20.0, **change: Any) -> Flight:
    rows: list[AnyRow] = []
    policy = make_policy("hardware", PIPELINE, PolicyOptions(servers=20, initial_rps=40.0))
    times = np.arange(0.0, seconds, 1 / 40)
    simulate(
        ClusterOptions(PIPELINE, 20), policy.decide, times, seconds, record=Sifter(rows.append, PIPELINE).record, **change
    )
    collector = Collector()
    collector.add(rows)
    return collector.flight()


def _wild() -> tuple[FanoutRow, ...]:
    return tuple(FanoutRow(TASK, variant.name, CHILD, WILD) for variant in PIPELINE.tasks[0].variants)


def test_items_and_children_add_up() -> None:
    flight = _fly()
    made = flight.children
    first = made[made["child"] == 0]
    served = flight.services[flight.services["task"] == 0]["items"].sum()
    assert first["items"].sum() == pytest.approx(served, rel=0.1)  # what came since the last whole second is not told
    assert set(made["task"]) == {0}


def test_what_is_drawn_from_a_poisson_distribution_needs_no_counts() -> None:
    assert list(fit_children([_fly()], PIPELINE)) == []


def test_other_counts_are_kept_and_played_again() -> None:
    (found,) = fit_children([_fly(faults=Faults(fanout=_wild()))], PIPELINE)
    assert (found.task, found.child) == (TASK, CHILD)
    assert [n for n, items in enumerate(found.items) if items] == [0, 12]
    assert found.items[0] == pytest.approx(found.items[12], rel=0.3)
    known = replace(CALIBRATION, services=CALIBRATION.services[-1:], loads=(), fanouts=(found,))
    made = _fly(habits=Habits(known)).children
    mine = made[(made["child"] == 0) & (made["variant"] == PIPELINE.variant_index[0][found.variant])]
    assert set(mine["children"].tolist()) == {0, 12}


def test_few_items_say_nothing() -> None:
    assert list(fit_children([_fly(2.0, faults=Faults(fanout=_wild()))], PIPELINE)) == []
