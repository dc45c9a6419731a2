"""A plan holds what its types say: a whole number in the place of a float would come back from a journal as another one."""

from __future__ import annotations

import msgspec
import pytest

from loki_rl.control.allocator.allocate import allocate, capacity
from loki_rl.control.formulation.request import Request
from loki_rl.core.plan import Plan
from loki_rl.files.config import load_pipeline


@pytest.mark.parametrize("demand", [20.0, 300.0, 3000.0])
@pytest.mark.parametrize("horizon_s", [None, 20.0])
def test_a_plan_is_the_same_after_a_journey_through_a_journal(demand: float, horizon_s: float | None) -> None:
    pipeline = load_pipeline("traffic").pipeline
    plan = allocate(pipeline, Request(demand_rps=demand, servers=20, horizon_s=horizon_s))
    packed = msgspec.msgpack.encode(plan)
    assert msgspec.msgpack.encode(msgspec.msgpack.decode(packed, type=Plan)) == packed


def test_so_is_a_capacity() -> None:
    packed = msgspec.msgpack.encode(capacity(load_pipeline("traffic").pipeline, 20))
    assert msgspec.msgpack.encode(msgspec.msgpack.decode(packed, type=Plan)) == packed
