"""Sub-requests as they travel: siblings together. Owns their shape and their counting; decides nothing."""

from __future__ import annotations

from collections.abc import Collection

from msgspec import Struct

from loki_rl.core.pipeline import Pipeline

MAX_PRIORITY = (1 << 32) - 1  # as in Triton


class QoS(Struct, array_like=True, gc=False, frozen=True):
    """The quality of service that a request asks for. min_accuracy: least accuracy, 0..1, of every variant path that serves
    it; priority: 1 is the highest, 0 none."""

    min_accuracy: float = 0.0
    priority: int = 0


class Terms(Struct, array_like=True, gc=False, frozen=True):
    """What routers keep of it. floor: least accuracy of every variant path that serves the request; boost: it stands in
    queues as if its soft deadlines were this much earlier [s]."""

    floor: float = 0.0
    boost: float = 0.0


class Family(Struct, array_like=True, gc=False):
    """Items of one task that one parent made (at an entry task: one request): all that is known of them is the same, but
    their ids. id: of the first; count: how many, numbered on from it (Pipeline.members). t0: arrival of their request [s];
    deadline: root deadline [s]; prefix: code of the variants that made them (Pipeline.extend), 0 at an entry task. terms: of
    their request, None for the usual ones.

    Siblings travel together until a batch has room for some of them only; then the family is cut in two."""

    id: int
    t0: float
    deadline: float
    prefix: int
    terms: Terms | None = None
    count: int = 1


class Served(Struct, array_like=True, gc=False):
    """Leaf items of one family that ended well. id, count: as in Family; path: the variants that served them."""

    task: int
    id: int
    path: int
    count: int


def size(families: list[Family]) -> int:
    """How many items they are."""
    items = 0
    for family in families:
        items += family.count
    return items


def members(pipeline: Pipeline, task: int, families: list[Family]) -> list[int]:
    """Ids of these items of a task."""
    return [item for family in families for item in pipeline.members(task, family.id, family.count)]


def without(families: list[Family], places: Collection[int], shift: int) -> tuple[list[Family], list[Family]]:
    """A batch's items but those at these places, in order, and these one by one. shift: of their task (Pipeline.shifts)."""
    kept: list[Family] = []
    taken: list[Family] = []
    place = 0
    for family in families:
        begin = 0
        for end in range(family.count + 1):
            if end == family.count or place + end in places:
                if end > begin:
                    kept.append(_part(family, begin, end, shift))
                if end < family.count:
                    taken.append(_part(family, end, end + 1, shift))
                begin = end + 1
        place += family.count
    return kept, taken


def _part(family: Family, begin: int, end: int, shift: int) -> Family:
    first = family.id + (begin << shift)
    return Family(first, family.t0, family.deadline, family.prefix, family.terms, end - begin)
