"""Rows of a chunk as columns of whole numbers: times in microseconds, each column in as few bytes a value as it needs, and
the bytes of equal weight together, which zlib packs well."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from msgspec.structs import astuple
from numpy.typing import NDArray

from loki_rl.core.messages import Outcome
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
# Of the other kinds the rows stay as they are: they hold more than numbers, and there are few.
NUMBERS: tuple[type[Row], ...] = (Begun, Arrival, Answer, Handed, Service, Returned, Lost, ModelLoad, Usage)
TYPES = {"float": "f8", "int": "i4", "bool": "?", "Outcome": "i4"}
TICKS = 1e6
# Not times: kept as they are.
EXACT = ("min_accuracy", "accuracy")
# A router counts its batches for years.
LONG = ("batch",)
# No time is farther [s], and a recording that says so is none.
FARTHEST_S = float(1 << 40)
FARTHEST = 1 << 63
# More rows than a chunk has.
MOST_ROWS = 1 << 16


def layout(kind: type[Row]) -> np.dtype[Any]:
    """Names and types of the columns of a kind of row."""
    types = kind.__annotations__
    return np.dtype([(name, "i8" if name in LONG else TYPES[types[name]]) for name in kind.__struct_fields__])


DTYPES = {kind: layout(kind) for kind in NUMBERS}


class Column(Struct, array_like=True):
    """n values. width: bytes of each in `planes`, all first bytes first; they are what is added to the one before, `base` at
    first (zigzag: odd ones are negative), or to `base`."""

    base: int
    width: int
    steps: bool
    planes: bytes


class Table(Struct, array_like=True):
    """All rows of a kind. kind: its tag."""

    kind: str
    count: int
    columns: list[Column]


class Chunk(Struct, array_like=True):
    """What one process writes at once."""

    tables: list[Table]
    rows: list[Queue | Planning]


class Part(Struct):
    """What a chunk holds: columns by kind of row, and the rows of the other kinds."""

    columns: dict[type[Row], Columns]
    rows: list[Queue | Planning]


def tag(kind: type[Row]) -> str:
    return str(kind.__struct_config__.tag)


BY_TAG = {tag(kind): kind for kind in NUMBERS}
chunk_decoder = msgspec.msgpack.Decoder(Chunk)


def as_columns(kind: type[Row], rows: Iterable[AnyRow]) -> Columns:
    """Rows of one kind that has only numbers."""
    return np.array([astuple(row) for row in rows], DTYPES[kind])


def grouped(rows: Iterable[AnyRow]) -> Part:
    """Rows by kind, each kind in the order in which they are given."""
    found: defaultdict[type[Row], list[Any]] = defaultdict(list)
    for row in rows:
        found[type(row)].append(row)
    rest = found.pop(Queue, []) + found.pop(Planning, [])
    return Part({kind: as_columns(kind, mine) for kind, mine in found.items()}, rest)


def pack(rows: Iterable[AnyRow]) -> bytes:
    """The content of a chunk."""
    part = grouped(rows)
    return msgspec.msgpack.encode(Chunk([_table(kind, mine) for kind, mine in part.columns.items()], part.rows))


def unpack(content: bytes) -> Part:
    """Raises ValueError or one of decoding.UNREADABLE where it is no chunk."""
    chunk = chunk_decoder.decode(content)
    columns: dict[type[Row], Columns] = {}
    for table in chunk.tables:
        kind = BY_TAG.get(table.kind)
        if kind is None or kind in columns or len(table.columns) != len(kind.__struct_fields__):
            raise ValueError(f"there is no such table as '{table.kind[:20]}'")
        if not 0 < table.count <= MOST_ROWS:
            raise ValueError(f"a table has {table.count} rows")
        columns[kind] = _rows(kind, table)
    return Part(columns, chunk.rows)


def _table(kind: type[Row], mine: Columns) -> Table:
    if kind is Service:
        # Batches of a task are numbered in turn.
        mine = mine[np.argsort(mine["task"], kind="stable")]
    whole = {name: _whole(name, mine[name]) for name in kind.__struct_fields__}
    if kind is Service:
        whole["begin"] = _other_end(whole)
    if kind is Answer:
        # So that both together give the very moment at which the request arrived.
        whole["latency_s"] = whole["at"] - _whole("at", mine["at"] - mine["latency_s"])
    return Table(tag(kind), len(mine), [_column(values) for values in whole.values()])


def _rows(kind: type[Row], table: Table) -> Columns:
    names = kind.__struct_fields__
    whole = {name: _values(name, one, table.count) for name, one in zip(names, table.columns, strict=True)}
    if kind is Service:
        whole["begin"] = _other_end(whole)
    found = np.zeros(table.count, DTYPES[kind])
    for name, values in whole.items():
        found[name] = _told(name, DTYPES[kind][name], values)
    return found


def _other_end(whole: dict[str, Columns]) -> Columns:
    """When a batch began, from what passed between that and its end beside the engine's own time; and that from when it
    began."""
    return whole["end"] - whole["seconds"] - whole["begin"]


def _whole(name: str, values: Columns) -> Columns:
    """As whole numbers."""
    if name in EXACT:
        return np.ascontiguousarray(values).view(np.int64)
    if values.dtype.kind == "f":
        values = np.rint(np.clip(values, -FARTHEST_S, FARTHEST_S) * TICKS)
    return values.astype(np.int64)


def _told(name: str, dtype: np.dtype[Any], whole: Columns) -> Columns:
    """As they were."""
    if name in EXACT:
        return whole.view(np.float64)
    if dtype.kind == "f":
        return whole / TICKS
    least, most = _range(name, dtype)
    if whole.min() < least or whole.max() > most:
        raise ValueError(f"a column '{name}' holds what no run has")
    return whole


def _range(name: str, dtype: np.dtype[Any]) -> tuple[int, int]:
    if name == "outcome":
        return 0, len(Outcome) - 1
    return (0, 1) if dtype.kind == "b" else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))


def _column(whole: Columns) -> Column:
    least = int(whole.min())
    plain = (whole - least).view(np.uint64)
    steps = np.diff(whole, prepend=whole[0])
    zigzag = ((steps << 1) ^ (steps >> 63)).view(np.uint64)
    widths = _width(int(plain.max())), _width(int(zigzag.max()))
    if widths[1] < widths[0]:
        return Column(int(whole[0]), widths[1], True, _planes(zigzag, widths[1]))
    return Column(least, widths[0], False, _planes(plain, widths[0]))


def _width(most: int) -> int:
    return (most.bit_length() + 7) // 8


def _planes(values: Columns, width: int) -> bytes:
    return values.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :width].T.tobytes()


def _values(name: str, column: Column, count: int) -> Columns:
    width = column.width
    if not 0 <= width <= 8 or len(column.planes) != width * count or not -FARTHEST <= column.base < FARTHEST:
        raise ValueError(f"a column '{name}' is cut short")
    raw = np.zeros((count, 8), np.uint8)
    raw[:, :width] = np.frombuffer(column.planes, np.uint8).reshape(width, count).T
    whole = raw.view("<u8").ravel()
    if column.steps:
        whole = np.cumsum((whole >> 1) ^ (0 - (whole & 1)))
    return whole.view(np.int64) + column.base
