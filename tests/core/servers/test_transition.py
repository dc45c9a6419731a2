"""From a plan to servers, against every possible assignment of small clusters."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from loki_rl.core.plan import Placement
from loki_rl.core.servers.transition import Model, Seat, Target, assign

MODELS: list[Model] = [("a", "x"), ("a", "y"), ("b", "x")]
A, B, C = MODELS


@st.composite
def seat(draw: st.DrawFn, number: int, swap: str) -> Seat:
    """What a controller can see of a server: under break nothing is in memory while it loads."""
    serving, loading = draw(st.none() | st.sampled_from(MODELS)), draw(st.none() | st.sampled_from(MODELS))
    resident = serving or draw(st.none() | st.sampled_from(MODELS))
    if loading is not None and swap == "break":
        return Seat(number, None, loading, None)
    return Seat(number, serving, loading if loading != resident else None, resident)


@st.composite
def clusters(draw: st.DrawFn) -> tuple[list[Placement], list[Seat]]:
    swap = draw(st.sampled_from(["break", "make"]))
    seats = [draw(seat(number, swap)) for number in range(draw(st.integers(1, 5)))]
    wanted = draw(st.lists(st.tuples(st.sampled_from(MODELS), st.integers(1, 2)), max_size=len(seats)))
    return [Placement(*model, batch, count) for (model, batch), count in Counter(wanted).items()], seats


def needs_load(seat: Seat, target: Target) -> bool:
    return target[:2] not in (seat.serving, seat.resident, seat.loading)


def spread(placements: list[Placement]) -> list[Target]:
    return [(place.task, place.variant, place.batch) for place in placements for _ in range(place.replicas)]


@settings(derandomize=True, deadline=None, max_examples=150)
@given(clusters())
def test_no_assignment_needs_fewer_loads(cluster: tuple[list[Placement], list[Seat]]) -> None:
    placements, seats = cluster
    wanted = spread(placements)
    chosen = assign(placements, seats)
    assert Counter(target for target in chosen.values() if target) == Counter(wanted)
    loads = sum(needs_load(seat, target) for seat in seats if (target := chosen[seat.number]))
    best = min(
        sum(needs_load(seat, target) for seat, target in zip(order, wanted, strict=False))
        for order in permutations(seats, len(wanted))
    )
    assert loads == best


@settings(derandomize=True, deadline=None, max_examples=80)
@given(clusters())
def test_a_load_in_flight_is_left_alone_while_another_server_can_be_had(cluster: tuple[list[Placement], list[Seat]]) -> None:
    placements, seats = cluster
    chosen = assign(placements, seats)
    overruled = [s for s in seats if s.loading and (target := chosen[s.number]) and needs_load(s, target)]
    spare = [s for s in seats if not s.loading and chosen[s.number] is None]
    assert not overruled or not spare


@settings(derandomize=True, deadline=None, max_examples=80)
@given(clusters(), st.randoms(use_true_random=False))
def test_among_equals_the_lowest_number_is_chosen_whatever_the_order(
    cluster: tuple[list[Placement], list[Seat]], random: object
) -> None:
    placements, seats = cluster
    chosen = assign(placements, seats)
    shuffled = list(seats)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert assign(reversed(placements), shuffled) == chosen
    for low in seats:
        for high in seats:
            same = (low.serving, low.loading, low.resident) == (high.serving, high.loading, high.resident)
            if same and low.number < high.number and chosen[low.number] is None:
                assert chosen[high.number] is None, f"{high.number} works, its equal {low.number} does not"


@settings(derandomize=True, deadline=None, max_examples=80)
@given(clusters(), clusters())
def test_every_type_is_assigned_as_if_it_were_alone(
    one: tuple[list[Placement], list[Seat]], two: tuple[list[Placement], list[Seat]]
) -> None:
    """As that is the same for each, no assignment needs fewer loads."""
    placements: list[Placement] = []
    seats: list[Seat] = []
    expected: dict[int, Target | None] = {}
    for number, (kind, (places, held)) in enumerate((("a", one), ("b", two))):
        mine = [replace(seat, number=100 * number + seat.number, server_type=kind) for seat in held]
        seats += mine
        placements += [replace(place, server_type=kind) for place in places]
        expected |= assign(places, [replace(seat, server_type="") for seat in mine])
    assert assign(placements, seats) == expected


def test_no_type_lends_servers_to_another() -> None:
    seats = [Seat(0, server_type="a"), Seat(1, server_type="b")]
    with pytest.raises(ValueError, match="the plan wants 2 servers of type 'a', 1 are there"):
        assign([Placement(*A, 4, 2, "a")], seats)


def test_a_server_that_is_warm_is_ready_sooner_than_one_that_still_loads() -> None:
    loading, warm = Seat(0, loading=A), Seat(1, resident=A)
    assert assign([Placement(*A, 4, 1)], [loading, warm]) == {0: None, 1: (*A, 4)}


def test_to_load_a_model_parked_servers_come_before_those_that_serve() -> None:
    seats = [Seat(0, B, None, B), Seat(1, None, None, B), Seat(2, loading=C)]
    assert assign([Placement(*A, 4, 1)], seats) == {0: None, 1: (*A, 4), 2: None}


def test_a_server_torn_between_two_models_takes_the_one_that_no_other_has() -> None:
    """Under make a server keeps one model while it loads another."""
    seats = [Seat(0, A, B, A), Seat(1, loading=B)]
    assert assign([Placement(*A, 4, 1), Placement(*B, 4, 1)], seats) == {0: (*A, 4), 1: (*B, 4)}


def test_a_server_that_still_serves_is_ready_sooner_than_one_that_loads() -> None:
    seats = [Seat(0, loading=A), Seat(1, A, B, A)]
    assert assign([Placement(*A, 4, 1)], seats) == {0: None, 1: (*A, 4)}


def test_a_change_of_batch_alone_moves_nothing() -> None:
    seats = [Seat(number, A, None, A) for number in range(3)]
    placements = [Placement(*A, 8, 1), Placement(*A, 4, 2)]
    assert assign(placements, seats) == {0: (*A, 4), 1: (*A, 4), 2: (*A, 8)}


def test_more_servers_than_there_are_cannot_be_had() -> None:
    with pytest.raises(ValueError, match="the plan wants 2 servers, 1 are there"):
        assign([Placement(*A, 4, 2)], [Seat(0)])


def test_a_cluster_of_ten_thousand_is_assigned() -> None:
    seats = [Seat(number, A, None, A) for number in range(5000)]
    seats += [Seat(number, loading=B) for number in range(5000, 10_000)]
    chosen = assign([Placement(*A, 4, 6000), Placement(*B, 4, 4000)], seats)
    assert sum(needs_load(seat, target) for seat in seats if (target := chosen[seat.number])) == 1000


def test_a_parked_server_goes_to_the_task_that_fewest_serve_and_the_others_stay_with_theirs() -> None:
    seats = [Seat(0, ("a", "old")), Seat(1, ("b", "old")), Seat(2, ("a", "old")), Seat(3, resident=("c", "x"))]
    placements = [Placement("a", "new", 1, 2), Placement("b", "new", 1, 1)]
    assert assign(placements, seats) == {0: ("a", "new", 1), 1: None, 2: ("a", "new", 1), 3: ("b", "new", 1)}
