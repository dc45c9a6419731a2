"""The command that fits a calibration to recordings: calibrate."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

from loki_rl.calibration.fit import calibrate as fit
from loki_rl.calibration.fit import read_recordings
from loki_rl.cli import terminal
from loki_rl.cli.flags import Json
from loki_rl.files.calibration_file import LEVELS, Calibration
from loki_rl.files.user_folders import writable
from loki_rl.options import Help
from loki_rl.runs.recorded.recording import RECORDING

SHOWN = (0.5, 0.95, 1.0)


def calibrate(
    recordings: Annotated[
        list[Path], Help("Recordings of planes of one pipeline on this host, or run folders with one in them.", "recording")
    ],
    out: Annotated[Path, Help("File to write, for --calibration of simulate and compare.")],
    as_json: Json = False,
) -> None:
    """Fit what the twin should take for batches, loads, messages, timers and plans to recorded runs."""
    writable(out.parent)
    files = [path / RECORDING if path.is_dir() else path for path in recordings]
    found = fit(read_recordings(files), shlex.join(["loki-rl", *sys.argv[1:]]))
    found.save(out)
    terminal.say({"file": str(out), **_row(found)}, as_json, lambda: _show(found, out))


def _row(found: Calibration) -> dict[str, Any]:
    """What matters of it, medians and tails in place of whole distributions."""
    return {
        "pipeline": found.pipeline,
        "batches": sum(one.batches for one in found.recordings),
        "service_ratio": {f"{row.task}/{row.variant}": _points(row.ratio) for row in found.services if row.variant},
        "loads_s": {f"{row.task}/{row.variant}": _points(row.quantiles) for row in found.loads if row.variant},
        "delays_ms": {row.kind: _points(row.seconds, 1000) for row in found.delays},
        "plans_ms": {row.policy or "all": _points(row.seconds, 1000) for row in found.plans},
        "speeds": list(found.contention.speeds),
        "common_share": found.mood.share,
        "common_memory_s": found.mood.memory_s,
    }


def _points(quantiles: tuple[float, ...], unit: float = 1.0) -> list[float]:
    return [round(unit * quantiles[LEVELS.index(level)], 4) for level in SHOWN]


def _show(found: Calibration, out: Path) -> None:
    row = _row(found)
    recordings = "a recording" if len(found.recordings) == 1 else f"{len(found.recordings)} recordings"
    terminal.line(f"{out}: {found.pipeline}, {row['batches']} batches of {recordings}, {found.host}")
    table = terminal.new_table("median, 95th percentile and largest", "what", *(f"{100 * level:g} %>" for level in SHOWN))
    named = {"service, of the profiled time": "service_ratio", "load, s": "loads_s", "delay, ms": "delays_ms"}
    for what, key in {**named, "plan, ms": "plans_ms"}.items():
        for name, points in row[key].items():
            table.add_row(f"{what}: {name}", *(f"{point:.3g}" for point in points))
    terminal.shown(table)
    speeds = ", ".join(f"{speed:.2f}" for speed in dict.fromkeys(row["speeds"]))
    terminal.line(f"speed of each beside others: {speeds}; in common at a time: {100 * found.mood.share:.0f} %")
