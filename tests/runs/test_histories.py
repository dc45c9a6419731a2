"""A history in the event twin: habits of the clock are prepared for, and what is known of crowds decides about room."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from loki_rl.control.demand.history import History
from loki_rl.control.demand.history_file import HistoryError, write_history
from loki_rl.runs.histories import fit_history
from loki_rl.runs.options import RunOptions
from loki_rl.runs.run import prepare, run_twin
from loki_rl.traces.trace import Trace, TraceOptions, save_trace

HOUR_S, HOURS = 3600, 8
BUSY_S, BASE_RPS = 120, 45.0


@pytest.fixture(scope="module")
def hourly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine hours, three times as busy in the first two minutes of each."""
    seconds = np.arange(HOUR_S * HOURS + 300)
    rates = np.where(seconds % HOUR_S < BUSY_S, 3 * BASE_RPS, BASE_RPS)
    path = tmp_path_factory.mktemp("hourly") / "hourly.csv"
    save_trace(Trace("hourly", seconds.astype(np.float64), np.random.default_rng(6).poisson(rates), 1.0), path)
    return path


@pytest.fixture(scope="module")
def window(small: Path, hourly: Path) -> RunOptions:
    """About the ninth full hour, which no history here has seen."""
    start = HOUR_S * HOURS - 80.0
    return RunOptions(str(small), str(hourly), "exact", servers=4, load_s=5.0, from_s=start, to_s=start + 140)


def kept(found: History, folder: Path) -> str:
    path = folder / "history.json"
    write_history(path, found)
    return str(path)


def room(options: RunOptions) -> float:
    """Demand that plans have servers for, in the mean after the first seconds [1/s]."""
    plans = [one.plan for one in run_twin(options).tally.plans if one.time > 15]
    return float(np.mean([max(plan.standby_rps, plan.capacity_rps) for plan in plans]))


def test_the_full_hour_is_loaded_for_beforehand(window: RunOptions, hourly: Path, tmp_path: Path) -> None:
    history = fit_history([str(hourly)], TraceOptions(to_s=float(HOUR_S * HOURS)), 0)
    without, knowing = run_twin(window), run_twin(replace(window, history=kept(history, tmp_path)))
    rooms = {round(one.time - 80): max(one.plan.standby_rps, one.plan.capacity_rps) for one in knowing.tally.plans}
    assert max(rooms[second] for second in range(-60, -12)) < 2 * BASE_RPS
    assert rooms[-2] > 2.2 * BASE_RPS
    assert knowing.summary.slo_violation_ratio < 0.002
    assert (knowing.summary.accuracy or 0.0) > (without.summary.accuracy or 0.0) + 0.1
    assert (knowing.summary.cost_j or 0.0) < 0.6 * (without.summary.cost_j or 0.0)


def test_crowds_of_the_past_raise_room_and_calm_days_lower_it(window: RunOptions, tmp_path: Path) -> None:
    """In the calm before the full hour."""
    rng, seconds = np.random.default_rng(7), np.arange(20_000)
    calm, crowded = History(), History()
    calm.extend(rng.poisson(np.full(len(seconds), BASE_RPS)).tolist(), 0)
    crowded.extend(rng.poisson(np.where(seconds % 700 < 20, 3 * BASE_RPS, BASE_RPS)).tolist(), 0)
    quiet = replace(window, to_s=HOUR_S * HOURS - 45.0)
    assert room(replace(quiet, history=kept(calm, tmp_path))) < room(quiet) / 1.5
    seen = replace(quiet, caution=0.0)
    assert room(replace(seen, history=kept(crowded, tmp_path))) > 1.5 * room(seen)


def test_the_same_history_gives_the_same_run(window: RunOptions, tmp_path: Path) -> None:
    history = History()
    history.extend(np.random.default_rng(8).poisson(BASE_RPS, 4000).tolist(), 0)
    options = replace(window, to_s=HOUR_S * HOURS - 50.0, history=kept(history, tmp_path))
    assert run_twin(options).tally.seconds == run_twin(options).tally.seconds


def test_traces_follow_one_another(hourly: Path, crowd: Path) -> None:
    two = fit_history([str(hourly), str(crowd)], TraceOptions(), 0)
    one = fit_history([str(hourly)], TraceOptions(), 0)
    assert two.until_s == 4
    assert one.seconds <= two.seconds <= one.seconds + 60


def test_a_trace_that_is_played_faster_has_shorter_weeks(window: RunOptions) -> None:
    assert prepare(window).policy.clock_s == window.from_s
    assert prepare(replace(window, compress=4.0)).policy.clock_s == (window.from_s or 0.0) / 4


def test_a_history_that_is_not_there_is_no_history(window: RunOptions, tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="there is no history"):
        prepare(replace(window, policy="loki", history=str(tmp_path / "absent.json")))
