"""An evaluation written down: as text, as JSON, and as a folder with a picture and TensorBoard files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from loki_rl.agents.evaluate.evaluation import Report, Row
from loki_rl.agents.evaluate.event_check import same_order
from loki_rl.agents.evaluate.methods import PPO
from loki_rl.agents.evaluate.shifts import Shifted, slow_loads
from loki_rl.reports.statistics import Interval
from loki_rl.runs.event_files import replace_events, scalars

CHARTS = {"cost_j": "cost J", "slo_violation_ratio": "violations", "accuracy": "accuracy", "servers": "servers used"}


def table(report: Report) -> str:
    """The report as text."""
    return "\n".join(_lines(report))


def _lines(report: Report) -> Iterator[str]:
    yield f"{report.pipeline}: {report.windows} test windows, {report.seeds} training seeds"
    yield from (_method(row) for row in report.rows)
    yield from (f"  seed {number}: {_method(row).strip()}" for number, row in enumerate(report.by_seed))
    for gap in report.gaps:
        closed = f"{_percent(gap.share)} [{_percent(gap.ci_low)}, {_percent(gap.ci_high)}]"
        yield (
            f"  gap from {gap.base} closed: {closed if gap.room > 0 else 'none, clairvoyance saves nothing'}; IQM "
            f"gain {gap.iqm:.4f} [{gap.iqm_low:.4f}, {gap.iqm_high:.4f}]; cheaper on {_percent(gap.improved)} of the "
            f"windows; loses {100 * gap.excess:+.3f} points [{100 * gap.excess_low:+.3f}, {100 * gap.excess_high:+.3f}]"
        )
    yield from _shifts(report.shifts)
    yield from _fidelity(report)


def _method(row: Row) -> str:
    return (
        f"  {row.policy:12} J {row.cost_j:.4f} [{row.cost_low:.4f}, {row.cost_high:.4f}]  violations "
        f"{100 * row.slo_violation_ratio:.3f} %  accuracy {row.accuracy:.4f}  servers {row.servers:.2f}  loads "
        f"{row.loads:.1f}  (action {row.action})"
    )


def _shifts(rows: list[Shifted]) -> Iterator[str]:
    last = ""
    for row in rows:
        if row.shift != last:
            yield f"  {row.shift}:"
            last = row.shift
        yield (
            f"    {row.policy:12} J {row.cost_j:.4f}  violations {100 * row.slo_violation_ratio:.3f} %  accuracy "
            f"{row.accuracy:.4f}  servers {row.servers:.2f}  gain over exact {_interval(row.gain)}, "
            f"mean {_interval(row.saved)}"
        )
    if rows:
        yield f"  at load times of 10 and 20 s agents lose at most {100 * slow_loads(rows):.2f} %"


def _fidelity(report: Report) -> Iterator[str]:
    for row in report.fidelity:
        lost = f"{100 * row.fluid.slo_violation_ratio:.2f} / {100 * row.event.slo_violation_ratio:.2f} %"
        yield (
            f"  {row.policy:12} fluid / event: J {row.fluid.cost_j:.4f} / {row.event.cost_j:.4f}, violations {lost}, "
            f"accuracy {row.fluid.accuracy:.4f} / {row.event.accuracy:.4f}, servers {row.fluid.servers:.2f} / "
            f"{row.event.servers:.2f}"
        )
    if report.fidelity:
        widest = max(abs(row.fluid.slo_violation_ratio - row.event.slo_violation_ratio) for row in report.fidelity)
        order = "the same" if same_order(report.fidelity) else "different"
        yield f"  order of methods in both twins: {order}; violations differ by {100 * widest:.2f} points at most"


def _interval(of: Interval) -> str:
    return f"{of.value:.4f} [{of.low:.4f}, {of.high:.4f}]"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def as_json(report: Report) -> dict[str, Any]:
    """The report with the contract's keys."""
    plain: dict[str, Any] = msgspec.to_builtins(report)
    plain.pop("costs")
    extra: dict[str, Any] = {}
    if report.fidelity:
        extra["same_order"] = same_order(report.fidelity)
    if report.shifts:
        extra["slow_loads_violation_ratio"] = slow_loads(report.shifts)
    return {**plain, "gap_closed": plain.pop("gaps"), "results": plain.pop("rows"), **extra}


def write(report: Report, folder: Path) -> None:
    """report.md, report.json, report.png where matplotlib is installed, and one TensorBoard run per method with a point per
    window."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    (folder / "report.md").write_text(f"# Evaluation\n\n```\n{table(report)}\n```\n", encoding="utf-8")
    for row in report.rows:
        events = [scalars(window, {"eval/cost_j": cost}) for window, cost in enumerate(report.costs[row.policy])]
        events.append(scalars(0, {f"serving/{name}": getattr(row, name) for name in ("slo_violation_ratio", "accuracy")}))
        run = folder / "fluid" / row.policy
        run.mkdir(parents=True, exist_ok=True)
        replace_events(run, events)
    _draw(report, folder / "report.png")


def _draw(report: Report, path: Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(10, 6.4 if report.shifts else 2.6), layout="constrained")
    heights = (2, 3) if report.shifts else (1,)
    parts = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    _methods(report, parts[0])
    if report.shifts:
        _shift_chart(report.shifts, parts[1])
    figure.savefig(path, dpi=120)


def _methods(report: Report, figure: Any) -> None:
    names = [row.policy for row in report.rows]
    for place, (part, title) in enumerate(CHARTS.items()):
        axes = figure.add_subplot(1, len(CHARTS), place + 1)
        axes.bar(names, [getattr(row, part) for row in report.rows], color="tab:blue")
        if part == "cost_j":
            low, high = ([getattr(row, f"cost_{end}") for row in report.rows] for end in ("low", "high"))
            axes.vlines(range(len(names)), low, high, color="black")
        if part == "accuracy":
            axes.set_ylim(min(row.accuracy for row in report.rows) - 0.02, 1.0)
        axes.set_title(title, fontsize=9)
        axes.tick_params(axis="x", labelrotation=40, labelsize=8)


def _shift_chart(rows: list[Shifted], figure: Any) -> None:
    """Per shift: what the agents save against `exact`, with its interval, and what both lose."""
    mine = [row for row in rows if row.policy == PPO]
    names, places = [row.shift for row in mine], range(len(mine))
    gains, losses = figure.subplots(1, 2, sharey=True)
    gains.hlines(places, [row.gain.low for row in mine], [row.gain.high for row in mine], color="black")
    gains.plot([row.gain.value for row in mine], places, "o", color="tab:blue", label="IQM, 95 %")
    gains.plot([row.saved.value for row in mine], places, "x", color="tab:red", label="mean")
    gains.legend(fontsize=8)
    gains.axvline(0.0, color="grey", linewidth=0.8)
    gains.set_xscale("symlog", linthresh=0.01)
    gains.set_yticks(places, names, fontsize=8)
    gains.invert_yaxis()
    gains.set_title("cost J that agents save against exact", fontsize=9)
    for policy, mark in (("exact", "s"), (PPO, "o")):
        lost = [100 * row.slo_violation_ratio for row in rows if row.policy == policy]
        losses.plot(lost, places, mark, label=policy, alpha=0.7)
    losses.set_xscale("symlog", linthresh=0.1)
    losses.set_title("violations [%]", fontsize=9)
    losses.legend(fontsize=8)
