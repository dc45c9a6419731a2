"""The demo's rates stay inside what was measured, and its verdict says what the table says."""

from __future__ import annotations

from pathlib import Path

import pytest

from loki_rl.cli.demo import rates, verdict
from loki_rl.files.profile_file import Capacity
from loki_rl.runs.options import RunOptions
from loki_rl.runs.run import run_twin


def test_the_peak_is_the_published_multiple_where_the_fastest_models_can_serve_it() -> None:
    assert rates(Capacity(2, 20.0, 100.0)) == (12.0, 4.7)


def test_a_lower_peak_stays_below_what_the_fastest_models_can_serve() -> None:
    base, peak = rates(Capacity(2, 20.0, 40.0))
    assert base * peak == pytest.approx(36.0)


def test_the_verdict_names_what_was_missed_and_what_accuracy_it_cost(tmp_path: Path) -> None:
    trace = tmp_path / "short.csv"
    trace.write_text("t_seconds,requests\n0,100\n1,400\n")
    runs = [run_twin(RunOptions("traffic", str(trace), policy, interval_s=1.0)) for policy in ("hardware", "exact")]
    (line,) = verdict(runs)
    missed, planned = runs[0].summary.slo_violation_ratio, runs[1].summary
    assert line.startswith(f"twin: 'hardware' missed {missed:.1%} of the deadlines, 'exact' ")
    assert f"{planned.slo_violation_ratio:.1%} at accuracy" in line
    assert line.endswith(f"at accuracy {planned.accuracy:.1%} (best models: {runs[0].best_accuracy:.1%}).")
