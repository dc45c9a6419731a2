"""From a plan to servers: which server runs which placement, with the fewest model loads. Pure; knows no time and no
message."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from msgspec import Struct

from loki_rl.core.plan import Placement

Target = tuple[str, str, int]  # task, variant, batch
Model = tuple[str, str]


class Seat(Struct):
    """A server as the assignment sees it: what it serves, loads, and keeps in memory."""

    number: int
    serving: Model | None = None
    loading: Model | None = None
    resident: Model | None = None


def assign(placements: Iterable[Placement], seats: list[Seat]) -> dict[int, Target | None]:
    """Server -> target; None parks it. Servers that already have the model come first, then those that load it, those that
    keep it warm, then parked ones, then any; lowest number among equals. A load in flight is left alone while another
    server can be had. Raises ValueError when the plan wants more servers than there are."""
    wanted = [(place.task, place.variant, place.batch) for place in sorted(placements) for _ in range(place.replicas)]
    if len(wanted) > len(seats):
        raise ValueError(f"the plan wants {len(wanted)} servers, {len(seats)} are there")
    free = {seat.number: seat for seat in seats}
    chosen: dict[int, Target | None] = {seat.number: None for seat in seats}
    for has in (_serves, _loads, _keeps):
        wanted = _match(wanted, free, chosen, has)
    needed = Counter(target[:2] for target in wanted)
    for target in wanted:
        seat = min(free.values(), key=lambda seat: (seat.loading is not None, seat.serving is not None, seat.number))
        chosen[seat.number] = target
        del free[seat.number]
        needed[target[:2]] -= 1
    return chosen


def _serves(seat: Seat, model: Model) -> bool:
    return seat.serving == model and seat.loading is None


def _loads(seat: Seat, model: Model) -> bool:
    return seat.loading == model


def _keeps(seat: Seat, model: Model) -> bool:
    return seat.resident == model


def _match(wanted: list[Target], free: dict[int, Seat], chosen: dict[int, Target | None], has) -> list[Target]:  # type: ignore[no-untyped-def]
    """Give targets to free servers that already have the model; return the targets left."""
    left: list[Target] = []
    for target in wanted:
        number = next((number for number, seat in sorted(free.items()) if has(seat, target[:2])), None)
        if number is None:
            left.append(target)
        else:
            chosen[number] = target
            del free[number]
    return left
