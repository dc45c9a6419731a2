"""Plane and twin drawn over each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from loki_rl.fidelity.comparison import Contrast
from loki_rl.fidelity.curves import over_time
from loki_rl.fidelity.measure import Fidelity
from loki_rl.fidelity.observation import Floats
from loki_rl.reports.plots import COLOURS, DEMAND_COLOUR, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLANE, TWIN = COLOURS[0], COLOURS[1]
OVER_TIME = {"violations": "violations [%]", "accuracy": "accuracy [%]", "servers": "servers", "p99": "p99 [ms]"}
SHARES: Floats = np.concatenate((np.arange(0.01, 0.99, 0.01), np.arange(0.99, 0.9995, 0.001)))
BAR_WIDTH = 0.4
# Of an axis, so that what is the same does not look like noise.
LEAST_RANGE = 0.5


def timeline_png(found: Fidelity, path: Path) -> None:
    """Demand and goodput, then figures over time: the plane as a line, the twin as the mean of its plays with their range
    behind it. Raises PlotError."""
    shown = [one for one in found.found if one.figure.name in OVER_TIME or one.figure.name.startswith("queue ")]
    with drawing(path, "Plane and twin over time", (8.0, 1.5 + 1.3 * len(shown))) as figure:
        first, *rest = figure.subplots(1 + len(shown), 1, sharex=True)
        _rates(first, found)
        for axis, one in zip(rest, shown, strict=True):
            _line(axis, found, one)
            axis.set_ylabel(OVER_TIME.get(one.figure.name, one.figure.name.replace(" ", "\n", 1)))
        rest[-1].set_xlabel("trace time [s]")
        figure.align_ylabels([first, *rest])


def distributions_png(found: Fidelity, path: Path) -> None:
    """Quantiles of the twin's latencies against the plane's, and how large batches of each task were. Raises PlotError."""
    classes = {one.figure.name: one for one in found.found if one.figure.classes}
    batches = [one for name, one in classes.items() if name.startswith("batch ")]
    with drawing(path, "Latencies and batches", (4.0 * (1 + len(batches)), 4.0)) as figure:
        first, *rest = figure.subplots(1, 1 + len(batches), squeeze=False)[0]
        if "p50" in classes:
            _quantiles(first, found, classes["p50"])
        for axis, one in zip(rest, batches, strict=True):
            _sizes(axis, found, one)


def _rates(axis: Axes, found: Fidelity) -> None:
    width_s = found.span.width_s
    axis.fill_between(_times(found), found.plane["arrivals"][:, 0] / width_s, color=DEMAND_COLOUR, label="demand")
    axis.plot(_times(found), found.plane["ok"][:, 0] / width_s, color=PLANE, label="plane")
    axis.plot(_times(found), _plays(found, "ok").mean(axis=0) / width_s, color=TWIN, label="twin")
    axis.set_ylabel("requests/s")
    axis.set_ylim(bottom=0)
    axis.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, frameon=False, fontsize=8)


def _line(axis: Axes, found: Fidelity, one: Contrast) -> None:
    plays = np.stack([over_time(one.figure, twin) for twin in found.twins])
    times = _times(found)
    axis.fill_between(times, plays.min(axis=0), plays.max(axis=0), color=TWIN, alpha=0.25, linewidth=0)
    axis.plot(times, plays.mean(axis=0), color=TWIN, linewidth=1.2)
    axis.plot(times, over_time(one.figure, found.plane), color=PLANE, linewidth=1.2)
    axis.ticklabel_format(axis="y", useOffset=False)
    low, high = axis.get_ylim()
    if high - low < LEAST_RANGE:
        axis.set_ylim(low - LEAST_RANGE / 2, high + LEAST_RANGE / 2)


def _quantiles(axis: Axes, found: Fidelity, one: Contrast) -> None:
    plane, twin = (
        _at(counts, one.figure.values)
        for counts in (found.plane["latency"].sum(axis=0), _plays(found, "latency", None).sum(axis=(0, 1)))
    )
    axis.axline((0.0, 0.0), slope=1.0, color="#888888", linewidth=0.9, linestyle="--")
    axis.plot(twin, plane, ".", color=PLANE, markersize=4)
    axis.set(xlabel="twin [ms]", ylabel="plane [ms]", title="latency, 1 to 99.9 %")


def _at(counts: Floats, values: Sequence[float]) -> Floats:
    """Quantiles of what was counted by class; NaN of nothing."""
    if not counts.sum():
        return np.full(len(SHARES), np.nan)
    passed = counts.cumsum() / counts.sum()
    return np.interp(SHARES, passed, np.array(values, np.float64))


def _sizes(axis: Axes, found: Fidelity, one: Contrast) -> None:
    plane = found.plane[one.figure.classes].sum(axis=0)
    twin = _plays(found, one.figure.classes, None).sum(axis=(0, 1))
    used = np.flatnonzero(plane + twin)
    for counts, colour, label, shift in ((plane, PLANE, "plane", -0.5), (twin, TWIN, "twin", 0.5)):
        heights = 100 * counts[used] / max(1.0, counts.sum())
        axis.bar(np.arange(len(used)) + shift * BAR_WIDTH, heights, BAR_WIDTH, color=colour, label=label)
    step = max(1, len(used) // 8)
    axis.set_xticks(np.arange(len(used))[::step], [str(size) for size in used[::step]])
    axis.set(title=one.figure.name, xlabel="items", ylabel="batches [%]")


def _plays(found: Fidelity, name: str, column: int | None = 0) -> Floats:
    """What was counted in the twin's plays: [plays, spans], or with all classes."""
    whole = np.stack([twin[name] for twin in found.twins])
    return whole if column is None else whole[..., column]


def _times(found: Fidelity) -> Floats:
    return (np.arange(found.span.count, dtype=np.float64) + 0.5) * found.span.width_s
