"""The table of a study as a picture: bars by name, or lines over a number."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from loki_rl.paper.study import Study
from loki_rl.reports.plots import COLOURS, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def study_png(study: Study, path: Path) -> None:
    """A panel for every column that the study's chart names. Raises PlotError without matplotlib or if it cannot write."""
    chart = study.chart
    assert chart is not None, "a study without a chart is not drawn"
    height = 2.9 if chart.kind == "lines" else 1.2 + 0.3 * len(study.rows)
    with drawing(path, study.title, (1.4 + 2.7 * len(chart.panels), height)) as figure:
        axes = figure.subplots(1, len(chart.panels), squeeze=False, sharey=chart.kind == "bars")[0]
        for number, (axis, name) in enumerate(zip(axes, chart.panels, strict=True)):
            values = [float(row[study.columns.index(name)]) for row in study.rows]
            if chart.kind == "bars":
                _bars(axis, [str(row[0]) for row in study.rows], values, COLOURS[number])
            else:
                _line(axis, [float(row[0]) for row in study.rows], values, COLOURS[number], study.columns[0])
            axis.set_title(name, loc="left")
        if chart.kind == "bars":
            axes[0].set_ylabel(study.columns[0])


def _bars(axis: Axes, names: list[str], values: list[float], colour: str) -> None:
    axis.barh([-place for place in range(len(names))], values, color=colour, height=0.66)
    for place, value in enumerate(values):
        axis.annotate(f"{value:.3g}", (value, -place), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axis.set_yticks([-place for place in range(len(names))], names)
    axis.grid(visible=False, axis="y")
    axis.margins(x=0.2)


def _line(axis: Axes, xs: list[float], values: list[float], colour: str, label: str) -> None:
    axis.plot(xs, values, color=colour, marker="o", markersize=4, linewidth=1.5)
    axis.set_xlabel(label)
    axis.set_ylim(bottom=min(0.0, *values) if min(values) < 0.5 * max(values) else None)
