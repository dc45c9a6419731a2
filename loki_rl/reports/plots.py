"""Pictures of runs and plans as PNG; matplotlib is needed only where one is drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loki_rl.core.messages import Outcome
from loki_rl.core.plan import Plan
from loki_rl.core.requests.ledger import Second
from loki_rl.errors import UserError
from loki_rl.reports.phases import HAPPENINGS, Happening, happenings
from loki_rl.reports.summary import DRIVERS
from loki_rl.runs.result import RunResult
from loki_rl.runs.tensorboard.curves import whole_seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

# Okabe and Ito's colours: they differ for colour-blind readers, too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MODE_COLOURS = {"hardware": "#A9D8B8", "accuracy": "#F6CF7C", "shed": "#E8998D", "infeasible": "#8C8C8C"}
HAPPENING_COLOURS: dict[Happening, str] = {
    "fewer servers": "#DCEFE3",
    "cheaper ones step in": "#FBEBC8",
    "all servers": "#A9D8B8",
    "cheaper models": "#F6CF7C",
    "requests lost": "#E8998D",
}
DEMAND_COLOUR = "#D9D9D9"
WINDOWS = 90
LEGEND = 5  # names side by side
STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "axes.axisbelow": True,
    "font.size": 9,
    "axes.titlesize": 10,
}


# A file to write, or one that is open.
Target = Path | BinaryIO


class PlotError(UserError):
    """Nothing can be drawn here; the message is one sentence that says what to install or give."""


class Curve(Struct):
    """A policy over time, all its seeds together; NaN where there is nothing to show."""

    time_s: Floats
    demand_rps: Floats
    goodput_rps: Floats
    servers: Floats
    accuracy: Floats
    violations: Floats
    happenings: list[Happening]


def timeline_png(results: Sequence[RunResult], path: Target) -> None:
    """Demand and goodput, servers, accuracy, violations and what happens over time: a colour for each policy, a column for
    each driver. All results are of one trace. Raises PlotError without matplotlib or results, or if it cannot write."""
    drivers = [driver for driver in DRIVERS if any(done.options.driver == driver for done in results)]
    policies = list(dict.fromkeys(done.options.policy for done in results))
    if not drivers:
        raise PlotError("there is no run to draw; give at least one")
    window_s = max(1, round(max(done.duration_s for done in results) / WINDOWS))
    with drawing(path, _title(results), (2.0 + 5.2 * len(drivers), 9.0)) as figure:
        heights = [1.5, 1, 1, 1, 0.16 + 0.13 * len(policies)]
        axes = figure.subplots(5, len(drivers), sharex=True, sharey="row", squeeze=False, height_ratios=heights)
        for column, driver in enumerate(drivers):
            here = [done for done in results if done.options.driver == driver]
            _timeline(axes[:, column], here, policies, window_s)
            axes[0, column].set_title(driver if len(drivers) > 1 else "")
        _scales(axes[:, 0], results, policies)
        for axis, label in zip(axes[:, 0], _labels(window_s), strict=True):
            axis.set_ylabel(label)
        figure.align_ylabels(axes[:, 0])
        _legend(figure, axes, policies)


@contextmanager
def drawing(path: Target, title: str, size: tuple[float, float]) -> Iterator[Figure]:
    """A figure of this size [inches] that needs no screen, written under its title as PNG when the block ends. Raises
    PlotError without matplotlib, or if it cannot be written."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlotError("plots need matplotlib; install it with: pip install 'loki-rl[plot]'") from error
    with rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=size, layout="constrained")
        yield figure
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", wrap=True)
        try:
            figure.savefig(path, format="png", dpi=130)
        except OSError as error:
            raise PlotError(f"{path} cannot be written: {error.strerror}; name another file") from error


def _title(results: Sequence[RunResult]) -> str:
    first = results[0]
    seeds = len({done.options.seed for done in results})
    assumed = ", assumed figures" if any(done.provenance == "assumed" for done in results) else ""
    pipeline = Path(first.options.pipeline).stem
    return f"{pipeline} on {first.trace}: {first.servers} servers, {seeds} seed{'s'[: seeds > 1]}{assumed}"


