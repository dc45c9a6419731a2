"""A demand trace: requests per bin of time, or the exact time of each. Owns the file format, its checks and the window that
is replayed; draws nothing and knows no pipeline."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from difflib import get_close_matches
from itertools import pairwise
from math import floor, isclose, isfinite
from pathlib import Path

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

DATA = Path(__file__).resolve().parent / "data"
ENDINGS = (".csv", ".csv.gz")
COUNTS = ("t_seconds", "requests")
# Column of an arrivals file -> its unit in seconds.
ARRIVALS = {"t_ms": 1e-3, "t_seconds": 1.0}
FORMS = "'t_seconds,requests' (requests per bin) or 't_ms' (one arrival a line)"
MAX_COUNT = 10**9


class TraceError(ValueError):
    """A trace or the options to replay it are wrong; the message is one sentence: where, what, what to do."""


class Trace(Struct, frozen=True, eq=False):
    """Demand over time.

    starts_s: [n] start of each bin [s], rising. counts: [n] requests in each. bin_s: width of every bin [s]; 0 means that
    `starts_s` are the exact times of arrivals, one request each.
    """

    name: str
    starts_s: NDArray[np.float64]
    counts: NDArray[np.int64]
    bin_s: float

    @property
    def exact(self) -> bool:
        """Whether the time of every single arrival is known."""
        return self.bin_s == 0

    @property
    def from_s(self) -> float:
        """Where the trace begins [s]: its first bin; 0 for exact arrivals, whose first one may come later."""
        return 0.0 if self.exact else float(self.starts_s[0])

    @property
    def to_s(self) -> float:
        """Where the trace ends [s]: the end of its last bin, or of the whole second of its last arrival."""
        last = float(self.starts_s[-1])
        return floor(last) + 1.0 if self.exact else last + self.bin_s


class TraceOptions(Struct, frozen=True, kw_only=True):
    """How a trace is replayed. from_s, to_s: window in the trace's own time [s], whole trace by default.

    compress: time runs this many times faster, so rates rise by it. Then at most one of: mean_rps, the mean rate of the
    replay [requests/s]; rate_scale, how many requests are made of one, on average.
    """

    from_s: float | None = None
    to_s: float | None = None
    compress: float = 1.0
    mean_rps: float | None = None
    rate_scale: float | None = None


def window(trace: Trace, options: TraceOptions) -> tuple[float, float]:
    """The window to replay [s, in the trace's own time]. Raises TraceError if the options contradict the trace or
    themselves."""
    for key in ("compress", "mean_rps", "rate_scale"):
        value = getattr(options, key)
        if value is not None and not (isfinite(value) and value > 0):
            raise TraceError(f"{key} must be above 0, not {value:g}")
    if options.mean_rps is not None and options.rate_scale is not None:
        raise TraceError("mean_rps and rate_scale exclude each other; give one of them")
    start = trace.from_s if options.from_s is None else options.from_s
    end = trace.to_s if options.to_s is None else options.to_s
    if not trace.from_s <= start < end <= trace.to_s:
        raise TraceError(
            f"trace '{trace.name}' runs from {trace.from_s:g} to {trace.to_s:g} s; the window {start:g} to {end:g} s does "
            "not lie in it"
        )
    return start, end


def load_trace(path: str | Path) -> Trace:
    """Read a CSV or CSV.gz file, or a shipped trace by its bare name such as "flash_crowd".

    Columns: `t_seconds,requests`, one row a bin of equal width (one single row is a bin of 1 s); or `t_ms` or `t_seconds`
    alone, one arrival a line in order of time. Raises TraceError, with file and line, for anything else.
    """
    file = find_trace(path)
    lines = _lines(file)
    line, header = next(lines, (0, ""))
    if not line:
        raise TraceError(f"{file}: is empty; expected the columns {FORMS}")
    columns = tuple(column.strip() for column in header.split(","))
    if columns == COUNTS:
        return _count_trace(file, lines)
    if len(columns) == 1 and columns[0] in ARRIVALS:
        return _arrival_trace(file, lines, ARRIVALS[columns[0]])
    raise TraceError(f"{file}, line {line}: unknown columns '{header}'; expected {FORMS}")


def save_trace(trace: Trace, path: Path) -> None:
    """Write a trace as CSV in the form that `load_trace` reads; an exact one to the microsecond."""
    if trace.exact:
        rows = [f"{1000 * time:.3f}" for time in trace.starts_s]
    else:
        rows = [f"{start:.12g},{count}" for start, count in zip(trace.starts_s, trace.counts, strict=True)]
    path.write_text("\n".join(["t_ms" if trace.exact else ",".join(COUNTS), *rows]) + "\n", encoding="utf-8")


def find_trace(name: str | Path) -> Path:
    """The file of a path or of a shipped trace's bare name. Raises TraceError if there is none, and suggests the nearest."""
    given = Path(name).expanduser()
    if given.is_file():
        return given
    if len(given.parts) != 1 or given.name.endswith(ENDINGS):
        raise TraceError(f"{given}: no such trace file; check the path")
    for ending in ENDINGS:
        if (DATA / f"{given}{ending}").is_file():
            return DATA / f"{given}{ending}"
    known = sorted(_stem(file) for file in DATA.iterdir() if file.name.endswith(ENDINGS))
    close = get_close_matches(str(given), known, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(known)}, or give the path of a file"
    raise TraceError(f"no trace '{given}'; {hint}")


def _stem(file: Path) -> str:
    return file.name.removesuffix(".gz").removesuffix(".csv")


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Number and text of every line that is not blank."""
    try:
        data = file.read_bytes()
        text = (gzip.decompress(data) if file.suffix == ".gz" else data).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TraceError(f"{file}: is not UTF-8 text; expected CSV, packed only if the name ends in .gz") from error
    except (OSError, EOFError, zlib.error) as error:
        raise TraceError(f"{file}: cannot be read ({error}); check the file") from error
    yield from ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip())


def _count_trace(file: Path, lines: Iterator[tuple[int, str]]) -> Trace:
    numbers, starts, counts = [], [], []
    for number, line in lines:
        where = f"{file}, line {number}"
        cells = line.split(",")
        if len(cells) != len(COUNTS):
            raise TraceError(f"{where}: expected 2 values, got {len(cells)} in '{line}'")
        numbers.append(number)
        starts.append(_time(cells[0], where))
        counts.append(_count(cells[1], where))
    bin_s = _bin_s(file, starts, numbers)
    return Trace(_stem(file), np.array(starts, np.float64), np.array(counts, np.int64), bin_s)


def _arrival_trace(file: Path, lines: Iterator[tuple[int, str]], unit_s: float) -> Trace:
    times: list[float] = []
    for number, line in lines:
        time = _time(line, f"{file}, line {number}")
        if times and time < times[-1]:
            raise TraceError(f"{file}, line {number}: {time:g} comes after {times[-1]:g}; sort the arrivals by time")
        times.append(time)
    if not times:
        raise TraceError(f"{file}: holds no arrival; add one line for each")
    return Trace(_stem(file), np.array(times, np.float64) * unit_s, np.ones(len(times), np.int64), 0.0)


def _bin_s(file: Path, starts: list[float], numbers: list[int]) -> float:
    if not starts:
        raise TraceError(f"{file}: holds no bin; add rows below the header")
    if len(starts) == 1:
        return 1.0
    bin_s = starts[1] - starts[0]
    for number, (start, after) in zip(numbers[1:], pairwise(starts), strict=True):
        where = f"{file}, line {number}"
        if after <= start:
            raise TraceError(f"{where}: time {after:g} is not after {start:g}; sort the rows by time")
        # Room for times that were rounded when they were written.
        if not isclose(after - start, bin_s, rel_tol=0.01):
            raise TraceError(
                f"{where}: bins are {bin_s:g} s wide, but {after:g} follows {start:g}; write every bin, those without "
                "requests as 0"
            )
    return bin_s


def _time(cell: str, where: str) -> float:
    try:
        time = float(cell)
    except ValueError:
        raise TraceError(f"{where}: '{cell}' is not a number; write the time as one") from None
    if not (isfinite(time) and time >= 0):
        raise TraceError(f"{where}: time {cell} is not at or after 0; count time from the start of the trace")
    return time


def _count(cell: str, where: str) -> int:
    try:
        count = int(cell)
    except ValueError:
        raise TraceError(f"{where}: '{cell}' is not a whole number; write the requests of the bin as one") from None
    if not 0 <= count <= MAX_COUNT:
        raise TraceError(f"{where}: {count} requests; a count must lie between 0 and {MAX_COUNT}")
    return count
