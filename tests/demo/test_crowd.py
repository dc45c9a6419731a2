"""The crowd is a trace file with calm, rise, height and end, the same each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loki_rl.demo.crowd import Crowd
from loki_rl.traces.trace import load_trace

CROWD = Crowd(100.0, 900.0, calm_s=10, rise_s=8, held_s=6, fall_s=4, after_s=2)


def test_demand_stays_rises_is_held_and_falls_back(tmp_path: Path) -> None:
    trace = load_trace(CROWD.save(tmp_path / "new"))
    assert trace.name == "crowd"
    assert len(trace.counts) == 30
    assert trace.counts[:10].mean() == pytest.approx(100, rel=0.2)
    assert trace.counts[CROWD.height_from_s : CROWD.height_to_s].mean() == pytest.approx(900, rel=0.1)
    assert 100 < trace.counts[14] < 900
    assert trace.counts[-2:].mean() == pytest.approx(100, rel=0.3)


def test_it_is_the_same_each_time(tmp_path: Path) -> None:
    a, b = (load_trace(CROWD.save(tmp_path / name)) for name in "ab")
    assert np.array_equal(a.counts, b.counts)


def test_a_crowd_that_stays_ends_at_its_height() -> None:
    crowd = Crowd(2.0, 20.0, 30, 12, 10)
    assert (crowd.height_from_s, crowd.height_to_s) == (42, 52)
    assert str(crowd) == "from 2.0 to 20.0 requests/s (x10.0) within 12 s"
