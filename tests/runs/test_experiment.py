"""Runs of two experiments never share a folder."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from loki_rl.runs.experiment import FILE, differences, experiment_folder
from loki_rl.runs.options import RunOptions

OPTIONS = RunOptions("traffic")


def test_what_differs_in_policy_trace_seed_and_driver_belongs_together(tmp_path: Path) -> None:
    assert experiment_folder(OPTIONS, tmp_path) == tmp_path
    other = replace(OPTIONS, policy="loki", trace="diurnal", seed=7, driver="emulated")
    assert experiment_folder(other, tmp_path) == tmp_path
    assert differences(other, tmp_path) == ""


def test_another_experiment_gets_a_folder_of_its_own_and_finds_it_again(tmp_path: Path) -> None:
    experiment_folder(OPTIONS, tmp_path)
    fast, slow = replace(OPTIONS, rate_scale=10.0), replace(OPTIONS, rate_scale=0.5)
    assert experiment_folder(fast, tmp_path) == tmp_path / "traffic-2"
    assert experiment_folder(slow, tmp_path) == tmp_path / "traffic-3"
    assert experiment_folder(fast, tmp_path) == tmp_path / "traffic-2"
    assert experiment_folder(OPTIONS, tmp_path) == tmp_path
    assert differences(fast, tmp_path) == "rate_scale none there, 10.0 here"


def test_a_mark_that_cannot_be_read_is_written_anew(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("{")
    assert experiment_folder(OPTIONS, tmp_path) == tmp_path
    assert experiment_folder(replace(OPTIONS, slo_ms=100.0), tmp_path) == tmp_path / "traffic-2"
