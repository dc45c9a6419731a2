"""The number of a server tells its type, also of one that joins later."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.core.server_type import ServerType
from loki_rl.core.servers import Servers

PIPELINE = Pipeline("one", 1.0, (Task("t", (Variant("v", 1.0, {1: Latency(0.1, 0.1, 0.1)}),), entry=1.0),), {"t": 1.0})


@given(st.lists(st.integers(0, 4), min_size=1, max_size=4).filter(any), st.lists(st.integers(0, 9), max_size=12))
def test_servers_are_numbered_by_type_and_none_twice(counts: list[int], join: list[int]) -> None:
    pool = tuple(ServerType(f"type{place}", count) for place, count in enumerate(counts))
    servers = Servers(ClusterOptions(PIPELINE, sum(counts), pool=pool))
    there = [(kind, place) for kind, one in enumerate(servers.types) for place in range(one.count)]
    assert [(servers.type_of(number), servers.place_of(number)) for number in range(sum(counts))] == there
    joined = [one % len(servers.types) for one in join]
    numbers = [servers.joining(kind, joined[:place].count(kind)) for place, kind in enumerate(joined)]
    assert len(set(numbers)) == len(numbers)
    assert not set(numbers) & set(range(sum(counts)))
    for place, (kind, number) in enumerate(zip(joined, numbers, strict=True)):
        assert servers.type_of(number) == kind
        assert servers.place_of(number) == servers.types[kind].count + joined[:place].count(kind)


def test_where_all_are_alike_those_that_join_are_numbered_on() -> None:
    servers = Servers(ClusterOptions(PIPELINE, 4))
    assert [servers.joining(0, place) for place in range(3)] == [4, 5, 6]
    assert {servers.type_of(number) for number in range(9)} == {0}
