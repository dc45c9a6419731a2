"""Windows of demand by family: of every generated kind, and cut from traces, at one mean rate. Owns which seconds those
are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from loki_rl.runs.options import RunOptions
from loki_rl.traces.generate import generate
from loki_rl.traces.trace import load_trace, save_trace

WINDOW_S = 300
KINDS = ("bursts", "flash_crowd", "mmpp", "steps")
BASE_RPS = 100.0


class Window(Struct, frozen=True):
    """One window of demand; the policy of its options is still open."""

    family: str
    number: int
    level: float
    options: RunOptions


def generated(folder: Path, of: RunOptions, level: float, number: int) -> Iterator[Window]:
    """Window `number` of every kind, written to the folder unless it is there. of: all but what is played; level: its mean
    [1/s]."""
    for kind in KINDS:
        path = folder / f"{kind}-{number}.csv.gz"
        if not path.exists():
            save_trace(generate(kind, WINDOW_S, BASE_RPS, number + 1), path)
        yield Window(kind, number, level, replace(of, trace=str(path), seed=number, mean_rps=level))


def cut(traces: Mapping[Path, float], of: RunOptions, level: float, number: int, parts: int) -> Iterator[Window]:
    """The window in the middle of one of so many equal parts of each trace. traces: and how much their time is compressed at
    most; less where windows would overlap."""
    for path, most in traces.items():
        trace = load_trace(str(path))
        part = (trace.to_s - trace.from_s) / parts
        compress = min(most, part / WINDOW_S)
        start = trace.from_s + part * (number + 0.5) - compress * WINDOW_S / 2
        end = min(start + compress * WINDOW_S, trace.to_s)  # the last window may end with the trace
        played = replace(of, trace=str(path), seed=number, mean_rps=level, compress=compress, from_s=start, to_s=end)
        yield Window(path.name.removesuffix(".gz").removesuffix(".csv"), number, level, played)
