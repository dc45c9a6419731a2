"""How answers show themselves: pictures and tables, each from a library that is loaded when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from msgspec import Struct

from loki_rl.errors import UserError

if TYPE_CHECKING:
    from pandas import DataFrame


class TableError(UserError):
    """No table can be made here; the message says what to install."""


class Picture(Struct, frozen=True):
    """A PNG that a notebook shows by itself. png: the bytes of the file."""

    png: bytes

    def save(self, path: str | Path) -> Path:
        """Write it, and return where. Raises OSError."""
        Path(path).write_bytes(self.png)
        return Path(path)

    def __repr__(self) -> str:
        return f"Picture({len(self.png) >> 10} KB; .save(path) writes the PNG)"

    def _repr_png_(self) -> bytes:
        return self.png


def picture(draw: Callable[[BinaryIO], None]) -> Picture:
    """What `draw` writes as PNG. Raises PlotError without matplotlib."""
    file = BytesIO()
    draw(file)
    return Picture(file.getvalue())


def frame(rows: Sequence[Mapping[str, object]], index: str | None = None) -> DataFrame:
    """[len(rows)] a table with a column for each key. index: the key that numbers its rows. Raises TableError without
    pandas."""
    try:
        from pandas import DataFrame
    except ImportError as error:
        raise TableError("tables need pandas; install it with: pip install 'loki-rl[notebook]'") from error
    table = DataFrame([dict(row) for row in rows])
    return table if index is None else table.set_index(index)
