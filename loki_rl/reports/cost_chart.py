"""Costs of policies as a picture: means with their intervals, and paired differences from the cheapest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from loki_rl.reports.paired import Contrast
from loki_rl.reports.plots import COLOURS, PlotError, Target, drawing
from loki_rl.reports.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW = 0.34


def costs_png(found: Sequence[Contrast], path: Target, title: str) -> None:
    """For each driver J of every policy on the left, its differences from the cheapest on the right. Raises PlotError
    without matplotlib or policies, or if it cannot write."""
    found = [one for one in found if one.estimates]
    if not found:
        raise PlotError("there is no cost to draw; give at least one run that counted its servers")
    rows = sum(max(2, len(one.estimates)) for one in found)
    with drawing(path, title, (9.4, 1.1 * len(found) + ROW * rows + 0.6)) as figure:
        heights = [max(2, len(one.estimates)) + 1 for one in found]
        axes = figure.subplots(len(found), 2, squeeze=False, height_ratios=heights)
        for (left, right), one in zip(axes, found, strict=True):
            _costs(left, one, one.driver if len(found) > 1 else "")
            _differences(right, one)


def _costs(axis: Axes, one: Contrast, driver: str) -> None:
    _points(axis, one, {found.policy: found.cost for found in one.estimates})
    n = one.estimates[0].n
    axis.set_xlabel("cost J (less is better)")
    axis.set_xlim(left=0)
    counted = f"mean of {n} windows, 95 % interval" if n > 1 else "one window, so no interval"
    axis.set_title(f"{driver} {counted}".strip(), loc="left")


def _differences(axis: Axes, one: Contrast) -> None:
    axis.set_title(f"J minus J of {one.estimates[0].policy}, same requests", loc="left")
    axis.axvline(0, color="#888888", linewidth=0.9)
    _points(axis, one, {found.policy: found.cost for found in one.differences})
    axis.set_xlabel("difference in J")


def _points(axis: Axes, one: Contrast, values: dict[str, Interval]) -> None:
    """A policy has the colour that it has over time."""
    for place, (policy, value) in enumerate(values.items()):
        colour = COLOURS[one.policies.index(policy) % len(COLOURS)]
        axis.plot([value.low, value.high], [-place, -place], color=colour, linewidth=2.2, solid_capstyle="butt")
        axis.plot([value.value], [-place], marker="o", color=colour, markersize=6)
        text = f"{value.value:.3f}"
        axis.annotate(text, (value.high, -place), (7, 0), textcoords="offset points", va="center", fontsize=8)
    axis.set_yticks([-place for place in range(len(values))], list(values))
    axis.set_ylim(-max(1, len(values)) + 0.4, 0.6)
    axis.grid(visible=False, axis="y")
    axis.margins(x=0.16)
