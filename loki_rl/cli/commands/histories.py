"""Commands about what demand was like: history fit and history show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np

from loki_rl.cli import terminal
from loki_rl.cli.flags import Json
from loki_rl.control.demand.history import BORDERS, History
from loki_rl.control.demand.history_file import read_history, write_history
from loki_rl.control.demand.seasonality import CYCLES, Habit
from loki_rl.options import Help, Seed
from loki_rl.runs.histories import fit_history
from loki_rl.traces.trace import TraceOptions

DAY_S = 86_400.0
HEIGHTS = (1.5, 2.0, 3.0, 5.0, 10.0, 20.0)


def history_fit(
    traces: Annotated[list[str], Help("Trace files, or names of some that ship, one after the other.", "trace")],
    options: TraceOptions,
    out: Annotated[Path, Help("File to write, for --history of simulate and serve.")],
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Make a history of traces, as they would be replayed. A trace without dates begins on a Monday at 0:00."""
    found = fit_history(traces, options, seed)
    write_history(out, found)
    _say(found, as_json)


def history_show(
    file: Annotated[Path, Help("File of a history.", "file")],
    as_json: Json = False,
) -> None:
    """What is believed because of a history."""
    _say(read_history(file), as_json)


def _say(found: History, as_json: bool) -> None:
    days = found.seconds / DAY_S
    row: dict[str, Any] = {
        "seconds": found.seconds,
        "stay_s": found.stay_s,
        "jumps_per_day": {f"{height:g}": _jumps(found, height) / days if days else 0.0 for height in HEIGHTS},
        "calendar": {cycle.name: _slots(habit) for cycle, habit in zip(CYCLES, found.habits, strict=True)},
    }
    terminal.say(row, as_json, lambda: _show(row, found))


def _jumps(found: History, height: float) -> float:
    """At this height or above it, as if those of a bin were spread evenly."""
    logs = np.log(BORDERS)
    share = np.clip((logs[1:] - np.log(height)) / np.diff(logs), 0.0, 1.0)
    return float(share @ found.jumps)


def _slots(habit: Habit) -> list[float] | None:
    factors = habit.factors()
    return None if factors is None else [round(float(one), 4) for one in factors]


def _show(row: dict[str, Any], found: History) -> None:
    terminal.pairs({"seen [h]": row["seconds"] / 3600, "demand stays where it is for [s]": row["stay_s"]})
    heights = terminal.new_table("jumps", "times the mean or more>", "a day>")
    for height, rate in row["jumps_per_day"].items():
        heights.add_row(height, f"{rate:.3g}")
    terminal.shown(heights)
    calendar = terminal.new_table("calendar", "cycle", "periods seen>", "demand by slot, times the mean")
    for (name, factors), habit in zip(row["calendar"].items(), found.habits, strict=True):
        calendar.add_row(name, f"{min(habit.weights):.3g}", "nothing shown" if factors is None else _short(factors))
    terminal.shown(calendar)


def _short(factors: list[float]) -> str:
    """Slots that are alike together."""
    runs: list[tuple[int, int, float]] = []
    for slot, factor in enumerate(factors):
        if runs and abs(factor - runs[-1][2]) < 0.05 * runs[-1][2]:
            runs[-1] = (runs[-1][0], slot, runs[-1][2])
        else:
            runs.append((slot, slot, factor))
    return ", ".join(f"{first if first == last else f'{first}-{last}'}: {factor:.2f}" for first, last, factor in runs)
