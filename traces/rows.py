"""Lines and cells of a trace file: times, dates and counts as text, and the sentence that says where one is wrong."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from math import inf, isclose, isfinite
from pathlib import Path

from loki_rl.traces.demand import TraceError

MAX_COUNT = 10**9
MAX_LINE = 4 << 20
# A packed file of few bytes may hold this much [characters]; a larger one so many times its size.
LEAST_UNPACKED, MAX_RATIO = 1 << 19, 100

Line = tuple[int, str]  # its number in the file, its text


def stem(file: Path) -> str:
    """The name of a trace: that of its file without endings, and without what means something to a file system or a page;
    folders are called like it."""
    name = file.name.removesuffix(".gz").removesuffix(".csv")
    return re.sub(r"[^\w.,+=@() -]", "-", name).strip(". ") or "trace"


def read_lines(file: Path) -> Iterator[Line]:
    """Number and text of every line that is not blank; one at a time, since some public traces fill the memory. Raises
    TraceError also for a line or an archive that would."""
    packed = file.suffix == ".gz"
    number = read = 0
    try:
        most = max(LEAST_UNPACKED, MAX_RATIO * file.stat().st_size) if packed else inf
        with (gzip.open if packed else open)(file, "rt", encoding="utf-8-sig") as text:
            while line := text.readline(MAX_LINE):
                number, read = number + 1, read + len(line)
                if len(line) == MAX_LINE:
                    raise TraceError(f"{file}, line {number}: has more than {MAX_LINE >> 20} MB; check the file")
                if read > most:
                    raise TraceError(f"{file}: unpacks to more than {MAX_RATIO} times its size; unpack it yourself")
                if line := line.strip():
                    yield number, line
    except UnicodeDecodeError as error:
        raise TraceError(f"{file}: is not UTF-8 text; expected CSV, packed only if the name ends in .gz") from error
    except (OSError, EOFError, zlib.error) as error:
        raise TraceError(f"{file}: cannot be read ({error}); check the file") from error


def split(line: str) -> list[str]:
    """The cells of a line, without blanks and quotes around them."""
    return [cell.strip().strip('"') for cell in line.split(",")]


def take(line: str, columns: int, where: str) -> list[str]:
    """The cells of a line that must have this many."""
    cells = split(line)
    if len(cells) != columns:
        raise TraceError(f"{where}: expected {columns} values, got {len(cells)} in '{line}'")
    return cells


def time(cell: str, where: str) -> float:
    """A number at or after 0."""
    try:
        found = float(cell)
    except ValueError:
        raise TraceError(f"{where}: '{cell}' is not a number; write the time as one") from None
    if not (isfinite(found) and found >= 0):
        raise TraceError(f"{where}: time {cell} is not at or after 0; count time from the start of the trace")
    return found


def moment(cell: str, where: str) -> float:
    """Seconds since 1970, of a date in ISO 8601 (UTC where it names no zone), or the seconds that stand there."""
    if not _COMPACT.fullmatch(cell):
        try:
            return _seconds(cell)
        except ValueError:
            pass
    raise TraceError(f"{where}: '{cell}' is neither a date as 2021-04-25 17:30:00 nor seconds at or after 0")


# Eight digits would pass for seconds as well as for a day.
_COMPACT = re.compile(r"(19|20)\d{6}")


def _seconds(cell: str) -> float:
    try:
        found = float(cell)
    except ValueError:
        when = datetime.fromisoformat(cell)
        found = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    if not (isfinite(found) and found >= 0):
        raise ValueError(cell)
    return found


def count(cell: str, where: str) -> int:
    """A whole number of requests; some sources write it as 12.0."""
    try:
        found = int(cell.removesuffix(".0"))
    except ValueError:
        raise TraceError(f"{where}: '{cell}' is not a whole number; write the requests of the bin as one") from None
    return in_range(found, where)


def in_range(requests: int, where: str) -> int:
    """The same count, if it is one."""
    if not 0 <= requests <= MAX_COUNT:
        raise TraceError(f"{where}: {requests} requests; a count must lie between 0 and {MAX_COUNT}")
    return requests


def bin_width(file: Path, starts: Iterable[tuple[int, float]]) -> float:
    """Width [s] of the bins that start at these (line number, time [s]); one single bin is 1 s wide."""
    width, before = 0.0, None
    for number, start in starts:
        if before is not None:
            where = f"{file}, line {number}"
            if start <= before:
                raise TraceError(f"{where}: time {start:.12g} is not after {before:.12g}; sort the rows by time")
            width = width or start - before
            # Room for times that were rounded when they were written.
            if not isclose(start - before, width, rel_tol=0.01):
                raise TraceError(
                    f"{where}: bins are {width:g} s wide, but {start:.12g} follows {before:.12g}; write every bin, those "
                    "without requests as 0"
                )
        before = start
    if before is None:
        raise TraceError(f"{file}: holds no bin; add rows below the header")
    return width or 1.0
