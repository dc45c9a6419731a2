"""A recording as columns: a structured numpy array for each kind of row, in order of time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
from msgspec import Struct

from loki_rl.flight.file import FlightError, Head, Tail
from loki_rl.flight.packing import DTYPES, Columns, Part, grouped
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

# By which column a kind is in order.
ORDER: dict[type[Row], str] = {Service: "end", ModelLoad: "end", Planning: "answered", Usage: "second", Begun: "origin"}


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
    """Makes columns of rows, some at a time, so that a long run does not stand in memory as objects. only: which kinds are
    kept (default: all)."""

    def __init__(self, only: Collection[type[Row]] = ()) -> None:
        self._only = only
        self._parts: defaultdict[type[Row], list[Columns]] = defaultdict(list)
        self._whole: list[Queue | Planning] = []

    def add(self, rows: Iterable[AnyRow]) -> None:
        """Rows as they come of a Sifter."""
        self.add_part(grouped(rows))

    def add_part(self, part: Part) -> None:
        """Rows as they come of a file."""
        only = self._only
        for kind, mine in part.columns.items():
            if not only or kind in only:
                self._parts[kind].append(mine)
        self._whole += [row for row in part.rows if not only or type(row) in only]

    def flight(self) -> Flight:
        """All that was added, in order of time. The collector is empty then."""
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
            queues=sorted((row for row in self._whole if type(row) is Queue), key=lambda row: row.at),
            plans=sorted((row for row in self._whole if type(row) is Planning), key=lambda row: row.answered),
        )

    def _columns(self, kind: type[Row]) -> Columns:
        parts = self._parts.pop(kind, [])
        whole = np.concatenate(parts) if parts else np.zeros(0, DTYPES[kind])
        order = whole[ORDER.get(kind, "at")]
        # A day of requests is better not copied: those of one process are in order.
        return whole if np.all(order[1:] >= order[:-1]) else whole[np.argsort(order, kind="stable")]


def read_flight(path: Path, only: Collection[type[Row]] = ()) -> tuple[Head, Flight]:
    """A whole recording. only: as in Collector. Raises FlightError."""
    tail, collector = Tail(path), Collector(only)
    try:
        for part in tail.poll():
            collector.add_part(part)
    finally:
        tail.close()
    if tail.head is None:
        raise FlightError(f"{path} is not a recording: it has no head; record one with 'loki-rl serve --record FILE'")
    return tail.head, collector.flight()
