"""One picture of all reports: the null chain above, *reading* below. Owns the drawing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.peers.contestants import OURS
from benchmarks.peers.report import Report, medians

# Contestant -> case -> value.
Bars = dict[str, dict[str, float]]


def draw(reports: Sequence[Report], file: Path) -> None:
    """Ours is the median over all duels, since each peer met it anew."""
    figure = Figure(figsize=(12, 8), layout="constrained")
    axes = figure.subplots(2, 2)
    _bars(axes[0][0], _values(reports, "null", "p50_ms"), "Null chain: median latency [ms]", log=True)
    _bars(axes[0][1], _values(reports, "null", "rps"), "Null chain: requests/s", log=True)
    _bars(axes[1][0], _values(reports, "reading", "rps"), "reading: requests/s in time")
    _bars(axes[1][1], _values(reports, "reading", "exact_rps"), "reading: requests/s in time x accuracy")
    figure.savefig(file, dpi=120)


def _values(reports: Sequence[Report], work: str, name: str) -> Bars:
    found: dict[str, dict[str, list[float]]] = {}
    for report in reports:
        for (served, case, contestant), figures in medians(report.rows).items():
            if served == work and name in figures:
                found.setdefault(contestant, {}).setdefault(case, []).append(figures[name])
    ordered = sorted(found.items(), key=lambda item: not item[0].startswith(OURS))
    return {contestant: {case: median(values) for case, values in many.items()} for contestant, many in ordered}


def _bars(axes: Axes, bars: Bars, title: str, log: bool = False) -> None:
    axes.set_title(title)
    cases = list(dict.fromkeys(case for values in bars.values() for case in values))
    width = 0.8 / max(1, len(bars))
    for place, (contestant, values) in enumerate(bars.items()):
        there = [number for number, case in enumerate(cases) if case in values]
        heights = [values[cases[number]] for number in there]
        axes.bar([number + place * width for number in there], heights, width, label=contestant)
    axes.set_xticks([number + 0.4 for number in range(len(cases))], cases, rotation=15, fontsize=7)
    if log and bars:
        axes.set_yscale("log")
    if bars:
        axes.legend(fontsize=6)
