"""What policies plan for: the demand that is worth having capacity for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loki_rl.config import load_pipeline
from loki_rl.control.request import Request
from loki_rl.control.reserve import GRID, Reserve, chances
from loki_rl.core.pipeline import Pipeline

ROOT = Path(__file__).parents[2]
SERVERS = 20


@pytest.fixture(scope="module")
def traffic() -> Pipeline:
    return load_pipeline(ROOT / "pipelines" / "traffic.yaml").pipeline


@pytest.fixture(scope="module")
def reserve(traffic: Pipeline) -> Reserve:
    return Reserve(traffic, Request(1.0, SERVERS))


def test_room_is_kept_where_it_is_cheap_and_not_where_it_is_dear(reserve: Reserve) -> None:
    spare = [enough(reserve, (rps,) * 30) / rps for rps in (100, 1000)]
    assert spare[0] > 2
    assert spare[1] < 1.3


def test_room_is_given_up_after_a_calm_while_and_kept_after_a_jump(reserve: Reserve) -> None:
    calm = [enough(reserve, (300,) * seconds) for seconds in (10, 60, 300)]
    assert calm == sorted(calm, reverse=True)
    assert calm[-1] < 400
    assert enough(reserve, (1000,) * 30 + (300,) * 270) > 900


def enough(reserve: Reserve, counts: tuple[int, ...]) -> float:
    expected = float(counts[-1])
    return reserve.enough(chances(reserve.levels, counts, expected, 15.0), float(np.mean(counts)))


@given(st.lists(st.integers(0, 3000), max_size=60), st.floats(0.5, 3000), st.floats(0, 60))
def test_chances_are_chances(counts: list[int], expected: float, lead_s: float) -> None:
    levels = np.geomspace(0.5, 2000, GRID)
    found = chances(levels, counts, expected, lead_s)
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.diff(found) <= 1e-9).all()
