"""An evaluation written down: as text, as JSON, and as a folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from loki_rl.agents.evaluate.evaluation import Report, Row
from loki_rl.agents.evaluate.judge import Verdict
from loki_rl.reports.statistics import Interval
from loki_rl.runs.tensorboard.event_files import replace_events, scalars


def table(report: Report) -> str:
    """The report as text."""
    return "\n".join(_lines(report))


def _lines(report: Report) -> Iterator[str]:
    if report.events:
        yield f"{report.pipeline}, event twin and exact allocator, by family:"
        yield from (_verdict(one) for one in report.events)
    yield f"{report.pipeline}, fluid twin, {report.windows} test windows:"
    yield from (_row(one) for one in report.fluid)


def _verdict(of: Verdict) -> str:
    return (
        f"  {of.policy:28} {of.family or 'all families':28} J {of.cost_j:.4f}  saves {_interval(of.saved)}  loses "
        f"{100 * of.violations:.3f} % ({100 * of.more_lost.value:+.3f} [{100 * of.more_lost.low:+.3f}, "
        f"{100 * of.more_lost.high:+.3f}])  trusted {_percent(of.trusted)}  gap closed {_share(of.share)}  ({of.windows})"
    )


def _row(of: Row) -> str:
    return (
        f"  {of.method:28} J {of.cost_j:.4f}  saves {_interval(of.saved)}  loses {100 * of.slo_violation_ratio:.3f} %  "
        f"accuracy {of.accuracy:.4f}  servers {of.servers:.2f}  loads {of.loads:.1f}  gap closed {_share(of.share)}"
    )


def _interval(of: Interval) -> str:
    return f"{of.value:+.4f} [{of.low:+.4f}, {of.high:+.4f}]"


def _share(of: Interval) -> str:
    return f"{_percent(of.value)} [{_percent(of.low)}, {_percent(of.high)}]"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def as_json(report: Report) -> dict[str, Any]:
    """The report with the contract's keys."""
    plain: dict[str, Any] = msgspec.to_builtins(report)
    return plain


def write(report: Report, folder: Path) -> None:
    """report.md, report.json, and one TensorBoard run per method."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    (folder / "report.md").write_text(f"# Evaluation\n\n```\n{table(report)}\n```\n", encoding="utf-8")
    for row in report.fluid:
        run = folder / "fluid" / re.sub(r"[^\w.]+", "_", row.method)
        run.mkdir(parents=True, exist_ok=True)
        figures = {"final/cost_j": row.cost_j, "final/gap_closed": row.share.value}
        figures |= {f"final/{name}": getattr(row, name) for name in ("slo_violation_ratio", "accuracy", "servers")}
        replace_events(run, [scalars(0, figures)])
