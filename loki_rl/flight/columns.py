"""A recording as columns: a structured numpy array for each kind of row, in order of time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import astuple
from numpy.typing import NDArray

from loki_rl.flight.file import FlightError, Head, Tail
from loki_rl.flight.rows import (
    Answer,
    AnyRow,
    Arrival,
    Begun,
    Handed,
    Lost,
    ModelLoad,
    Planning,
    Queue,
    Returned,
    Row,
    Service,
    Usage,
)

Columns = NDArray[Any]
# By which column a kind is in order.
ORDER: dict[type[Row], str] = {Service: "end", ModelLoad: "end", Planning: "answered", Usage: "second", Begun: "origin"}
KINDS = {"float": "f8", "int": "i8", "bool": "?", "Outcome": "i8"}
# Of these kinds the rows stay as they are: they hold more than numbers, and there are few.
WHOLE = (Queue, Planning)


def layout(kind: type[Row]) -> np.dtype[Any]:
    """Names and types of the columns of a kind of row."""
    return np.dtype([(name, KINDS[kind.__annotations__[name]]) for name in kind.__struct_fields__])


DTYPES: dict[type[Row], np.dtype[Any]] = {
    kind: layout(kind) for kind in (Begun, Arrival, Answer, Handed, Service, Returned, Lost, ModelLoad, Usage)
}


class Flight(Struct):
    """What a run did. origin: when trace time 0 was, on the clock of all other times [s], of the latest begin; None if it
    did not begin. Columns are named as the fields of their rows (loki_rl/flight/rows.py); queues and plans are rows."""

    origin: float | None
    arrivals: Columns
    answers: Columns
    handed: Columns
    services: Columns
    returned: Columns
    lost: Columns
    loads: Columns
    usage: Columns
    queues: list[Queue]
    plans: list[Planning]


class Collector:
    """Makes columns of rows, some at a time, so that a long run does not stand in memory as objects."""

    def __init__(self) -> None:
        self._parts: defaultdict[type[Row], list[Columns]] = defaultdict(list)
        self._whole: defaultdict[type[Row], list[Any]] = defaultdict(list)

    def add(self, rows: Iterable[AnyRow]) -> None:
        found: defaultdict[type[Row], list[Any]] = defaultdict(list)
        for row in rows:
            found[type(row)].append(row)
        for kind, mine in found.items():
            if kind in WHOLE:
                self._whole[kind] += mine
            else:
                self._parts[kind].append(np.array([astuple(row) for row in mine], DTYPES[kind]))

    def flight(self) -> Flight:
        """All that was added, in order of time."""
        begun = self._columns(Begun)["origin"]
        return Flight(
            origin=float(begun[-1]) if len(begun) else None,
            arrivals=self._columns(Arrival),
            answers=self._columns(Answer),
            handed=self._columns(Handed),
            services=self._columns(Service),
            returned=self._columns(Returned),
            lost=self._columns(Lost),
            loads=self._columns(ModelLoad),
            usage=self._columns(Usage),
            queues=sorted(self._whole[Queue], key=lambda row: row.at),
            plans=sorted(self._whole[Planning], key=lambda row: row.answered),
        )

    def _columns(self, kind: type[Row]) -> Columns:
        parts = self._parts[kind]
        whole = np.concatenate(parts) if parts else np.zeros(0, DTYPES[kind])
        return whole[np.argsort(whole[ORDER.get(kind, "at")], kind="stable")]


def read_flight(path: Path) -> tuple[Head, Flight]:
    """A whole recording. Raises FlightError."""
    tail, collector = Tail(path), Collector()
    collector.add(tail.poll())
    if tail.head is None:
        raise FlightError(f"{path} is not a recording: it has no head; record one with 'loki-rl serve --record FILE'")
    return tail.head, collector.flight()