def _labels(window_s: int) -> list[str]:
    mean = f"\n(mean of {window_s} s)" if window_s > 1 else ""
    return [f"requests/s{mean}", "servers in use", f"accuracy [%]{mean}", f"SLO violations [%]{mean}", ""]


def _timeline(axes: Any, results: Sequence[RunResult], policies: Sequence[str], window_s: int) -> None:
    rates, servers, accuracy, violations, strips = axes
    for number, policy in enumerate(policies):
        seeds = [done for done in results if done.options.policy == policy]
        if not seeds:
            continue
        curve = _curve(seeds, window_s)
        # Later lines are thinner, so that those which coincide all show.
        line: dict[str, Any] = {"color": _colour(number), "linewidth": max(1.0, 2.6 - 0.5 * number)}
        if seeds[0] is results[0]:
            rates.fill_between(curve.time_s, curve.demand_rps, color=DEMAND_COLOUR, linewidth=0)
        rates.plot(curve.time_s, curve.goodput_rps, **line)
        servers.step(curve.time_s, curve.servers, where="mid", **line)
        accuracy.plot(curve.time_s, 100 * curve.accuracy, **line)
        violations.plot(curve.time_s, 100 * curve.violations, **line)
        _strip(strips, curve, -number)
    servers.axhline(results[0].servers, color="#888888", linewidth=0.9, linestyle="--")
    strips.grid(visible=False)
    strips.set_xlabel("trace time [s]")


def _scales(column: Any, results: Sequence[RunResult], policies: Sequence[str]) -> None:
    """Only when every column is drawn: a limit that is set once no longer grows with what comes after it."""
    rates, servers, _, violations, strips = column
    rates.set_ylim(bottom=0)
    servers.set_ylim(0, 1.08 * max(done.servers for done in results))
    # A little room at the bottom, so that a line at 0 is seen.
    most = max(1.0, violations.get_ylim()[1])
    violations.set_ylim(-0.03 * most, most)
    strips.set_yticks([-number for number in range(len(policies))], policies, fontsize=8)
    strips.set_xlim(0, max(done.duration_s for done in results))


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _strip(axis: Axes, curve: Curve, level: int) -> None:
    """A bar of what happens while the policy rules."""
    for name in HAPPENINGS:
        spans = [(time - 0.5, 1.0) for time, what in zip(curve.time_s, curve.happenings, strict=True) if what == name]
        axis.broken_barh(spans, (level - 0.4, 0.8), color=HAPPENING_COLOURS[name], linewidth=0)


def _curve(seeds: Sequence[RunResult], window_s: int) -> Curve:
    length = min(len(whole_seconds(done.tally, done.duration_s)) for done in seeds)
    rows = [whole_seconds(done.tally, done.duration_s)[:length] for done in seeds]
    figures = np.array([[_figures(second) for second in row] for row in rows], np.float64)
    arrivals, ok, accuracy, servers = figures.sum(axis=0).T
    arrived, served, width = (_window(values, window_s) for values in (arrivals, ok, np.ones(length)))
    return Curve(
        time_s=np.arange(length, dtype=np.float64) + 0.5,
        demand_rps=arrived / width / len(seeds),
        goodput_rps=served / width / len(seeds),
        servers=servers / len(seeds),
        accuracy=_ratio(_window(accuracy, window_s), served),
        violations=_ratio(arrived - served, arrived),
        happenings=happenings(seeds[0])[:length],
    )


def _figures(second: Second) -> tuple[float, ...]:
    return second.arrivals, second.outcomes[Outcome.OK], second.accuracy_sum, second.servers


def _window(values: Floats, window_s: int) -> Floats:
    """Sums over the window around each second, shorter at the ends."""
    total: Floats = np.concatenate(([0.0], np.cumsum(values)))
    places = np.arange(len(values))
    low = np.maximum(places - window_s // 2, 0)
    high = np.minimum(places + (window_s + 1) // 2, len(values))
    sums: Floats = total[high] - total[low]
    return sums


def _ratio(part: Floats, whole: Floats) -> Floats:
    shares: Floats = np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
    return shares


def _legend(figure: Figure, axes: Any, policies: Sequence[str]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Patch(color=DEMAND_COLOUR, label="demand")]
    handles += [Line2D([], [], color=_colour(number), label=policy) for number, policy in enumerate(policies)]
    above = 1.1 if axes.shape[1] > 1 else 1.0  # where columns have names of their own
    axes[0, 0].legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0.0, above), ncols=LEGEND, frameon=False, fontsize=8
    )
    strips = [Patch(color=HAPPENING_COLOURS[name], label=name) for name in HAPPENINGS]
    figure.legend(handles=strips, loc="outside lower right", ncols=len(strips), frameon=False, fontsize=8)


