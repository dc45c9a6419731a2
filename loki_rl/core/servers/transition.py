"""From a plan to servers: which server runs which placement, with the fewest model loads. Pure; knows no time and no
message."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import replace

from loki_rl.core.plan import Placement

Target = tuple[str, str, int]  # task, variant, batch
Model = tuple[str, str]


class Seat(Struct):
    """A server as the assignment sees it: what it serves, loads, and keeps in memory, and the name of its type."""

    number: int
    serving: Model | None = None
    loading: Model | None = None
    resident: Model | None = None
    server_type: str = ""


def within(placements: Iterable[Placement], seats: list[Seat]) -> list[Placement]:
    """The placements, cut to the servers there are (one may have died while the policy was thinking, or the policy holds its
    plan): where most replicas are, one is missed least."""
    there = Counter(seat.server_type for seat in seats)
    kept = list(placements)
    for kind in dict.fromkeys(place.server_type for place in kept):
        mine = [number for number, place in enumerate(kept) if place.server_type == kind]
        for _ in range(sum(kept[number].replicas for number in mine) - there[kind]):
            most = max(mine, key=lambda number: (kept[number].replicas, number))
            kept[most] = replace(kept[most], replicas=kept[most].replicas - 1)
    return [place for place in kept if place.replicas]


def assign(placements: Iterable[Placement], seats: list[Seat]) -> dict[int, Target | None]:
    """Server -> target; None parks it. A placement gets servers of its type, with as few loads as possible.

    Of the servers that have or load a model those that serve it come first, then those that keep it warm, those that have it
    and load another, and those that load it; to load it, parked ones first, then those of the same task; lowest number among
    equals. A load in flight is left alone while another server can be had. Raises ValueError when the plan wants more
    servers than there are.
    """
    places = sorted(placements)
    chosen: dict[int, Target | None] = {}
    for kind in sorted({seat.server_type for seat in seats} | {place.server_type for place in places}):
        mine = [place for place in places if place.server_type == kind]
        chosen |= _assign_alike(mine, [seat for seat in seats if seat.server_type == kind], kind)
    return chosen


def _assign_alike(places: list[Placement], seats: list[Seat], kind: str) -> dict[int, Target | None]:
    wanted = [(place.task, place.variant, place.batch) for place in places for _ in range(place.replicas)]
    if len(wanted) > len(seats):
        of = f" of type '{kind}'" if kind else ""
        raise ValueError(f"the plan wants {len(wanted)} servers{of}, {len(seats)} are there")
    holders = _holders([target[:2] for target in wanted], seats)
    mine: dict[Model, list[int]] = defaultdict(list)
    for number, model in sorted(holders.items(), reverse=True):
        mine[model].append(number)
    chosen: dict[int, Target | None] = {seat.number: None for seat in seats}
    loaded: list[Target] = []
    for target in wanted:
        if mine[target[:2]]:
            chosen[mine[target[:2]].pop()] = target
        else:
            loaded.append(target)
    chosen.update(_loaders(loaded, [seat for seat in seats if seat.number not in holders], seats))
    return chosen


def _loaders(wanted: list[Target], free: list[Seat], seats: list[Seat]) -> dict[int, Target]:
    """A free server for every target that has to be loaded: parked ones for the tasks that fewest servers serve, then such
    as serve the same task, so that none falls short while another has too many."""
    serving = Counter(seat.serving[0] for seat in seats if seat.serving is not None)
    wanted = sorted(wanted, key=lambda target: (serving[target[0]], target))
    free = sorted(free, key=lambda seat: (seat.loading is not None, seat.serving is not None, seat.number))
    parked = [seat for seat in free if seat.loading is None and seat.serving is None]
    found = {seat.number: target for seat, target in zip(parked, wanted, strict=False)}
    alike: dict[str, deque[int]] = defaultdict(deque)
    for seat in free[len(parked) :]:
        if seat.loading is None and seat.serving is not None:
            alike[seat.serving[0]].append(seat.number)
    rest: list[Target] = []
    for target in wanted[len(parked) :]:
        if alike[target[0]]:
            found[alike[target[0]].popleft()] = target
        else:
            rest.append(target)
    left = (seat.number for seat in free if seat.number not in found)
    return found | dict(zip(left, rest, strict=False))


def _offers(seat: Seat) -> list[tuple[int, Model]]:
    """Models that a server has or will have, each with how good a choice it is (0 is best)."""
    held = seat.serving or seat.resident
    found = [] if seat.loading is None else [(3, seat.loading)]
    if held is not None:
        found.append((2 if found else 0 if seat.serving else 1, held))
    return found


def _holders(wanted: list[Model], seats: list[Seat]) -> dict[int, Model]:
    """Server -> the wanted model that it need not load, for as many of the wanted as there can be."""
    offers: dict[Model, list[tuple[int, int]]] = defaultdict(list)
    torn: dict[Model, list[int]] = defaultdict(list)  # servers that keep one model while they load another
    for seat in seats:
        found = _offers(seat)
        for standing, model in found:
            offers[model].append((standing, seat.number))
            if len(found) > 1:
                torn[model].append(seat.number)
    for choices in offers.values():
        choices.sort(reverse=True)
    taken: dict[int, Model] = {}
    for model in wanted:
        _place(model, offers, torn, taken)
    return taken


def _place(
    model: Model, offers: dict[Model, list[tuple[int, int]]], torn: dict[Model, list[int]], taken: dict[int, Model]
) -> None:
    """Take one more server for a model, if need be one whose present model can take another (an augmenting path)."""
    reached, via = [model], dict[Model, tuple[int, Model]]()
    for current in reached:
        choices = offers[current]
        while choices and choices[-1][1] in taken:
            choices.pop()
        if choices:
            seat = choices.pop()[1]
            while current != model:
                taken[seat] = current
                seat, current = via[current]
            taken[seat] = model
            return
        for seat in torn[current]:
            holder = taken[seat]
            if holder != model and holder not in via:
                via[holder] = seat, current
                reached.append(holder)
