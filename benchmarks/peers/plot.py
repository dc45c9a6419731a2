"""One picture of all reports: a row for each peer, with ours as it was in the turns beside that peer. Owns the drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.peers.cases import Figures
from benchmarks.peers.contestants import OURS
from benchmarks.peers.report import Report, medians

# Contestant -> case -> value.
Bars = dict[str, dict[str, float]]
OF_OURS, OF_PEERS = ("tab:blue", "lightskyblue"), ("tab:red", "tab:orange")


def draw(reports: Sequence[Report], file: Path) -> None:
    """Writes a PNG."""
    titles = list(dict.fromkeys(report.title for report in reports))
    figure = Figure(figsize=(18, 1 + 3.5 * len(titles)), layout="constrained")
    axes = figure.subplots(len(titles), 4, squeeze=False)
    for row, title in zip(axes, titles, strict=True):
        found = {
            key: figures for report in reports if report.title == title for key, figures in medians(report.rows).items()
        }
        _bars(row[0], _values(found, "null", "p50_ms"), f"{title}: null chain, median latency [ms]", log=True)
        _bars(row[1], _values(found, "null", "rps"), "null chain, requests/s", log=True)
        _bars(row[2], _values(found, "reading", "rps", of_offered=True), "reading, share served in time")
        _bars(row[3], _values(found, "reading", "exact_rps", of_offered=True), "the same x accuracy")
    figure.savefig(file, dpi=100)


def _values(found: Mapping[tuple[str, str, str], Figures], work: str, name: str, of_offered: bool = False) -> Bars:
    """of_offered: as a share of the demand, where there was one."""
    bars: Bars = {}
    for (served, case, contestant), figures in found.items():
        if served == work and name in figures and (not of_offered or "offered_rps" in figures):
            bars.setdefault(contestant, {})[case] = figures[name] / (figures["offered_rps"] if of_offered else 1)
    return bars


def _bars(axes: Axes, bars: Bars, title: str, log: bool = False) -> None:
    axes.set_title(title, fontsize=9)
    cases = list(dict.fromkeys(case for values in bars.values() for case in values))
    width = 0.8 / max(1, len(bars))
    ours, peers = iter(OF_OURS), iter(OF_PEERS)
    for place, (contestant, values) in enumerate(bars.items()):
        there = [number for number, case in enumerate(cases) if case in values]
        heights = [values[cases[number]] for number in there]
        color = next(ours if contestant.startswith(OURS) else peers)
        axes.bar([number + place * width for number in there], heights, width, label=contestant, color=color)
    axes.set_xticks([number + 0.4 for number in range(len(cases))], cases, rotation=15, fontsize=7)
    if bars:
        axes.set_yscale("log" if log else "linear")
        axes.legend(fontsize=6)
