"""Plane beside twin for people: a table in the terminal, and a folder with page, pictures, JSON and curves."""

from __future__ import annotations

import json
from math import isfinite
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from loki_rl.fidelity.bootstrap import LEVEL
from loki_rl.fidelity.comparison import Told
from loki_rl.fidelity.curves import write_curves
from loki_rl.fidelity.measure import Fidelity, document
from loki_rl.fidelity.pictures import distributions_png, timeline_png
from loki_rl.reports import page
from loki_rl.reports.plots import PlotError

REPORT, PAGE, FIGURES = "fidelity.md", "fidelity.html", "fidelity.json"
TIMELINE, DISTRIBUTIONS = "over_time.png", "distributions.png"
NOTHING = "-"
UNITS = {"points": "pt", "count": "", "relative": "%"}
HEADS = ("figure", "plane>", "twin>", "apart>", "interval>", "", "bar>", "verdict", "distance>", "twin's own>")
DISTANCES = "Distance: of whole distributions (Wasserstein, p50: of all latencies, ms); beside it that of the twin's plays."
# Columns for which a terminal has no room.
WIDE = 2


def table(found: Fidelity) -> Table:
    """A row for each figure, 80 characters wide unless names of tasks are long."""
    shown = Table(
        title=title(found), caption="\n".join(notes(found)), box=SIMPLE_HEAD, show_edge=False, padding=0,
        title_justify="left", caption_justify="left",
    )  # fmt: skip
    for head in HEADS[:-WIDE]:
        shown.add_column(head.rstrip(">"), justify="right" if head.endswith(">") else "left", no_wrap=True)
    for row in found.rows:
        shown.add_row(*cells(row)[:-WIDE], style={"outside": "red", "inconclusive": "yellow"}.get(row.verdict or ""))
    return shown


def title(found: Fidelity) -> str:
    """What was compared, in words."""
    options = found.options
    name = Path(options.pipeline).stem
    return f"{name} on {Path(options.trace).stem}, {options.policy}, {options.driver} workers beside the twin"


def notes(found: Fidelity) -> list[str]:
    """How to read the table."""
    plays = len(found.twins)
    load = f"{'more' if found.overloaded else 'no more'} was asked than the best models can serve"
    return [
        f"Verdict: {found.verdict}; {load}.",
        f"Apart: plane less twin (the mean of {plays} play{'s'[: plays > 1]}). Intervals hold {LEVEL:.0%}: blocks "
        f"of {found.block_s:.0f} s, as far back as a second has its reasons, are drawn again from both.",
    ]


def cells(row: Told) -> list[str]:
    """One row of the table."""
    difference = row.difference
    return [
        row.name,
        _number(row.plane),
        _number(row.twin),
        _signed(difference.value),
        f"[{_signed(difference.low)}, {_signed(difference.high)}]",
        UNITS[row.unit],
        _number(row.bar),
        row.verdict or NOTHING,
        _number(row.distance),
        _number(row.own_distance),
    ]


def write_report(found: Fidelity, folder: Path) -> Path:
    """Page, pictures, JSON and TensorBoard curves of a comparison; the page. Without matplotlib it says so. Raises
    OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FIGURES).write_text(json.dumps(_known(document(found)), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    write_curves(found, folder)
    lines = ["# Plane beside twin", "", title(found), "", *page.table(HEADS, map(cells, found.rows)), ""]
    lines += [*(f"- {note}" for note in (*notes(found), DISTANCES)), "", *_pictures(found, folder)]
    text = "\n".join(lines) + "\n"
    (folder / REPORT).write_text(text, encoding="utf-8")
    page.write_page(text, folder / PAGE)
    return folder / REPORT


def _pictures(found: Fidelity, folder: Path) -> list[str]:
    try:
        timeline_png(found, folder / TIMELINE)
        distributions_png(found, folder / DISTRIBUTIONS)
    except PlotError as error:
        return [f"No pictures: {error}."]
    return [f"![Plane and twin over time]({TIMELINE})", "", f"![Latencies and batches of both]({DISTRIBUTIONS})"]


def _known(value: object) -> object:
    """The same with None for what no number says."""
    if isinstance(value, dict):
        return {key: _known(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_known(one) for one in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _number(value: float | None) -> str:
    if value is None or not isfinite(value):
        return NOTHING
    return f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"


def _signed(value: float) -> str:
    return f"{value:+.2f}" if isfinite(value) else NOTHING
