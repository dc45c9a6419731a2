"""Trace files: which format a file has, those of our own, and where shipped ones lie."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from difflib import get_close_matches
from os.path import expanduser, isdir, isfile
from pathlib import Path

import numpy as np

from loki_rl.core.requests.items import MAX_PRIORITY
from loki_rl.traces.demand import Trace as Trace
from loki_rl.traces.demand import TraceError as TraceError
from loki_rl.traces.demand import TraceOptions as TraceOptions
from loki_rl.traces.demand import Wishes as Wishes
from loki_rl.traces.demand import window as window
from loki_rl.traces.recording import is_recording, read_recording
from loki_rl.traces.rows import Line, read_lines, stem, take, time
from loki_rl.traces.sources import FORMATS, Columns, Format, bins, columns_of

DATA = Path(__file__).resolve().parent / "data"
MAX_RETRIES = 1000
ENDINGS = (".csv", ".csv.gz")
COUNTS = ("t_seconds", "requests")
# Column of an arrivals file -> its unit in seconds.
ARRIVALS = {"t_ms": 1e-3, "t_seconds": 1.0}
# Columns of Wishes beside it, of which any may be left out -> their type, and their largest value.
WISHES: dict[str, tuple[type[int] | type[float], int]] = {
    "priority": (int, MAX_PRIORITY),
    "min_accuracy": (float, 1),
    "retries": (int, MAX_RETRIES),
}


def load_trace(path: str | Path) -> Trace:
    """Read a CSV or CSV.gz file, a recording, or a shipped trace by its bare name such as "flash_crowd". path: any of these.

    The header says which format it is: `t_seconds,requests`, one row a bin of equal width (one single row is a bin of 1 s);
    `t_ms` or `t_seconds`, one arrival a line in order of time, and any of WISHES after it; or one of sources.FORMATS. Raises
    TraceError, with file and line, for anything else.
    """
    file = find_trace(path)
    if is_recording(file):
        return read_recording(file)
    lines = read_lines(file)
    number, header = next(lines, (0, ""))
    if not number:
        raise TraceError(f"{file}: is empty; expected the columns {_known()}")
    columns = columns_of(header)
    for form in (*OWN, *FORMATS):
        if form.fits(columns):
            return form.read(form.title, file, columns, lines)
    raise TraceError(f"{file}, line {number}: unknown columns '{_short(header)}'; expected {_known()}")


def save_trace(trace: Trace, path: Path) -> None:
    """Write a trace as CSV (packed if the name ends in .gz) in a form that `load_trace` reads; an exact one to the
    microsecond. Equal traces give equal bytes. Raises TraceError if the name or the folder is of no use."""
    if not path.name.endswith(ENDINGS):
        raise TraceError(f"{path}: a trace file's name must end in {' or '.join(ENDINGS)}")
    header, rows = COUNTS, [f"{start:.12g},{count}" for start, count in zip(trace.starts_s, trace.counts, strict=True)]
    if trace.exact:
        asked = [] if trace.wishes is None else [getattr(trace.wishes, name) for name in WISHES]
        cells = ([f"{1000 * time:.3f}" for time in trace.starts_s], *([f"{one:.12g}" for one in column] for column in asked))
        header, rows = ("t_ms", *(WISHES if asked else ())), list(map(",".join, zip(*cells, strict=True)))
    data = ("\n".join([",".join(header), *rows]) + "\n").encode()
    try:
        path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    except OSError as error:
        raise TraceError(f"{path}: cannot be written ({error.strerror}); check the folder") from error


def _known() -> str:
    return ", ".join(map(str, (*OWN, *FORMATS)))


def _short(header: str) -> str:
    return header if len(header) <= 80 else f"{header[:77]}..."


def find_trace(name: str | Path) -> Path:
    """The file of a path or of a shipped trace's bare name. Raises TraceError if there is none, and suggests the nearest."""
    given = Path(expanduser(name))
    if isfile(given):
        return given
    if isdir(given):
        raise TraceError(f"{given}: is a folder; name a file")
    if len(given.parts) != 1 or given.name.endswith(ENDINGS):
        raise TraceError(f"{given}: no such trace file; check the path")
    for ending in ENDINGS:
        if isfile(DATA / f"{given}{ending}"):
            return DATA / f"{given}{ending}"
    known = sorted(stem(file) for file in DATA.iterdir() if file.name.endswith(ENDINGS))
    close = get_close_matches(str(given), known, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(known)}, or give the path of a file"
    raise TraceError(f"no trace '{given}'; {hint}")


def _counts(_: str, file: Path, __: Columns, lines: Iterator[Line]) -> Trace:
    return Trace(stem(file), *bins(file, lines, time))


def _arrivals(_: str, file: Path, columns: Columns, lines: Iterator[Line]) -> Trace:
    times: list[float] = []
    asked: dict[str, list[float]] = {name: [] for name in columns[1:]}
    for number, line in lines:
        where = f"{file}, line {number}"
        cells = take(line, len(columns), where)
        found = time(cells[0], where)
        if times and found < times[-1]:
            raise TraceError(f"{where}: {found:g} comes after {times[-1]:g}; sort the arrivals by time")
        times.append(found)
        for (name, column), cell in zip(asked.items(), cells[1:], strict=True):
            column.append(_wish(name, cell, where))
    if not times:
        raise TraceError(f"{file}: holds no arrival; add one line for each")
    seconds = np.array(times, np.float64) * ARRIVALS[columns[0]]
    columns_of_all = (np.array(asked.get(name, [0] * len(times)), kind) for name, (kind, _) in WISHES.items())
    return Trace(stem(file), seconds, np.ones(len(times), np.int64), 0.0, wishes=Wishes(*columns_of_all) if asked else None)


def _wish(name: str, cell: str, where: str) -> float:
    kind, most = WISHES[name]
    try:
        found = kind(cell)
    except ValueError:
        found = -1
    if not 0 <= found <= most:
        raise TraceError(f"{where}: {name} '{cell}' is not a {'whole ' if kind is int else ''}number from 0 to {most}")
    return found


def _is_arrivals(columns: Columns) -> bool:
    wishes = columns[1:]
    return columns[0] in ARRIVALS and set(wishes) <= WISHES.keys() and len(set(wishes)) == len(wishes)


OWN = (
    Format("requests per bin", ",".join(COUNTS), lambda columns: columns == COUNTS, _counts),
    Format("one arrival a line", f"t_ms[,{'][,'.join(WISHES)}]", _is_arrivals, _arrivals),
)