# -- plans ----------------------------------------------------------------------------------------------------------------


def phases_png(plans: Sequence[Plan], path: Target, title: str = "") -> None:
    """Accuracy, servers and served share against demand for a ladder of plans, the modes behind them. Raises PlotError
    without matplotlib or plans, or if it cannot write."""
    if not plans:
        raise PlotError("there is no plan to draw; give at least one demand")
    ordered = sorted(plans, key=lambda plan: plan.demand_rps)
    demand = [plan.demand_rps for plan in ordered]
    rows = [
        ("accuracy [%]", [100 * plan.accuracy for plan in ordered], COLOURS[0]),
        ("servers", [plan.servers for plan in ordered], COLOURS[1]),
        ("served [% of demand]", [100 * plan.served_fraction for plan in ordered], COLOURS[2]),
    ]
    with drawing(path, title, (7.2, 6.4)) as figure:
        axes = figure.subplots(3, 1, sharex=True)
        for axis, (label, values, colour) in zip(axes, rows, strict=True):
            _shade(axis, ordered)
            axis.plot(demand, values, color=colour, marker="o", markersize=3, linewidth=1.4)
            axis.set_ylabel(label)
        axes[1].set_ylim(bottom=0)
        axes[2].set_ylim(0, 105)
        axes[2].set_xlabel("demand [requests/s]")
        figure.align_ylabels(axes)
        _mode_names(axes[0], ordered)


def placements_png(plan: Plan, path: Target, title: str = "") -> None:
    """The servers of every variant of a plan. Raises PlotError without matplotlib or placements, or if it cannot write."""
    if not plan.placements:
        raise PlotError("this plan places nothing; see its reasons")
    names = [f"{place.task}: {place.variant} {place.server_type}".rstrip() for place in plan.placements]
    tasks = list(dict.fromkeys(place.task for place in plan.placements))
    with drawing(path, title, (9.0, 1.0 + 0.32 * len(names))) as figure:
        axis = figure.subplots()
        rows = range(len(names))
        colours = [_colour(tasks.index(place.task)) for place in plan.placements]
        bars = axis.barh(rows, [place.replicas for place in plan.placements], color=colours)
        labels = [f"{place.replicas}, batches of {place.batch}" for place in plan.placements]
        axis.bar_label(bars, labels, padding=3, fontsize=8)
        axis.set_yticks(rows, names)
        axis.invert_yaxis()
        axis.margins(x=0.25)
        axis.locator_params(axis="x", integer=True)
        axis.set_xlabel("servers")


def _phases(plans: Sequence[Plan]) -> list[tuple[str, float, float]]:
    """(mode, first demand, last demand); phases meet half-way between two plans."""
    demands = [plan.demand_rps for plan in plans]
    edges = [demands[0], *((a + b) / 2 for a, b in pairwise(demands)), demands[-1]]
    found: list[tuple[str, float, float]] = []
    for plan, low, high in zip(plans, edges, edges[1:], strict=False):
        if found and found[-1][0] == plan.mode:
            low = found.pop()[1]
        found.append((plan.mode, low, high))
    return found


def _shade(axis: Axes, plans: Sequence[Plan]) -> None:
    for mode, low, high in _phases(plans):
        axis.axvspan(low, high, color=MODE_COLOURS[mode], alpha=0.45, linewidth=0)


def _mode_names(axis: Axes, plans: Sequence[Plan]) -> None:
    for mode, low, high in _phases(plans):
        axis.text((low + high) / 2, 1.02, mode, transform=axis.get_xaxis_transform(), ha="center", fontsize=9)
