"""The command that asks how far the twin is from a plane: fidelity."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from loki_rl.cli import terminal
from loki_rl.cli.flags import Json, writable
from loki_rl.fidelity.measure import PLAYS, document, measure
from loki_rl.fidelity.report import table, write_report
from loki_rl.fidelity.twin import read_run
from loki_rl.fidelity.verdict import Bars
from loki_rl.options import Count, Help


def fidelity(
    run: Annotated[Path, Help("Folder of a run on a plane, or its recording.", "run")],
    bars: Bars,
    plays: Annotated[Count, Help("Times that the twin plays the run, each with another seed.")] = PLAYS,
    logdir: Annotated[Path | None, Help("Write page, pictures, JSON and TensorBoard curves to this folder.")] = None,
    as_json: Json = False,
) -> None:
    """Play what a plane was asked in the twin, and say how far the two are apart."""
    writable(logdir)
    with terminal.progress_bars() as progress:
        found = measure(read_run(run), bars, plays, progress)
    report = None if logdir is None else write_report(found, logdir)
    terminal.say(document(found), as_json, lambda: terminal.shown(table(found)))
    if report is not None:
        terminal.note(f"report: {report}; curves: tensorboard --logdir {logdir}")
