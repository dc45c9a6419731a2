"""The command that asks how far the twin is from a plane: fidelity."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from loki_rl.cli import terminal
from loki_rl.cli.flags import Json, UsageError
from loki_rl.fidelity.measure import PLAYS, document, measure
from loki_rl.fidelity.report import table, write_report
from loki_rl.fidelity.twin import Recorded, calibrated, read_run
from loki_rl.fidelity.verdict import Bars
from loki_rl.files.calibration_file import Calibration, load_calibration
from loki_rl.files.user_folders import writable
from loki_rl.options import Count, Help


def fidelity(
    run: Annotated[Path, Help("Folder of a run on a plane, or its recording.", "run")],
    bars: Bars,
    calibration: Annotated[Path | None, Help("Calibration of the twin (see loki-rl calibrate).")] = None,
    fit: Annotated[
        tuple[Path, ...], Help("Other runs, or recordings, to calibrate the twin to, instead; may be repeated.")
    ] = (),
    plays: Annotated[Count, Help("Times that the twin plays the run, each with another seed.")] = PLAYS,
    logdir: Annotated[Path | None, Help("Write page, pictures, JSON and TensorBoard curves to this folder.")] = None,
    as_json: Json = False,
) -> None:
    """Play what a plane was asked in the twin, and say how far the two are apart."""
    writable(logdir)
    with terminal.progress_bars() as progress:
        recorded = read_run(run)
        found = measure(recorded, bars, plays, _calibration(recorded, calibration, fit), progress)
    report = None if logdir is None else write_report(found, logdir)
    terminal.say(document(found), as_json, lambda: terminal.shown(table(found)))
    if report is not None:
        terminal.note(f"report: {report}; curves: tensorboard --logdir {logdir}")


def _calibration(run: Recorded, file: Path | None, fit: tuple[Path, ...]) -> Calibration | None:
    if file is not None and fit:
        raise UsageError("--calibration and --fit both say how the twin is calibrated; leave one out")
    if file is not None:
        return load_calibration(file, run.cluster.pipeline)
    return calibrated(fit, run) if fit else None
