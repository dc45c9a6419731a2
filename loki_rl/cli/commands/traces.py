"""Commands about traces: what one is like, and how to make one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec

from loki_rl.cli import terminal
from loki_rl.cli.flags import Json
from loki_rl.options import Count, Help, Positive, Seed
from loki_rl.traces.arrivals import arrivals
from loki_rl.traces.generate import PEAK, generate
from loki_rl.traces.sketch import sketch
from loki_rl.traces.stats import trace_stats as stats_of
from loki_rl.traces.trace import Trace, TraceOptions, load_trace, save_trace


def trace_stats(
    file: Annotated[str, Help("Trace file, or the name of one that ships.", "file")],
    options: TraceOptions,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Mean, peak and burstiness of a trace, and a small plot."""
    _say_trace(load_trace(file), options, seed, {}, as_json)


def trace_generate(
    kind: Annotated[str, Help("flash_crowd, diurnal, ramp, bursts, steps, mmpp or bursty (as for agents).", "kind")],
    out: Annotated[Path, Help("File to write, .csv or .csv.gz.")],
    seconds: Annotated[Count, Help("Length [s].")] = 600,
    base_rps: Annotated[Positive, Help("Lowest rate [1/s]; of bursty the mean.")] = 10.0,
    peak: Annotated[Positive, Help("Highest rate over the lowest.")] = PEAK,
    period_s: Annotated[Positive | None, Help("Period of what repeats [s] (default: as the kind has it).")] = None,
    idc: Annotated[Positive, Help("Variance over mean of the counts given the rate; 1 is Poisson.")] = 1.0,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Make a trace: the same file for the same arguments."""
    made = generate(kind, seconds, base_rps, seed, peak=peak, idc=idc, period_s=period_s)
    save_trace(made, out)
    _say_trace(made, TraceOptions(), seed, {"file": str(out)}, as_json)


def _say_trace(trace: Trace, options: TraceOptions, seed: int, head: dict[str, Any], as_json: bool) -> None:
    stats = stats_of(trace, options, seed)
    row = {**head, **msgspec.to_builtins(stats)}

    def show() -> None:
        for text in sketch(arrivals(trace, options, seed), stats.length_s, stats.bin_s):
            terminal.line(text)
        windows = {f"idc in {one.window_s:g} s": one.idc for one in stats.idc_windows}
        pairs = {name: value for name, value in row.items() if name != "idc_windows" and value != ""}
        terminal.pairs(pairs | windows)
        if trace.synthetic:
            terminal.line(trace.synthetic)

    terminal.say(row, as_json, show)
