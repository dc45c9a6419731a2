"""What becomes of the results of a run: a row, a table, a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loki_rl.runs.run import RunResult


def run_row(done: RunResult) -> dict[str, Any]:
    from loki_rl.runs.run import row

    return row(done)


def show_runs(results: list[RunResult]) -> None:
    from rich.console import Console

    from loki_rl.reports.report import table

    Console().print(table(results))


def write(done: RunResult, logdir: Path | None) -> None:
    if logdir is not None:
        from loki_rl.runs.run_folder import save

        save(done, logdir)
