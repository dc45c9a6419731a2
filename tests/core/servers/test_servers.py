"""The number of a server tells its type."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.core.servers.server_type import ServerType
from loki_rl.core.servers.servers import Servers

PIPELINE = Pipeline("one", 1.0, (Task("t", (Variant("v", 1.0, {1: Latency(0.1, 0.1, 0.1)}),), entry=1.0),), {"t": 1.0})


@given(st.lists(st.integers(0, 4), min_size=1, max_size=4).filter(any))
def test_servers_are_numbered_type_after_type(counts: list[int]) -> None:
    pool = tuple(ServerType(f"type{place}", count) for place, count in enumerate(counts))
    servers = Servers(ClusterOptions(PIPELINE, sum(counts), pool=pool))
    there = [(kind, place) for kind, one in enumerate(servers.types) for place in range(one.count)]
    assert [(servers.type_of(number), servers.place_of(number)) for number in range(sum(counts))] == there


def test_where_all_are_alike_all_are_of_one_type() -> None:
    servers = Servers(ClusterOptions(PIPELINE, 4))
    assert [(servers.type_of(number), servers.place_of(number)) for number in range(4)] == [(0, n) for n in range(4)]
