"""Public trace formats, each known by its header. Owns what their columns mean; draws nothing and knows no pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loki_rl.traces.demand import MONDAY_S, Trace, TraceError
from loki_rl.traces.rows import MAX_COUNT, Line, bin_width, count, in_range, moment, split, stem, take

Columns = tuple[str, ...]
Reader = Callable[[str, Path, Columns, Iterator[Line]], Trace]

MINUTE_S = 60.0
WEEK_S = 7 * 86_400.0
FUNCTION = ("HashOwner", "HashApp", "HashFunction", "Trigger")
LLM = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
BURST_GPT = ("Timestamp", "Model", "Request tokens", "Response tokens", "Total tokens", "Log Type")
# What the column of dates and the column of counts are called in exports of counts, in lower case.
DATES = frozenset({"timestamp", "date", "datetime", "time", "ds"})
TALLIES = frozenset(
    {"requests", "count", "counts", "value", "views", "pageviews", "visits", "tweets", "hits", "invocations", "y"}
)


class Format(Struct, frozen=True):
    """A kind of file. title: what it is called; header: what its first line looks like, for people; fits: whether a header's
    columns are its own; read: takes title, file, columns and the lines below the header."""

    title: str
    header: str
    fits: Callable[[Columns], bool]
    read: Reader

    def __str__(self) -> str:
        return f"'{self.header}' ({self.title})"


def _functions(title: str, file: Path, columns: Columns, lines: Iterator[Line]) -> Trace:
    """One row a function, one column a minute: the trace is the sum over all functions."""
    minutes = len(columns) - len(FUNCTION)
    totals = np.zeros(minutes, np.int64)
    number = 0
    for number, line in lines:
        totals += _minutes(line, minutes, f"{file}, line {number}")
    if not number:
        raise TraceError(f"{file}: holds no function; expected one row for each")
    peak = int(totals.argmax())
    in_range(int(totals[peak]), f"{file}, minute {peak + 1}")
    return Trace(stem(file), np.arange(minutes, dtype=np.float64) * MINUTE_S, totals, MINUTE_S, title)


def _minutes(line: str, minutes: int, where: str) -> NDArray[np.int64]:
    cells = line.split(",", len(FUNCTION))
    have = len(cells) - 1 + cells[-1].count(",") + 1
    if have != len(FUNCTION) + minutes:
        raise TraceError(f"{where}: expected {len(FUNCTION) + minutes} values, got {have}")
    try:
        found: NDArray[np.int64] = np.loadtxt([cells[-1]], dtype=np.int64, delimiter=",", ndmin=1)
    except ValueError:
        wrong = next((cell for cell in cells[-1].split(",") if not cell.strip().isdecimal()), None)
        if wrong is not None:
            raise TraceError(f"{where}: '{wrong}' is not a whole number; expected the requests of each minute") from None
        found = np.array([MAX_COUNT + 1])  # whole, but too large for the type
    if not 0 <= found.min() <= found.max() <= MAX_COUNT:
        raise TraceError(f"{where}: a count must lie between 0 and {MAX_COUNT}")
    return found


def _log(title: str, file: Path, columns: Columns, lines: Iterator[Line]) -> Trace:
    """One request a line, its time in the first column. Logs are written as requests end, so they are sorted here."""
    found: list[float] = []
    for number, line in lines:
        where = f"{file}, line {number}"
        found.append(moment(take(line, len(columns), where)[0], where))
    if not found:
        raise TraceError(f"{file}: holds no request; expected one line for each")
    times = np.sort(np.array(found, np.float64))
    # Whole seconds stay whole, so that bins of the log's own clock are bins of the trace.
    began = float(np.floor(times[0]))
    return Trace(stem(file), times - began, np.ones(len(times), np.int64), 0.0, title, clock_s=clock_of(began))


def bins(
    file: Path, lines: Iterator[Line], when: Callable[[str, str], float]
) -> tuple[NDArray[np.float64], NDArray[np.int64], float]:
    """A time and a count a line, of bins of equal width: their starts, counts and width. when: reads a time."""
    rows: list[tuple[int, float]] = []
    counts: list[int] = []
    for number, line in lines:
        where = f"{file}, line {number}"
        start, requests = take(line, 2, where)
        rows.append((number, when(start, where)))
        counts.append(count(requests, where))
    width = bin_width(file, rows)
    return np.array([start for _, start in rows], np.float64), np.array(counts, np.int64), width


def _dated(title: str, file: Path, _: Columns, lines: Iterator[Line]) -> Trace:
    """Time from the first bin on."""
    starts, counts, bin_s = bins(file, lines, moment)
    return Trace(stem(file), starts - starts[0], counts, bin_s, title, clock_s=clock_of(float(starts[0])))


def clock_of(moment_s: float) -> float:
    """Since Monday 00:00 UTC [s], of a moment since 1970. A log that counts from its own beginning names no day."""
    return (moment_s - MONDAY_S) % WEEK_S if moment_s >= WEEK_S else 0.0


def _tallies(title: str, file: Path, _: Columns, lines: Iterator[Line]) -> Trace:
    """One count a line, one line a second."""
    counts = [count(line.strip('"'), f"{file}, line {number}") for number, line in lines]
    if not counts:
        raise TraceError(f"{file}: holds no bin; add rows below the header")
    return Trace(stem(file), np.arange(len(counts), dtype=np.float64), np.array(counts, np.int64), 1.0, title)


def _is_dated(columns: Columns) -> bool:
    return len(columns) == 2 and columns[0].lower() in DATES and columns[1].lower() in TALLIES


FORMATS = (
    Format(
        "Azure Functions 2019, requests per function and minute",
        ",".join((*FUNCTION, "1,2,...")),
        lambda columns: columns[: len(FUNCTION)] == FUNCTION and len(columns) > len(FUNCTION),
        _functions,
    ),
    Format("Azure LLM inference 2023 and 2024, one request a line", ",".join(LLM), lambda columns: columns == LLM, _log),
    Format("BurstGPT, one request a line", ",".join(BURST_GPT), lambda columns: columns == BURST_GPT, _log),
    Format("dated counts, such as Twitter's or Wikipedia's", "timestamp,count", _is_dated, _dated),
    Format(
        "one date a line, each a request",
        "timestamp",
        lambda columns: len(columns) == 1 and columns[0].lower() in DATES,
        _log,
    ),
    Format(
        "one count a line, each of a second",
        "count",
        lambda columns: len(columns) == 1 and columns[0].lower() in TALLIES,
        _tallies,
    ),
)


def columns_of(header: str) -> Columns:
    """The names in a header line."""
    return tuple(split(header))
