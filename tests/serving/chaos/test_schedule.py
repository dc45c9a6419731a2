"""The same seed gives the same faults, spaced as asked, every kind as often as the others."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from loki_rl.serving.chaos.schedule import KINDS, LASTS_S, Kind, Targets, schedule

TARGETS = Targets(
    nodes=("gateway", "controller", "router-0", "workers-0", "workers-1"),
    workers=("workers-0", "workers-1"),
    fronts=("http", "http-1"),
)
COUNTS, SEEDS = st.integers(0, 60), st.integers(0, 2**32)
SOME_KINDS = st.lists(st.sampled_from(KINDS), min_size=1, unique=True)


@given(SOME_KINDS, COUNTS, st.floats(0.5, 10.0), SEEDS)
def test_a_seed_says_what_comes_and_when(kinds: list[Kind], count: int, every_s: float, seed: int) -> None:
    faults = schedule(TARGETS, kinds, count, every_s, seed)
    assert faults == schedule(TARGETS, kinds, count, every_s, seed)
    assert [(fault.number, fault.at_s) for fault in faults] == [(number, number * every_s) for number in range(count)]
    often = Counter(fault.kind for fault in faults)
    assert set(often) <= set(kinds)
    assert max(often.values(), default=0) - min((often[kind] for kind in kinds), default=0) <= 1


@given(SEEDS)
def test_a_fault_strikes_who_it_can(seed: int) -> None:
    for fault in schedule(TARGETS, KINDS, 18, 3.0, seed):
        whom = fault.target.split()
        match fault.kind:
            case "hang" | "poison":
                assert not whom
            case "withhold":
                assert len(set(whom)) == 2
                assert set(whom) <= set(TARGETS.nodes)
            case "kill" | "stop":
                assert len(whom) == 1
                assert whom[0] in TARGETS.nodes + TARGETS.fronts
            case _:
                assert len(whom) == 1
                assert whom[0] in TARGETS.workers
        least, most = LASTS_S.get(fault.kind, (0.0, 0.0))
        assert least <= fault.for_s <= most


@given(SEEDS, st.floats(0.7, 3.0))
def test_a_disk_has_room_again_before_the_next_fault(seed: int, every_s: float) -> None:
    assert all(fault.for_s < every_s for fault in schedule(TARGETS, ["disk"], 9, every_s, seed))


def test_another_seed_is_another_schedule() -> None:
    assert schedule(TARGETS, KINDS, 9, 3.0, 1) != schedule(TARGETS, KINDS, 9, 3.0, 2)
